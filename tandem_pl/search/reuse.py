"""Reuse of a mixture when domains change: the unchanged ones become one virtual domain.

Ratios within the unchanged domains stay those of the old mixture, so that runs need to vary only
their common share and the new domains (Olmix, arXiv 2602.12237, reports 74 % less compute).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tandem_pl.domain_names import check_domains, check_known, list_names
from tandem_pl.errors import InputError
from tandem_pl.mixture import Mixture

from .bounds import Bounds
from .runs import Runs

TOLERANCE = 0.02  # of a run's share, by which rounded tables may miss the ratios


@dataclass(frozen=True)
class FrozenDomains:
    """Domains whose ratios stay, as one domain `name`.

    Args:
        ratios: the mixture that holds them.
        name: of the virtual domain.

    >>> old = FrozenDomains(Mixture({"web": 3, "code": 1}))
    >>> old.collapse_weights({"web": 0.6, "code": 0.2, "new": 0.2})
    {'unchanged': 0.8, 'new': 0.2}
    >>> old.expand({"unchanged": 0.8, "new": 0.2})
    {'web': 0.6..., 'code': 0.2, 'new': 0.2}
    """

    ratios: Mixture
    name: str = "unchanged"

    def collapse(self, runs: Runs) -> Runs:
        """Return runs on the virtual domain and the others.

        Raises:
            InputError: a run has other ratios, or lacks one of the domains.
        """
        own = self._columns(runs.domains)
        common = runs.weights[:, own].sum(axis=1)
        gap = np.abs(runs.weights[:, own] - common[:, None] * self.ratios.array).max(axis=1)
        if (gap > TOLERANCE).any():
            row = int(gap.argmax())
            raise InputError(
                f"run {runs.names[row]} does not keep the ratios of "
                f"{list_names(self.ratios.domains)} (off by {gap[row]:.2g}): leave out such runs, "
                "or fit without reuse."
            )
        rest = [m for m in range(len(runs.domains)) if m not in own]
        if not rest or self.name in runs.domains:
            raise InputError(
                f"reuse of {list_names(self.ratios.domains)} leaves nothing to fit: the runs need "
                f"further domains, none named {self.name!r}."
            )
        return replace(
            runs,
            domains=(self.name, *(runs.domains[m] for m in rest)),
            weights=np.column_stack([common, runs.weights[:, rest]]),
        )

    def collapse_weights(self, weights: Mapping[str, float]) -> dict[str, float]:
        """Return a mixture, or tokens by domain, with the sum of the unchanged domains."""
        own = check_known(self.ratios.domains, weights, "reuse")
        rest = {name: share for name, share in weights.items() if name not in own}
        return {self.name: float(sum(weights[name] for name in own)), **rest}

    def collapse_bounds(self, bounds: Bounds, domains: Sequence[str]) -> Bounds:
        """Return bounds, each [M] of real domains, as those of the virtual domain and the others.

        The virtual domain's cap is reached, and its floor left, with that of its first domain.

        Raises:
            InputError: a floor of a domain that the old mixture leaves out.
        """
        own = self._columns(domains)
        ratios, lower, upper = self.ratios.array, bounds.lower[own], bounds.upper[own]
        if (lower[ratios == 0] > 0).any():
            raise InputError("a floor lifts a domain that reuse keeps at 0: set floors to 0.")
        ratios, lower, upper = (part[ratios > 0] for part in (ratios, lower, upper))
        rest = [m for m in range(len(domains)) if m not in own]
        least, most = (lower / ratios).max(), min(1.0, (upper / ratios).min())
        if least > most or most + bounds.upper[rest].sum() < 1.0 - 1e-12:
            raise InputError(
                f"with the ratios that reuse keeps, the unchanged domains may have {least:.4g} to "
                f"{most:.4g} of the run and the others {bounds.upper[rest].sum():.4g}: raise caps "
                "(or repeats), or lower floors."
            )
        return Bounds(np.append(least, bounds.lower[rest]), np.append(most, bounds.upper[rest]))

    def real_domains(self, domains: Sequence[str]) -> tuple[str, ...]:
        """Return the real domains, from those with the virtual one."""
        return tuple(self.expand(dict.fromkeys(domains, 1.0)))

    def expand(self, weights: Mapping[str, float]) -> dict[str, float]:
        """Return a mixture of the real domains."""
        check_domains([self.name], [name for name in weights if name == self.name], "weights")
        own = {name: weights[self.name] * share for name, share in self.ratios.weights.items()}
        return own | {name: share for name, share in weights.items() if name != self.name}

    def _columns(self, domains: Sequence[str]) -> list[int]:
        known = check_known(self.ratios.domains, domains, "reuse")
        return [list(domains).index(name) for name in known]
