"""The law y(x) = α x^s + γ x^t + β, CMR's (arXiv 2407.17467) of the general loss over the tokens.

The general loss rises at first, because the data have changed, and then falls again: one power
cannot do both.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import least_squares

from tandem_pl.errors import InputError
from tandem_pl.simplex import Array

from .power import rise

LEAST = 6  # points for five parameters, so that one is left to judge the fit by
STEEPEST = 3.0  # |s| and |t|
GRID = 25  # powers tried first, two by two


@dataclass(frozen=True)
class TwoPowers:
    """y(x) = level + Σ slope (u^power - 1) / power with u = x / scale.

    Attributes:
        powers: s and t.
        slopes: of each term over ln(x) at x = scale.
        level: y at x = scale.
        scale: a middle value of the points fitted.
        error: root mean square of the residuals.
    """

    powers: tuple[float, float]
    slopes: tuple[float, float]
    level: float
    scale: float
    error: float

    def predict(self, x: ArrayLike) -> Array:
        """Return y at each x > 0."""
        ratio = np.asarray(x, np.float64) / self.scale
        terms = [rise(ratio, power) for power in self.powers]
        return self.level + self.slopes[0] * terms[0] + self.slopes[1] * terms[1]


def fit_two_powers(x: ArrayLike, y: ArrayLike) -> TwoPowers:
    """Return the law with the least squared residuals.

    For given powers the rest is linear, so that only they are searched: on a grid, and then from
    its best pair.

    Args:
        x: [N] positive numbers, at least six different ones.
        y: [N].

    Raises:
        InputError: fewer than six different x, or x that are not positive.

    >>> x = np.array([1, 2, 4, 8, 16, 32, 64])
    >>> law = fit_two_powers(x, 3 + 0.4 * x**-0.25 - 0.5 * x**-1.0)
    >>> [round(float(y), 4) for y in law.predict([1, 4, 256])]
    [2.9, 3.1578, 3.098]
    """
    xs, ys = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(np.unique(xs)) < LEAST or not (xs > 0).all():
        raise InputError(
            f"a law of two powers needs at least {LEAST} different numbers above 0, and there are "
            f"{len(np.unique(xs[xs > 0]))}: add checkpoints."
        )
    scale = float(np.exp(np.log(xs).mean()))
    ratio = xs / scale

    def solve(powers: ArrayLike) -> tuple[Array, Array]:
        first, second = np.asarray(powers, np.float64).tolist()
        columns = np.column_stack([np.ones_like(ratio), rise(ratio, first), rise(ratio, second)])
        solution: Array = np.asarray(np.linalg.lstsq(columns, ys, rcond=None)[0], np.float64)
        return columns @ solution - ys, solution

    grid = np.linspace(-STEEPEST, STEEPEST, GRID)
    start = min(combinations(grid, 2), key=lambda pair: float((solve(pair)[0] ** 2).sum()))
    spread = float(ys.std()) or 1.0
    found = least_squares(
        lambda powers: solve(powers)[0] / spread,
        np.clip(start, -STEEPEST + 1e-6, STEEPEST - 1e-6),
        bounds=(-STEEPEST, STEEPEST),
        **dict.fromkeys(("ftol", "xtol", "gtol"), 1e-14),
    )
    residuals, solution = solve(found.x)
    level, *slopes = solution.tolist()
    error = float(np.sqrt((residuals**2).mean()))
    first, second = found.x.tolist()
    return TwoPowers((first, second), (slopes[0], slopes[1]), level, scale, error)
