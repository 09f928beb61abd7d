"""The hyper-gradient: what twins measure of each domain."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tandem_pl.simplex import Array


class HyperGradient(NamedTuple):
    """Delta_m = mean over samples of domain m of (loss under w - loss under u), in nats; [M] each.

    `error` is its standard error, 0 for a single sample; it covers the choice of the measured
    samples, not of the probe's batches. A domain without `samples` gets the mean of the others, so
    that its weight changes with theirs.
    """

    delta: Array
    error: Array
    samples: Array


def hyper_gradient(domains: Array, proxy: Array, reference: Array, size: int) -> HyperGradient:
    """Return Delta of `size` domains, from [N] domain numbers and losses under u and under w.

    >>> import numpy as np
    >>> hyper_gradient(np.array([0, 0, 1]), np.ones(3), np.array([1.0, 2.0, 1.0]), 2).delta
    array([0.5, 0. ])
    """
    count = np.bincount(domains, minlength=size).astype(np.float64)
    gap = reference.astype(np.float64) - proxy.astype(np.float64)
    measured = count > 0
    samples = np.maximum(count, 1)
    delta = np.bincount(domains, gap, size) / samples
    square = np.bincount(domains, (gap - delta[domains]) ** 2, size)
    error = np.sqrt(square / np.maximum(count - 1, 1) / samples)
    delta[~measured] = delta[measured].mean() if measured.any() else 0.0
    return HyperGradient(delta, error, count)
