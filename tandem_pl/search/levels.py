"""Metrics of networks of several sizes, brought to one level."""

from __future__ import annotations

import numpy as np

from tandem_pl.errors import InputError
from tandem_pl.simplex import Array

LEAST_RUNS = 5  # of a size, to know its mean and spread


def at_one_size(values: Array, size: Array | None, metric: str, part: Array | None = None) -> Array:
    """Return values as the largest size would have them.

    Each size is shifted and scaled to the mean and the standard deviation of the largest. That is
    right if the sizes trained on mixtures from one distribution, and keeps the order within a size.

    Args:
        values: [N] the metric.
        size: [N] parameters, or None.
        metric: its name, for messages.
        part: [N] to be moved in place of the values as those are, so that a mean of parts stays the
            mean.

    Raises:
        InputError: a size has too few runs, or the same value in all of them.

    >>> at_one_size(np.arange(10.0), np.repeat([1.0, 9.0], 5), "loss").tolist()
    [5.0, 6.0, 7.0, 8.0, 9.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    """
    sizes = [] if size is None else np.unique(size).tolist()
    if size is None or len(sizes) == 1:
        return values if part is None else part
    for one in sizes:
        own = values[size == one]
        if len(own) < LEAST_RUNS or np.ptp(own) == 0:
            raise InputError(
                f"metric {metric!r}: size {one:g} has {len(own)} runs, which must be at least "
                f"{LEAST_RUNS} with different values to be put together with others: leave it out."
            )
    largest = values[size == sizes[-1]]
    moved = (values if part is None else part).copy()
    for one in sizes[:-1]:
        own = values[size == one]
        gap = moved[size == one] - own.mean()
        moved[size == one] = largest.mean() + gap * largest.std() / own.std()
    return moved
