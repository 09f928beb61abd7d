"""What repeated data is worth, for laws that were fitted on data seen once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tandem_pl.checks import check_positive
from tandem_pl.domain_names import check_domains
from tandem_pl.simplex import Array

DECAY = 15.387756  # R*_D of arXiv 2305.16264: the 16th repeat is worth 1/e of a first pass


@dataclass(frozen=True)
class Repetition:
    """How often the final run repeats each domain, and what a repeat is worth.

    A domain of N tokens, p of a run of R tokens, is seen e = p R / N times. If e > 1, it is worth
    N (1 + R* (1 - exp(-(e - 1) / R*))) tokens seen once (arXiv 2305.16264, equation 5; the decay
    of utility in arXiv 2404.07177 is the same with R* = half-life / ln 2). The law takes the rest
    of its tokens as ones of the domain that helps the metric least: so the law needs no other form,
    and a further pass competes with every other domain.

    Args:
        tokens_per_domain: domain -> N, in the units of `tokens`.
        tokens: R of the final run.
        proxy_tokens: R of the runs in the table, which trained on the same data; None if they
            repeated nothing.
        decay: R*, repeats until one is worth 1/e; larger if the data can be repeated more often.

    >>> repeated = Repetition({"books": 1e9, "web": 1e12}, tokens=1e10)
    >>> repeated.worth(np.array([[0.1, 0.9], [0.5, 0.5]]), ("books", "web")).round(3)
    array([[0.1  , 0.9  ],
           [0.452, 0.5  ]])
    """

    tokens_per_domain: Mapping[str, float]
    tokens: float
    proxy_tokens: float | None = None
    decay: float = DECAY

    def __post_init__(self) -> None:
        check_positive("tokens", self.tokens)
        check_positive("decay", self.decay)
        if self.proxy_tokens is not None:
            check_positive("proxy_tokens", self.proxy_tokens)
        for name, tokens in self.tokens_per_domain.items():
            check_positive(f"tokens_per_domain[{name!r}]", tokens)

    def worth(self, weights: Array, domains: tuple[str, ...], proxy: bool = False) -> Array:
        """Return [N, M] tokens in units of the run, at their worth if they were seen once."""
        once = self._seen_once(domains, proxy)
        if once is None:
            return weights
        repeats = np.maximum(weights / once - 1.0, 0.0)
        return np.where(
            repeats > 0, once * (1.0 - self.decay * np.expm1(-repeats / self.decay)), weights
        )

    def slopes(self, point: Array, domains: tuple[str, ...]) -> Array:
        """Return the [M] derivatives of `worth`: what the next token of each domain is worth."""
        once = self._seen_once(domains, False)
        assert once is not None
        return np.exp(-np.maximum(point / once - 1.0, 0.0) / self.decay)

    def shares(
        self, weights: Array, domains: tuple[str, ...], least: int, proxy: bool = False
    ) -> Array:
        """Return [N, M] shares for a law; what was lost goes to the domain number `least`."""
        worth = self.worth(weights, domains, proxy)
        lost = weights.sum(axis=1) - worth.sum(axis=1)
        worth = worth.copy()
        worth[:, least] += lost
        return worth

    def gradient(self, slopes: Array, point: Array, domains: tuple[str, ...], least: int) -> Array:
        """Return the derivatives in weights, from those in `shares`."""
        kept = self.slopes(point, domains)
        return kept * slopes + (1.0 - kept) * slopes[least]

    def _seen_once(self, domains: tuple[str, ...], proxy: bool) -> Array | None:
        tokens = self.proxy_tokens if proxy else self.tokens
        if tokens is None:
            return None
        check_domains(self.tokens_per_domain, domains, "tokens_per_domain")
        return np.array([float(self.tokens_per_domain[name]) for name in domains]) / tokens
