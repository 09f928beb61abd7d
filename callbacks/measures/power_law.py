"""Learning curves as power laws: loss(n) = irreducible + scale / n^exponent, fitted robustly."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tandem_pl.simplex import Array

FLAT = 1e-3  # exponent below which a curve says nothing of where it ends
HUBER = 1e-3  # of the log loss; where the squared error becomes linear
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
        """The loss after so many samples."""
        return self.irreducible + self.scale / samples**self.exponent


def smooth(losses: Array, window: int, order: int = 3) -> Array:
    """Savitzky-Golay filter over the points of losses [T, M]; short curves get a shorter window."""
    from scipy.signal import savgol_filter

    window = min(window, len(losses))
    window -= 1 - window % 2  # odd
    if window < 3:
        return losses
    return savgol_filter(losses, window, min(order, window - 1), axis=0)


def fit_power_law(samples: Array, losses: Array, least: float) -> PowerLaw | None:
    """The law through one curve: least Huber error of the log loss, by L-BFGS-B.

    Minimises sum_t huber(log(e^E + e^A / n_t^alpha) - log L_t) with delta = 1e-3 over A <= 6.5,
    E >= log(least) and 0 <= alpha <= 0.8. The grid of starts is ADO's: A in -2..5, E in -2, -1.5
    .. 1.5, alpha in 0, 0.1 .. 0.7, of which the best of each alpha are followed.

    With an exponent of 0 any part of the loss could be the irreducible one; below 0.001 all of it
    is taken to be (the authors keep what the start happened to be).

    Args:
        samples: n [T], positive.
        losses: L [T].
        least: smallest irreducible loss, in nats.

    Returns:
        None where no fit is to be had: losses that are not positive, or no finite minimum.
    """
    from scipy.optimize import minimize

    if not (losses > 0).all() or not np.isfinite(losses).all():
        return None
    log_n, log_loss = np.log(samples), np.log(losses)

    def error(point: Array) -> tuple[float, Array]:
        a, e, alpha = point
        falling = a - alpha * log_n
        gap = np.logaddexp(falling, e) - log_loss
        share = np.exp(falling - np.logaddexp(falling, e))  # of the part that falls
        size = np.abs(gap)
        value = np.where(size > HUBER, size - 0.5 * HUBER, 0.5 * gap**2 / HUBER).sum()
        slope = np.clip(gap / HUBER, -1.0, 1.0)
        pieces = slope @ share, slope @ (1 - share), -slope @ (share * log_n)
        return float(value), np.array(pieces)  # both over delta, which moves no minimum

    lowest = float(np.log(least))
    best, lowest_error = None, np.inf
    for alpha in np.arange(8) * 0.1:
        starts = [
            np.array([a, max(e, lowest), alpha])
            for a in range(-2, 6)
            for e in np.arange(-2, 2, 0.5)
        ]
        start = min(starts, key=lambda point: error(point)[0])
        found = minimize(
            error,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=[(None, LARGEST_LOG_SCALE), (lowest, None), (0.0, LARGEST_EXPONENT)],
            options={"maxiter": 200, "gtol": 1e-5},
        )
        if np.isfinite(found.x).all() and found.fun < lowest_error:
            best, lowest_error = found.x, found.fun
    if best is None:
        return None
    a, e, alpha = best.tolist()
    law = PowerLaw(float(np.exp(e)), float(np.exp(a)), alpha)
    return law if alpha >= FLAT else PowerLaw(law(samples[-1]), 0.0, 0.0)
