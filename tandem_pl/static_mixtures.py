"""Mixtures in closed form that cap the number of epochs of every domain. NumPy float64 only."""

import math

import numpy as np
from numpy.typing import ArrayLike

from .errors import InputError
from .simplex import Array, sum_to_one


def unimax(sizes: ArrayLike, budget: float, epochs: float) -> Array:
    """Return UniMax (arXiv 2304.09151): uniform, with at most `epochs` passes over each domain.

    From the smallest domain to the largest, each gets an equal part of the remaining budget, or
    `epochs` times its size if that is less.

    Args:
        sizes: [M] samples of each domain.
        budget: samples of the whole run.
        epochs: most passes over a domain.

    Returns:
        [M] weights.

    Raises:
        InputError: a number that is not positive, or caps that cannot fill the budget.

    >>> unimax([10, 100, 1000], 300, 4).round(3).tolist()
    [0.133, 0.433, 0.433]
    """
    size = np.asarray(sizes, np.float64)
    return epoch_capped(np.full(len(size), 1.0 / max(len(size), 1)), size, budget, epochs)


def epoch_capped(weights: ArrayLike, sizes: ArrayLike, budget: float, epochs: float) -> Array:
    """Return the weights with each capped at p_m = `epochs` * size_m / budget.

    What is cut off goes to the other domains in proportion to their weights, until none is above
    its cap. Weights below all caps do not change. From uniform weights this is UniMax.

    Args:
        weights: [M] shares to start from, summing to 1.
        sizes: [M] samples of each domain.
        budget: samples of the whole run.
        epochs: most passes over a domain.

    Returns:
        [M] weights.

    Raises:
        InputError: as `unimax`; also if the domains with a weight cannot fill the budget.

    >>> epoch_capped([0.5, 0.5], [10, 1000], 100, 2).tolist()
    [0.2, 0.8]
    """
    start, size = np.asarray(weights, np.float64), np.asarray(sizes, np.float64)
    for name, value in (("epochs", epochs), ("the run's samples", budget)):
        if not (np.isfinite(value) and value > 0):
            raise InputError(f"{name}={value:g} must be a positive number.")
    available = size[start > 0].sum()
    if epochs * available < budget:
        more = ", or give weight to more domains" if (start <= 0).any() else ""
        raise InputError(
            f"{available:.0f} samples, each seen at most {epochs:g} times, cannot fill a run of "
            f"{budget:.0f}: allow at least {math.ceil(budget / available)} epochs, or train on at "
            f"most {epochs * available:.0f} samples{more}."
        )
    caps = epochs * size / budget
    capped = start <= 0
    result = start
    for _ in range(len(start)):
        left = 1.0 - caps[capped & (start > 0)].sum()
        rest = start[~capped].sum()
        share = start * (left / rest if capped.any() and rest > 0 else 1.0)
        result = np.where(capped, np.minimum(caps, start > 0), share)
        over = ~capped & (result > caps)
        if not over.any():
            break
        capped |= over
    return sum_to_one(np.where(start > 0, result, 0.0))
