"""Statistics of a finished run: intervals of its hyper-gradients, and whether it has settled."""

from __future__ import annotations

import math

from tandem_pl import steadiness
from tandem_pl.simplex import Array
from tandem_pl.steadiness import (
    LEAST_UPDATES,
    TOO_SHORT,
    Interval,
    Stability,
    significant_moves,
)

from .run import Run


def batch_means(values: Array) -> list[Interval]:
    """Return the means of correlated series [T, M], with 95 % confidence intervals.

    The method of batch means: a series is cut into batches of about sqrt(T) numbers. Their means
    are nearly independent, so Student's t applies to them. Intervals are wide for few batches, and
    NaN for T < 8.

    >>> import numpy as np
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


def stability(run: Run) -> Stability:
    """Return `steadiness.stability` of a run."""
    return steadiness.stability(run.weights, run.learned)


def significance(run: Run) -> dict[str, bool] | None:
    """Return domain -> whether its weight moved beyond chance, see `significant_moves`.

    None for a run without hyper-gradients, or that is too short to judge.
    """
    if run.signal is None or stability(run).verdict == TOO_SHORT:
        return None
    return dict(zip(run.mixture.domains, significant_moves(run.signal).tolist(), strict=True))
