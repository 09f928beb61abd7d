"""Learning curves as power laws: loss(n) = irreducible + scale / n^exponent, fitted robustly."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np

from tandem_pl.simplex import Array

FLAT = 1e-3  # exponents below count as 0
HUBER = 1e-3  # error of the log loss at which the squared error becomes linear
LARGEST_EXPONENT, LARGEST_LOG_SCALE = 0.8, 6.5


class PowerLaw(NamedTuple):
    """loss(n) = irreducible + scale / n^exponent, in nats; scalars or [M] each.

    >>> PowerLaw(1.0, 2.0, 0.5)(4)
    2.0
    """

    irreducible: Array | float
    scale: Array | float
    exponent: Array | float

    def __call__(self, samples: Array | float) -> Array | float:
        """Return the loss after so many samples."""
        return self.irreducible + self.scale / samples**self.exponent


def smooth(losses: Array, window: int, order: int = 3) -> Array:
    """Apply a Savitzky-Golay filter along losses [T, M]; short curves get a shorter window."""
    from scipy.signal import savgol_filter

    window = min(window, len(losses))
    window -= 1 - window % 2  # odd
    if window < 3:
        return losses
    return savgol_filter(losses, window, min(order, window - 1), axis=0)


def fit_power_law(samples: Array, losses: Array, least: float) -> PowerLaw | None:
    """Fit one curve: the least Huber error of the log loss, by L-BFGS-B.

    Minimises sum_t huber(log(e^E + e^A / n_t^alpha) - log L_t) with delta = 1e-3 over A <= 6.5,
    E >= log(least) and 0 <= alpha <= 0.8. The grid of starts is ADO's: A in -2..5, E in -2, -1.5
    .. 1.5, alpha in 0, 0.1 .. 0.7; the best start of each alpha is followed. (SciPy's
    `least_squares(loss="huber")` agrees to 8 digits and takes twice as long.)

    With an exponent of 0, any part of the loss could be the irreducible one; below 0.001 we take
    all of it (the authors keep the value of the start).

    Args:
        samples: n [T], positive.
        losses: L [T].
        least: smallest irreducible loss, in nats.

    Returns:
        None if a loss is not positive, or no minimum is finite.
    """
    from scipy.optimize import minimize

    if not (losses > 0).all() or not np.isfinite(losses).all():
        return None
    log_n, log_loss = np.log(samples), np.log(losses)

    def error(point: Array) -> tuple[float, Array]:
        """Return the error and its gradient, both over delta, which moves no minimum."""
        a, e, alpha = point
        falling = a - alpha * log_n
        gap = np.logaddexp(falling, e) - log_loss
        share = np.exp(falling - np.logaddexp(falling, e))  # of the part that falls
        size = np.abs(gap)
        value = np.where(size > HUBER, size - 0.5 * HUBER, 0.5 * gap**2 / HUBER).sum()
        slope = np.clip(gap / HUBER, -1.0, 1.0)
        pieces = slope @ share, slope @ (1 - share), -slope @ (share * log_n)
        return float(value), np.array(pieces)

    lowest = float(np.log(least))
    bounds = [(None, LARGEST_LOG_SCALE), (lowest, None), (0.0, LARGEST_EXPONENT)]
    best, lowest_error = None, np.inf
    for alpha in np.arange(8) * 0.1:
        grid = product(range(-2, 6), np.arange(-2, 2, 0.5))
        starts = [np.array([a, max(e, lowest), alpha]) for a, e in grid]
        start = min(starts, key=lambda point: error(point)[0])
        options = {"maxiter": 200, "gtol": 1e-5}
        fit = minimize(error, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        if np.isfinite(fit.x).all() and fit.fun < lowest_error:
            best, lowest_error = fit.x, fit.fun
    if best is None:
        return None
    a, e, alpha = best.tolist()
    law = PowerLaw(float(np.exp(e)), float(np.exp(a)), alpha)
    return law if alpha >= FLAT else PowerLaw(law(samples[-1]), 0.0, 0.0)
