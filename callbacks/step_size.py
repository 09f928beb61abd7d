"""The step size of mixture updates: a number, or found from the gradients so far."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem_pl.checks import AUTO, Auto
from tandem_pl.errors import InputError
from tandem_pl.simplex import Array

Mask = NDArray[np.bool_]  # [M]
LearningRate = float | Auto
REACH = 2.0  # c: how far weights may move, in units of 1/M
PRIOR_UPDATES = 100  # n0: keeps the first steps small, while little is known of the scale


def check_learning_rate(value: Any) -> None:
    """Raise an error unless a learning rate is "auto" or a positive number."""
    if value == AUTO:
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and math.isfinite(value) and value > 0:
        return
    raise InputError(f"learning_rate={value!r} must be 'auto' or a positive number.")


def centred(gradient: Array, measured: Mask | None = None) -> Array:
    """Return d [M]: a gradient less its mean over the measured domains; 0 for the others.

    >>> centred(np.array([1.0, 3.0, 9.0]), np.array([True, True, False])).tolist()
    [-1.0, 1.0, 0.0]
    """
    if measured is None or measured.all():
        return gradient - gradient.mean()
    if not measured.any():
        return np.zeros_like(gradient)
    return np.where(measured, gradient - gradient[measured].mean(), 0.0)


def mean_square(gradient: Array, measured: Mask | None = None) -> float:
    """Return the mean over all domains of d^2, what one update adds to S of `scale_free_rate`."""
    return float(np.square(centred(gradient, measured)).mean())


def scale_free_rate(total: float, updates: int) -> float:
    """Return c / sqrt(S (1 + n0 / t)), the rate for relative changes of weights.

    An exponentiated update takes this rate; a projected one takes it divided by M, because a
    weight of the uniform mixture is 1/M:

        alpha <- Pi_A(alpha - (c / M) d / sqrt(S (1 + n0 / t))).

    It is AdaGrad's step with one scale for all domains. The update does not depend on the unit of
    the losses, on a constant added to all gradients, on the order of the domains, or on the unit
    of the network's learning rate. c = 2 and n0 = 100 were chosen on convex problems of 2 to 1000
    domains with gradients of 0 to 8 times as much noise as signal, 40 to 400 updates.

    Args:
        total: S, sum of `mean_square` over all updates, with this one.
        updates: t, their number, at least 1.

    Returns:
        The rate; 0 if all gradients were 0 so far, when there is nothing to follow.

    Source: AdaGrad (Duchi et al., 2011), with a prior of n0 updates like those seen.

    >>> round(scale_free_rate(0.25, 100), 3), scale_free_rate(0.0, 5)
    (2.828, 0.0)
    """
    if total <= 0.0:
        return 0.0
    return REACH / math.sqrt(total * (1.0 + PRIOR_UPDATES / updates))
