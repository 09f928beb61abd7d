"""The critical mixture ratio (CMR, arXiv 2407.17467).

It is the largest share of a new domain with which the general loss rises by at most ε over the
checkpoint's. At T tokens the losses are power laws of the share, L(R) = α R^s + β, and the critical
ratio is one of the tokens, R(T) = α T^s + β. Where that is not known, the general loss of each
share is extrapolated by two powers of the tokens, the paper's law of its rise and fall.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from tandem_pl.errors import InputError
from tandem_pl.simplex import Array

from .power import LEAST, PowerLaw, fit_power
from .table import SAME, Continued
from .two_powers import LEAST as LEAST_LENGTHS
from .two_powers import TwoPowers, fit_two_powers

COARSE = 0.2  # of epsilon: residuals above it leave the critical ratio open
APART = 0.05  # difference of two critical ratios that is worth a warning
FAR = 3.0  # times the longest run, beyond which a critical ratio is a guess


@dataclass(frozen=True, eq=False)
class CriticalRatios:
    """The critical ratios of one size of network.

    Attributes:
        epsilon: the rise of the general loss that is allowed.
        start: general loss of the checkpoint.
        tokens: [T] lengths that at least four shares were measured at.
        laws: [T] general loss of the share at each of them.
        ratios: [T] critical ratios there; 0 if every share of the domain costs more than ε, and 1
            if none does.
        shares: the least and the largest share measured.
        domain_laws: [T] the domain's loss of the share, if it was measured.
        general_laws: share -> general loss of the tokens, of shares with at least six lengths.
    """

    epsilon: float
    start: float
    tokens: Array
    laws: Sequence[PowerLaw]
    ratios: Array
    shares: tuple[float, float]
    domain_laws: Sequence[PowerLaw] = ()
    general_laws: Mapping[float, TwoPowers] = field(default_factory=dict)

    @cached_property
    def over_tokens(self) -> PowerLaw | None:
        """R(T), if there are at least four lengths with a critical ratio between 0 and 1."""
        inside = (self.ratios > 0) & (self.ratios < 1)
        if inside.sum() < LEAST:
            return None
        return fit_power(self.tokens[inside], self.ratios[inside])

    def measured(self, tokens: float) -> int | None:
        """Return the number of the length that is equal to `tokens`, or None."""
        near = np.isclose(self.tokens, tokens, rtol=SAME)
        return int(near.argmax()) if near.any() else None

    def extrapolated(self, tokens: float) -> float | None:
        """Return the critical ratio of the extrapolated general losses of at least four shares."""
        if len(self.general_laws) < LEAST:
            return None
        losses = [float(law.predict(tokens)) for law in self.general_laws.values()]
        return _ratio(fit_power(list(self.general_laws), losses), self.start + self.epsilon)

    def at(self, tokens: float | None = None) -> float:
        """Return the critical ratio at some tokens; None for the longest runs.

        Raises:
            InputError: nothing was measured there, and no law of the tokens is known.
        """
        place = len(self.tokens) - 1 if tokens is None else self.measured(tokens)
        if place is not None:
            return float(self.ratios[place])
        assert tokens is not None
        if self.over_tokens is not None:
            return float(np.clip(self.over_tokens.predict(tokens), 0.0, 1.0))
        ratio = self.extrapolated(tokens)
        if ratio is None:
            there = ", ".join(f"{one:g}" for one in self.tokens)
            raise InputError(
                f"--tokens {tokens:g} was not measured, and a law of the tokens needs {LEAST} "
                f"lengths with a critical ratio between 0 and 1, or {LEAST} shares with "
                f"{LEAST_LENGTHS} lengths: use one of {there}, or add checkpoints."
            )
        return ratio

    def doubts(self, tokens: float | None = None) -> list[str]:
        """Return why the critical ratio there is not to be trusted, one sentence each."""
        ratio, found = self.at(tokens), []
        longest = self.tokens[-1]
        if tokens is not None and tokens > FAR * longest:
            found.append(f"{tokens:g} tokens are {tokens / longest:.1f} times the longest runs'.")
        if ratio == 0:
            found.append(
                f"the general loss rises by more than {self.epsilon:g} with any share of the "
                "domain: allow more by --epsilon, or train longer."
            )
        elif ratio == 1:
            found.append(
                f"the general loss rises by less than {self.epsilon:g} even on the domain alone."
            )
        elif not self.shares[0] <= ratio <= self.shares[1]:
            found.append(
                f"{ratio:.3f} lies outside the shares measured, {self.shares[0]:g} to "
                f"{self.shares[1]:g}: add a run near it."
            )
        place = len(self.tokens) - 1 if tokens is None else self.measured(tokens)
        other = None if tokens is None or place is not None else self.extrapolated(tokens)
        if other is not None and abs(other - ratio) > APART:
            found.append(
                f"the general losses, extrapolated by two powers of the tokens, give {other:.3f} "
                f"in place of {ratio:.3f}: add longer runs."
            )
        if place is not None and self.laws[place].error > COARSE * abs(self.epsilon):
            found.append(
                f"the power law misses the general losses by {self.laws[place].error:.2g}, much "
                f"beside {self.epsilon:g}: leave out shares far from {ratio:.2f}, or use `dcpt`."
            )
        return found


def critical_ratios(
    runs: Continued, epsilon: float = 0.05, size: float | None = None, start: float | None = None
) -> CriticalRatios:
    """Return the critical ratios at all lengths that at least four shares were measured at.

    Args:
        runs: from `read_continued`.
        epsilon: how much the general loss may rise, 0.05 in the paper.
        size: of the networks, if the runs have several.
        start: general loss of the checkpoint; None to take it from the table.

    Raises:
        InputError: no such size, no general or start loss, or too few shares at every length.
    """
    if not np.isfinite(epsilon):
        raise InputError(f"epsilon={epsilon} must be a number, such as 0.05.")
    own = runs.of_size(size)
    general, positive = own.losses("general"), own.share > 0
    first = own.start_loss(size if own.size is None else float(own.size[0]), start)
    tokens: list[float] = []
    laws, ratios, others = [], [], []
    for one in np.unique(own.tokens).tolist():
        here = positive & np.isclose(own.tokens, one, rtol=SAME)
        if len(np.unique(own.share[here])) < LEAST or (tokens and one / tokens[-1] - 1 < SAME):
            continue
        tokens.append(one)
        laws.append(fit_power(own.share[here], general[here]))
        ratios.append(_ratio(laws[-1], first + epsilon))
        if own.domain is not None:
            others.append(fit_power(own.share[here], own.domain[here]))
    if not tokens:
        most = max(len(np.unique(own.share[positive & (own.tokens == t)])) for t in own.tokens)
        raise InputError(
            f"the CMR law needs at least {LEAST} shares above 0 at one number of tokens, and the "
            f"table has {most}: add runs, or give their losses at the same tokens."
        )
    shares = float(own.share[positive].min()), float(own.share[positive].max())
    over_tokens = {}
    for share in np.unique(own.share[positive]).tolist():
        here = own.share == share
        if len(np.unique(own.tokens[here])) >= LEAST_LENGTHS:
            over_tokens[share] = fit_two_powers(own.tokens[here], general[here])
    return CriticalRatios(
        epsilon, first, np.array(tokens), laws, np.array(ratios), shares, others, over_tokens
    )


def _ratio(law: PowerLaw, most: float) -> float:
    """Return the largest share up to 1 whose loss is at most `most`, or 0."""
    if law.predict(1.0) <= most:
        return 1.0
    crossing = law.solve(most)
    return 0.0 if crossing is None or law.slope <= 0 else min(crossing, 1.0)
