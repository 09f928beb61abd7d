"""The power law y(x) = α x^s + β, on which the CMR law (arXiv 2407.17467) is built."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

from tandem_pl.errors import InputError
from tandem_pl.simplex import Array

LEAST = 4  # points for three parameters, so that one is left to judge the fit by
STEEPEST = 6.0  # |s|
GRID = 121
FLAT = 1e-6  # |s| below which x^s - 1 is s ln x, in sums that cancel
TINY = 1e-12  # the same where nothing cancels


@dataclass(frozen=True)
class PowerLaw:
    """y(x) = level + slope (u^s - 1) / s with u = x / scale, which is α x^s + β.

    Written this way it has a limit for s = 0: level + slope ln(u).

    Attributes:
        power: s.
        slope: of y over ln(x) at x = scale.
        level: y at x = scale.
        scale: a middle value of the points fitted.
        error: root mean square of the residuals.
    """

    power: float
    slope: float
    level: float
    scale: float
    error: float

    def predict(self, x: ArrayLike) -> Array:
        """Return y at each x > 0."""
        return self.level + self.slope * rise(np.asarray(x, np.float64) / self.scale, self.power)

    def solve(self, y: float) -> float | None:
        """Return the x > 0 at which the law is y, or None if it never is."""
        if self.slope == 0:
            return None
        height = (y - self.level) / self.slope
        if abs(self.power) < FLAT:
            return self.scale * float(np.exp(height))
        base = 1.0 + self.power * height
        return self.scale * float(base ** (1.0 / self.power)) if base > 0 else None

    @property
    def coefficients(self) -> tuple[float, float, float]:
        """α, s and β of y = α x^s + β; α and β are huge and cancel if s is near 0."""
        power = self.power if abs(self.power) >= FLAT else FLAT
        part = self.slope / power
        return part * self.scale**-power, power, self.level - part


def fit_power(x: ArrayLike, y: ArrayLike, what: str = "the power law") -> PowerLaw:
    """Return the law with the least squared residuals.

    For each s the rest is linear, so that only s is searched: on a grid, and then near its best.

    Args:
        x: [N] positive numbers, at least four different ones.
        y: [N].
        what: subject of the error message.

    Raises:
        InputError: fewer than four different x, or x that are not positive.

    >>> law = fit_power([1, 2, 4, 8], [1.5, 1.25, 1.125, 1.0625])
    >>> [round(number, 4) for number in law.coefficients], round(law.solve(1.01), 2)
    ([0.5, -1.0, 1.0], 50.0)
    """
    xs, ys = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(np.unique(xs)) < LEAST:
        raise InputError(
            f"{what} needs at least {LEAST} different points, and the table has "
            f"{len(np.unique(xs))}: add runs."
        )
    if not (xs > 0).all():
        raise InputError(f"{what} needs numbers above 0, and one is {xs.min():g}.")
    scale = float(np.exp(np.log(xs).mean()))
    ratio = xs / scale

    def solve(power: float) -> tuple[float, Array]:
        columns = np.column_stack([np.ones_like(ratio), rise(ratio, power)])
        solution: Array = np.asarray(np.linalg.lstsq(columns, ys, rcond=None)[0], np.float64)
        return float(((columns @ solution - ys) ** 2).sum()), solution

    grid = np.linspace(-STEEPEST, STEEPEST, GRID)
    best = int(np.argmin([solve(power)[0] for power in grid]))
    around = grid[max(best - 1, 0)], grid[min(best + 1, GRID - 1)]
    found = minimize_scalar(
        lambda power: solve(power)[0], bounds=around, method="bounded", options={"xatol": 1e-10}
    )
    squares, (level, slope) = solve(float(found.x))
    error = float(np.sqrt(squares / len(xs)))
    return PowerLaw(float(found.x), float(slope), float(level), scale, error)


def rise(ratio: Array, power: float) -> Array:
    """Return (u^s - 1) / s of each ratio u and a power s, which is ln(u) for s = 0."""
    log = np.log(ratio)
    return log if abs(power) < TINY else np.expm1(power * log) / power
