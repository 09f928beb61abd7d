"""Nonlinear regression with the Huber loss, from many starts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize

from tandem_pl.simplex import Array

Curve = Callable[[Array], tuple[Array, Array]]  # parameters [P] -> values [N], Jacobian [N, P]
SCREEN, CONTINUE, FINISH = 20, 100, 1000  # iterations of all starts, of the best four, of the best
MOST_EXPONENT = 30.0  # exp beyond this is no loss


def fit_huber(curve: Curve, values: Array, starts: Array, delta: float) -> tuple[Array, float]:
    """Return the parameters that minimise Σ huber(curve - values), and the minimum.

    By L-BFGS, as in Olmix (arXiv 2602.12237) and in data mixing laws (2403.16952). The two fit
    hundreds of starts to the end; here all take a few steps and only the best go on.

    Args:
        curve: values and their Jacobian at given parameters.
        values: [N] what was measured.
        starts: [S, P] parameters to start from.
        delta: residuals above it count linearly.
    """

    def loss(parameters: Array) -> tuple[float, Array]:
        predicted, jacobian = curve(parameters)
        residuals = predicted - values
        size = np.abs(residuals)
        whole = np.where(size <= delta, 0.5 * residuals**2, delta * (size - 0.5 * delta)).sum()
        return float(whole), jacobian.T @ np.clip(residuals, -delta, delta)

    found = [(float("inf"), start) for start in starts]
    for iterations, number in ((SCREEN, len(starts)), (CONTINUE, 4), (FINISH, 1)):
        found = sorted(found, key=lambda pair: pair[0])[:number]
        options = {"maxiter": iterations, "maxfun": 4 * iterations, "ftol": 1e-11, "gtol": 1e-9}
        with np.errstate(over="ignore", invalid="ignore"):  # a step too far is taken back
            done = [
                minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
                for _, start in found
            ]
        found = [(float(result.fun), result.x) for result in done]
    return found[0][1], found[0][0]


def bounded_exp(exponent: Array) -> Array:
    """Return exp, bounded so that a long step of the search does not overflow."""
    return np.exp(np.minimum(exponent, MOST_EXPONENT))
