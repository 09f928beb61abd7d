"""Regret over several problems, with intervals, wins and losses: functions of arrays alone.

A problem is an array `losses[row, seed]` of mean test losses; rows are the same networks in all
problems, and a column has runs of the same seed. A row with a NaN has none of these statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.stats import t

Array = NDArray[np.float64]


def regrets(problems: Sequence[Array]) -> Array:
    """Return `[row, problem]`: the mean loss of a row less that of the problem's best row.

    >>> regrets([np.array([[1.0, 3.0], [1.0, 2.0]]), np.array([[1.0], [4.0]])])
    array([[0.5, 0. ],
           [0. , 3. ]])
    """
    means = [np.asarray(losses, np.float64).mean(axis=-1) for losses in problems]
    return np.stack([mean - _best(mean) for mean in means], axis=-1)


def _best(means: Array) -> Array:
    """Return the least of the last axis; NaN do not count, unless there is nothing else."""
    least = np.fmin.reduce(means, axis=-1, keepdims=True)
    return np.where(np.isfinite(least), least, np.nan)


def bootstrap_regret(
    problems: Sequence[Array],
    generator: Generator,
    resamples: int = 10_000,
    confidence: float = 0.95,
) -> Array:
    """Return `[row, 2]`: an interval of each row's regret, averaged over the problems.

    Seeds are drawn with replacement, for each problem on its own and for all of its rows together,
    and the best row is found again in each resample. The interval has the resamples' quantiles.
    """
    total = 0.0
    for losses in problems:
        losses = np.asarray(losses, np.float64)
        seeds = losses.shape[1]
        drawn = generator.integers(seeds, size=(resamples, seeds))
        means = losses[:, drawn].mean(axis=-1).T  # [resample, row]
        total = total + means - _best(means)
    tail = (1 - confidence) / 2
    return np.quantile(total / len(problems), [tail, 1 - tail], axis=0).T


class Record(NamedTuple):
    """Numbers of problems that a row wins against another one, ties and loses."""

    wins: int
    ties: int
    losses: int

    def __str__(self) -> str:
        """Write it, such as 4-2-1."""
        return "-".join(map(str, self))


def record(
    problems: Sequence[Array], row: int, other: int, confidence: float = 0.95
) -> Record | None:
    """Compare two rows by the Student t interval of their difference, seed by seed.

    A problem is won or lost if the interval is without 0, and a tie otherwise, also with one seed;
    those in which a row has a NaN do not count. None if there are no others.

    >>> str(record([np.array([[1.0, 1.1], [2.0, 2.1]]), np.array([[1.0], [2.0]])], 0, 1))
    '1-1-0'
    """
    counts = [0, 0, 0]
    for losses in problems:
        gaps = losses[row] - losses[other]
        number = len(gaps)
        if np.isnan(gaps).any():
            continue
        half = np.inf
        if number > 1:
            spread = gaps.std(ddof=1) / number**0.5
            half = t.ppf(0.5 + confidence / 2, number - 1) * spread
        counts[0 if gaps.mean() + half < 0 else 2 if gaps.mean() - half > 0 else 1] += 1
    return Record(*counts) if any(counts) else None


def relative_perplexity(problems: Sequence[Array], baseline: int) -> Array:
    """Return `[row, problem]`: exp of the mean loss over that of the baseline, less 1.

    >>> relative_perplexity([np.array([[0.0], [np.log(2)]])], 0).round(3)
    array([[0.],
           [1.]])
    """
    means = np.stack([np.asarray(losses).mean(axis=-1) for losses in problems], axis=-1)
    with np.errstate(over="ignore"):
        return np.expm1(means - means[baseline])
