"""Which mixtures are allowed: floors, caps, and at most k passes over each domain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tandem_pl.checks import check_positive
from tandem_pl.domain_names import check_domains, check_known
from tandem_pl.errors import InputError
from tandem_pl.simplex import Array

ROUNDING = 1e-12  # by which a sum of caps may miss 1
NEAR = 1e-9  # by which a solver may miss a cap that holds
BISECTIONS = 60

PerDomain = Mapping[str, float] | Sequence[float] | Array | None


class Bounds(NamedTuple):
    """The simplex between `lower` and `upper`, [M] each."""

    lower: Array
    upper: Array

    def put_inside(self, points: Array) -> Array:
        """Return [N, M] mixtures scaled and clipped into the bounds: clip(c p), with a c each.

        Ratios of the weights between the bounds stay.
        """
        points = np.maximum(points, ROUNDING)
        moved = points / points.sum(axis=1, keepdims=True)
        inside = ((moved >= self.lower) & (moved <= self.upper)).all(axis=1)
        if inside.all():
            return moved
        outside = moved[~inside]
        low = np.full((len(outside), 1), -math.log(outside.max()) - 40.0)
        high = np.full((len(outside), 1), 40.0)
        for _ in range(BISECTIONS):  # the sum grows with the factor
            middle = (low + high) / 2
            below = self._scaled(outside, middle).sum(axis=1, keepdims=True) < 1.0
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        moved[~inside] = self._scaled(outside, high)
        return moved

    def settle(self, point: Array) -> Array:
        """Return a mixture [M] within the bounds to the last bit, near one that almost is.

        Its sum is 1 to a few units in the last place.
        """
        point = np.where(point <= self.lower + ROUNDING, self.lower, point)
        point = np.where(point >= self.upper - NEAR, self.upper, point)
        free = (point > self.lower) & (point < self.upper)
        left = 1.0 - point[~free].sum()
        if free.any() and point[free].sum() > 0:
            point = np.where(free, point * (left / point[free].sum()), point)
        point = np.clip(point, self.lower, self.upper)
        for m in np.argsort(self.lower - self.upper, kind="stable"):  # the widest first
            point[m] = np.clip(point[m] + 1.0 - point.sum(), self.lower[m], self.upper[m])
        return point

    def _scaled(self, points: Array, exponent: Array) -> Array:
        return np.clip(points * np.exp(exponent), self.lower, self.upper)


def make_bounds(
    domains: Sequence[str],
    floors: PerDomain | float = None,
    caps: PerDomain = None,
    tokens_per_domain: PerDomain = None,
    tokens: float | None = None,
    repeats: float | None = None,
) -> Bounds:
    """Return the bounds of a proposal.

    Args:
        domains: [M] names.
        floors: least shares, one for all or of each domain.
        caps: largest shares; a map may leave domains out.
        tokens_per_domain: N_j, of which the final run may see each token `repeats` times.
        tokens: R, of the final run.
        repeats: k: p_j <= k N_j / R.

    Raises:
        InputError: other domains, numbers that are no shares, or bounds that no mixture meets, with
            the smallest k that would do.
    """
    size = len(domains)
    floors = [floors] * size if isinstance(floors, int | float) else floors
    lower = _read(floors, domains, "floors", 0.0)
    upper = np.minimum(_read(caps, domains, "caps", 1.0), 1.0)
    given = (tokens_per_domain is not None, tokens is not None, repeats is not None)
    if any(given) and not all(given):
        raise InputError(
            "tokens_per_domain, tokens and repeats bound the passes over each domain together: "
            "give all three, or none."
        )
    for key, values in (("floors", lower), ("caps", upper)):
        if not (np.isfinite(values).all() and (values >= 0).all()):
            raise InputError(f"{key}={values.tolist()} must be numbers between 0 and 1.")
    if lower.sum() > 1.0 + ROUNDING:
        raise InputError(f"floors sum to {lower.sum():.6g}, more than 1: lower them.")
    if tokens_per_domain is not None and tokens is not None and repeats is not None:
        check_positive("tokens", tokens)
        check_positive("repeats", repeats)
        available = _read(tokens_per_domain, domains, "tokens_per_domain", None)
        once = available / tokens
        if not (np.isfinite(once).all() and (once >= 0).all()):
            raise InputError("tokens_per_domain must be numbers of 0 or more.")
        _check_repeats(once, upper, repeats)
        upper = np.minimum(upper, repeats * available / tokens)
    elif upper.sum() < 1.0 - ROUNDING:
        factor = _smallest_factor(upper, np.ones(size))
        more = "no cap is above 0"
        if factor is not None:
            more = f"the smallest feasible k is {_round_up(factor):.4g} times yours"
        raise InputError(
            f"caps sum to {upper.sum():.6g} and must sum to at least 1: raise them ({more})."
        )
    crossed = lower > upper
    if crossed.any():
        m = int(crossed.argmax())
        raise InputError(
            f"the floor {lower[m]:.6g} of {domains[m]!r} is above its cap {upper[m]:.6g}: lower "
            "the floor, or raise the cap (or repeats)."
        )
    return Bounds(lower, upper)


def _check_repeats(once: Array, upper: Array, repeats: float) -> None:
    reachable = np.minimum(upper, repeats * once).sum()
    if reachable < 1.0 - ROUNDING:
        smallest = _smallest_factor(once, upper)
        advice = (
            f"the smallest feasible k is {_round_up(smallest):.4g}, or train on at most "
            f"{reachable:.3g} of the tokens"
            if smallest
            else "the other caps leave too little for any number of repeats"
        )
        raise InputError(
            f"repeats={repeats:g} (k) lets the domains fill {reachable:.4g} of the run: {advice}."
        )


def _smallest_factor(once: Array, upper: Array) -> float | None:
    """Return the least k with Σ min(upper, k once) >= 1, or None; solved piece by piece."""
    useful = once > 0
    if upper[useful].sum() < 1.0 - ROUNDING:
        return None
    kinks = np.sort(upper[useful] / once[useful])  # of each domain's reaching its cap
    for kink in kinks:
        if np.minimum(upper, kink * once).sum() >= 1.0 - ROUNDING:
            full = useful & (upper / np.where(useful, once, 1.0) < kink)
            return float((1.0 - upper[full].sum()) / once[useful & ~full].sum())
    return float(kinks[-1])


def _round_up(value: float) -> float:
    """Return the value with four digits, never below it, so that it works when it is typed in."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 3)
    return math.ceil(value / unit * (1 - 1e-12)) * unit


def _read(given: PerDomain, domains: Sequence[str], key: str, default: float | None) -> Array:
    if given is None:
        return np.full(len(domains), float(default or 0.0))
    if isinstance(given, Mapping):
        if default is None:
            check_domains(given, domains, key)
        check_known(given, domains, key)
        return np.array([float(given.get(name, default or 0.0)) for name in domains])
    array = np.array(given, np.float64)
    if array.shape != (len(domains),):
        raise InputError(
            f"{key} has {array.size} numbers and the runs {len(domains)} domains: give one each."
        )
    return array
