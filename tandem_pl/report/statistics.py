"""Statistics of a run: intervals of its hyper-gradients, and whether its weights have settled."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from tandem_pl.run_files import Signal
from tandem_pl.simplex import Array

from .run import Run

LEAST_UPDATES = 8  # for an interval
LEAST_JUDGED = 16  # rows in the last half, to compare its quarters
MOVED = 0.02  # largest share of the data that moves between the quarters of a settled run
NOISY = 0.05  # largest share of the data by which the weights of a settled run fluctuate


class Interval(NamedTuple):
    """A mean and the half width of its 95 % confidence interval (NaN: too few numbers)."""

    mean: float
    half: float

    @property
    def distinct(self) -> bool:
        """Whether 0 is outside the interval."""
        return abs(self.mean) > self.half


class Stability(NamedTuple):
    """`verdict` is "settled", "drifting", "noisy", "given" or "too short to judge".

    `moved` is half the sum of the domains' |drift|: the share of the data that moved between the
    third and the fourth quarter. `fluctuation` is half the sum of the weights' standard deviations
    within these quarters.
    """

    verdict: str
    moved: float
    fluctuation: float


def batch_means(values: Array) -> list[Interval]:
    """Return the means of correlated series [T, M], with 95 % confidence intervals.

    The method of batch means: a series is cut into batches of about sqrt(T) numbers. Their means
    are nearly independent, so Student's t applies to them. Intervals are wide for few batches, and
    NaN for T < 8.

    >>> batch_means(np.array([[1.0], [3.0]] * 8))
    [Interval(mean=2.0, half=0.0)]
    """
    from scipy.stats import t  # takes long to import

    means = values.mean(axis=0)
    if len(values) < LEAST_UPDATES:
        return [Interval(mean, math.nan) for mean in means.tolist()]
    size = math.isqrt(len(values))
    count = len(values) // size
    batches = values[len(values) - size * count :].reshape(count, size, -1).mean(axis=1)
    halves = t.ppf(0.975, count - 1) * batches.std(axis=0, ddof=1) / math.sqrt(count)
    return [Interval(*pair) for pair in zip(means.tolist(), halves.tolist(), strict=True)]


def centred(signal: Signal) -> Array:
    """Return delta minus its mean over the domains [T, M]; a common shift moves no weight."""
    delta = signal.values[:, signal.columns.index("delta")]
    return delta - delta.mean(axis=1, keepdims=True)


def driving_means(run: Run) -> list[Interval]:
    """Return the means of the centred hyper-gradients that moved the weights to their average.

    An update weighs by its share in the average over the second half of the run: 1 in the first
    half, falling to 0 towards the end. If no weight met a bound, the change from the first weights
    to the average is exactly minus learning rate, penalty, sum of these shares and this mean,
    multiplied. The half width of the 95 % interval is 1.96 times the root of the sum of squares,
    which holds if the noise of the updates is independent; NaN for fewer than 8 updates.
    """
    assert run.signal is not None
    deltas, total, first = centred(run.signal), len(run.weights), len(run.weights) // 2
    rows = np.interp(run.signal.steps, run.steps, np.arange(total))  # between rows if thinned
    share = ((total - np.maximum(rows, first)) / (total - first))[:, None]
    means = (share * deltas).sum(axis=0) / share.sum()
    halves = 1.96 * np.sqrt(((share * deltas) ** 2).sum(axis=0)) / share.sum()
    if len(deltas) < LEAST_UPDATES:
        halves[:] = math.nan
    return [Interval(*pair) for pair in zip(means.tolist(), halves.tolist(), strict=True)]


def stability(run: Run) -> Stability:
    """Compare the third and the fourth quarter of the trajectory.

    Drifting if the quarters' means differ by more than 2 % of the data and by more than the
    weights fluctuate within a quarter; else noisy if they differ by more than 2 % or fluctuate by
    more than 5 %; else settled.
    """
    third, fourth = last_quarters(run.weights)
    moved = 0.5 * float(np.abs(fourth.mean(axis=0) - third.mean(axis=0)).sum())
    fluctuation = 0.5 * float(np.sqrt((third.var(axis=0) + fourth.var(axis=0)) / 2).sum())
    if not run.learned:
        verdict = "given"
    elif len(third) + len(fourth) < LEAST_JUDGED:
        verdict = "too short to judge"
    elif moved > MOVED and moved > fluctuation:
        verdict = "drifting"
    else:
        verdict = "noisy" if moved > MOVED or fluctuation > NOISY else "settled"
    return Stability(verdict, moved, fluctuation)


def last_quarters(weights: Array) -> tuple[Array, Array]:
    """Return the third and the fourth quarter of a trajectory [T, M]."""
    half = weights[len(weights) // 2 :]
    middle = len(half) // 2
    return half[:middle] if middle else half, half[middle:]
