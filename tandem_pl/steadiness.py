"""Whether learned weights are significant and settled, during a run and after it."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .run_files import Signal
from .simplex import Array

LEAST_UPDATES = 8  # for an interval
ERROR = 0.05  # chance of a domain that is wrongly called significant, of all domains together
SCALE_UPDATES = 15  # over which the scale of hyper-gradients is taken
LEAST_JUDGED = 16  # rows in the last half, to compare its quarters
MOVED = 0.02  # largest share of the data that moves between the quarters of a settled run
NOISY = 0.05  # largest share of the data by which the weights of a settled run fluctuate
SHARE_OF_WAY = 0.1  # largest `moved` over the way from the start, to stop a run
SUSTAINED = 1 / 3  # of the updates, for which this holds before a run is stopped
TOO_SHORT = "too short to judge"


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


class Steadiness(NamedTuple):
    """What is known of a run's weights so far.

    `distance` is the share of the data by which the average differs from the start. `significant`
    [M] says which domains moved beyond chance, see `significant_moves`, and is all False while the
    run is too short to judge; None for methods without hyper-gradients, or too few updates.
    """

    stability: Stability
    distance: float
    significant: NDArray[np.bool_] | None

    @property
    def judged(self) -> bool:
        """Whether there were enough updates for a verdict."""
        return self.stability.verdict in ("settled", "drifting", "noisy")

    @property
    def stays(self) -> bool:
        """Whether the average stays, as a run to be stopped needs; see `update_settled_since`.

        Two quarters differ by at most 2 % of the data and a tenth of the way from the start, so
        that weights that have not moved, or that move slowly and steadily, do not count.
        """
        return (
            self.judged
            and self.distance >= MOVED
            and self.stability.moved <= min(MOVED, SHARE_OF_WAY * self.distance)
        )

    def __str__(self) -> str:
        if self.significant is None or not self.judged:
            return self.stability.verdict
        count = f"{int(self.significant.sum())} of {len(self.significant)} significant"
        return f"{self.stability.verdict}, {count}"


def judge(weights: Array, average: Array, signal: Signal | None) -> Steadiness:
    """Judge the weights that a method has learned so far.

    Args:
        weights: [T, M] the trajectory.
        average: [M] the result of the run.
        signal: what was measured; significance needs a column "delta".
    """
    found, significant = stability(weights), None
    if signal is not None and "delta" in signal.columns and len(signal.steps) >= LEAST_UPDATES:
        significant = significant_moves(signal) & (found.verdict != TOO_SHORT)
    distance = 0.5 * float(np.abs(average - weights[0]).sum())
    return Steadiness(found, distance, significant)


def is_judged(updates: int) -> bool:
    """Return whether a run is judged after this update: each of the first 64, then 32 per doubling.

    So judging all T updates of a run costs O(T log T), and a resumed run is judged after the same
    updates.

    >>> [updates for updates in range(1, 600) if is_judged(updates)][62:68]
    [63, 64, 66, 68, 70, 72]
    """
    return updates > 0 and updates % max(1, 2 ** (updates.bit_length() - 6)) == 0


def update_settled_since(since: int | None, updates: int, steadiness: Steadiness) -> int | None:
    """Return the update since which the average stays, None if it does not."""
    if not steadiness.stays:
        return None
    return updates if since is None else since


def is_settled(since: int | None, updates: int) -> bool:
    """Return whether the average has stayed for a third of the updates.

    On simulated random walks, of any step size, 5 % of the runs of 2 domains meet this by chance
    within 600 updates, and none with 3 or more domains.
    """
    return since is not None and updates - since >= SUSTAINED * updates


def centred(signal: Signal) -> Array:
    """Return delta minus its mean over the domains [T, M]; a common shift moves no weight."""
    delta = signal.values[:, signal.columns.index("delta")]
    return delta - delta.mean(axis=1, keepdims=True)


def evenly_scaled(deltas: Array) -> Array:
    """Return hyper-gradients [T, M], weighed so that all updates are of one scale.

    An update weighs by the inverse of the root mean square of the hyper-gradients of all domains
    over `SCALE_UPDATES` updates around it; the mean of the weights is 1. Without this the first
    updates would decide alone: hyper-gradients and their noise fall with the network's learning
    rate, by a factor of 16 in the quickstart.

    >>> falling = np.repeat([[1.0, -1.0], [0.01, -0.01]], 40, axis=0)
    >>> evenly_scaled(falling)[[0, 79]].round(3).tolist()
    [[0.024, -0.024], [0.024, -0.024]]
    """
    ones = np.ones(min(SCALE_UPDATES, len(deltas)))
    around = np.convolve(np.ones(len(deltas)), ones, "same")
    scales = np.sqrt(np.convolve((deltas**2).mean(axis=1), ones, "same") / around)[:, None]
    weights = np.divide(1.0, scales, out=np.zeros_like(scales), where=scales > 0)
    return deltas * (weights / (weights.mean() or 1.0))  # all hyper-gradients may be 0


def mean_gradients(signal: Signal) -> list[Interval]:
    """Return the mean of each domain's centred hyper-gradients over the run, in nats.

    Updates weigh as in `evenly_scaled`. The half width of the 95 % interval is 1.96 times the root
    of the sum of squares, which holds if the noise of the updates is independent; NaN for fewer
    than 8 updates.

    Args:
        signal: with a column "delta".
    """
    weighed = evenly_scaled(centred(signal))
    means = weighed.mean(axis=0)
    halves = 1.96 * np.sqrt((weighed**2).sum(axis=0)) / len(weighed)
    if len(weighed) < LEAST_UPDATES:
        halves[:] = math.nan
    return [Interval(*pair) for pair in zip(means.tolist(), halves.tolist(), strict=True)]


def significant_moves(signal: Signal) -> NDArray[np.bool_]:
    """Return for which domains [M] the mean hyper-gradient differs from 0 beyond chance.

    The 95 % hold for all domains together, by Holm's method: the k-th largest mean, in units of its
    standard error, must be beyond chance at a level of 5 % / (M + 1 - k), and so must those before.
    A domain's own 95 % interval would be without 0 by chance in one of 20 domains.

    Args:
        signal: with a column "delta".

    >>> values = np.resize([0.1, -0.1], 40)[:, None] + np.array([1.0, -0.5, -0.5])
    >>> significant_moves(Signal("s", ("delta",), range(40), values[:, None])).tolist()
    [True, True, True]
    """
    means, halves = np.array(mean_gradients(signal)).T
    sizes = np.divide(np.abs(means), halves, out=np.zeros_like(means), where=halves > 0)
    order = np.argsort(-sizes)
    tests = range(len(means), 0, -1)  # domains that are still to be tested
    limits = [NormalDist().inv_cdf(1 - ERROR / (2 * count)) for count in tests]
    found = np.empty(len(means), bool)
    found[order] = np.logical_and.accumulate(1.96 * sizes[order] > limits)
    return found


def stability(weights: Array, learned: bool = True) -> Stability:
    """Compare the third and the fourth quarter of a trajectory [T, M].

    Drifting if the quarters' means differ by more than 2 % of the data and by more than the
    weights fluctuate within a quarter; else noisy if they differ by more than 2 % or fluctuate by
    more than 5 %; else settled.
    """
    third, fourth = last_quarters(weights)
    moved = 0.5 * float(np.abs(fourth.mean(axis=0) - third.mean(axis=0)).sum())
    fluctuation = 0.5 * float(np.sqrt((third.var(axis=0) + fourth.var(axis=0)) / 2).sum())
    if not learned:
        verdict = "given"
    elif len(third) + len(fourth) < LEAST_JUDGED:
        verdict = TOO_SHORT
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
