"""The mixtures of a swarm: Dirichlet draws around a prior, or an even cover of the simplex."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincinv
from scipy.stats import qmc

from tandem_pl.checks import check_choice, check_positive, check_share
from tandem_pl.errors import InputError
from tandem_pl.simplex import Array, sum_to_one

SAMPLINGS = ("dirichlet", "sobol")
STRENGTHS = 15  # between the least and the largest
TRIES = 300  # draws for each mixture, before giving up


def draw_mixtures(
    prior: ArrayLike,
    count: int,
    sampling: str = "dirichlet",
    strength: tuple[float, float] = (0.1, 5.0),
    temperature: float = 2.0,
    largest: float | None = 15.0,
    least: float = 2e-4,
    seed: int = 0,
) -> Array:
    """Return different mixtures [count, M]; those of a smaller count are the first of a larger.

    "dirichlet" is RegMix's swarm (arXiv 2407.01492, and its code): Dirichlet(s p^(1/temperature)),
    normalised, with s one of 15 strengths, evenly spaced in their logarithms. "sobol" covers the
    whole simplex evenly, whatever the prior is.

    Args:
        prior: [M] shares p; a domain without a share never gets one.
        count: mixtures.
        sampling: "dirichlet" or "sobol".
        strength: least and largest s; small ones give mixtures of few domains.
        temperature: above 1, centres the draws nearer to equal shares than the prior is.
        largest: a mixture with a share above `largest` times the prior's is not taken; None takes
            all.
        least: smaller shares are set to 0, and the others rounded to multiples of it.
        seed: of the draws.

    Raises:
        InputError: a setting cannot be used, or there are too few such mixtures.

    >>> draw_mixtures([0.7, 0.2, 0.1], 2).shape
    (2, 3)
    """
    check_choice("sampling", sampling, SAMPLINGS)
    check_positive("temperature", temperature)
    check_share("least", least)
    if len(strength) != 2 or not 0 < strength[0] <= strength[1]:
        raise InputError(f"strength={list(strength)} must be two numbers, 0 < least <= largest.")
    centre = _normalised(np.asarray(prior, np.float64))
    if largest is not None and not largest > 1:
        raise InputError(f"largest={largest} must be above 1, or null for no limit.")
    caps = np.ones(len(centre)) if largest is None else np.minimum(largest * centre, 1.0)
    used = centre > 0
    if used.sum() < 2:
        raise InputError("a swarm needs a prior with two or more domains.")
    if sampling == "sobol":
        draws = _sobol(int(used.sum()), seed)
    else:
        draws = _dirichlet(_normalised(centre[used] ** (1 / temperature)), strength, seed)
    found: dict[bytes, Array] = {}
    for _ in range(TRIES * count):
        if len(found) == count:
            break
        shares = np.zeros(len(centre))
        shares[used] = next(draws)
        if (shares > caps).any() or shares.max() < least:
            continue
        shares = _normalised(np.where(shares < least, 0.0, shares))
        if least:
            shares = _normalised(np.round(shares / least))
        found.setdefault(np.round(shares, 9).tobytes(), shares)
    else:
        raise InputError(
            f"only {len(found)} of {count} mixtures were found that differ and have no share above "
            f"{largest} times the prior's: raise largest, lower least, or ask for fewer proxies."
        )
    return np.array(list(found.values()))


def _normalised(shares: Array) -> Array:
    return sum_to_one(shares / shares.sum())


def _dirichlet(centre: Array, strength: tuple[float, float], seed: int) -> Iterator[Array]:
    strengths = np.geomspace(*strength, STRENGTHS)
    generator = np.random.default_rng(seed)
    while True:
        shares = generator.dirichlet(centre * generator.choice(strengths))
        if np.isfinite(shares).all():  # tiny parameters can give 0 / 0
            yield shares


def _sobol(domains: int, seed: int) -> Iterator[Array]:
    """Yield points of the simplex: a domain's share of what is left is Beta(1, domains after it).

    That map from the cube keeps neighbours together, and gives the uniform distribution.
    """
    points = qmc.Sobol(domains - 1, rng=seed)
    after = np.arange(domains - 1, 0, -1)
    while True:
        for cut in betaincinv(1.0, after, points.random(64)):
            left = np.concatenate([[1.0], np.cumprod(1 - cut)])
            yield left * np.append(cut, 1.0)
