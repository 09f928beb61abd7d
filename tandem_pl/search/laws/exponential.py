"""Data mixing laws (arXiv 2403.16952, equation 8): f(p) = c + k exp(t·p).

The sum of p is 1, so that |k| is a part of t and only its sign is left: minus is the law of a
metric that rises to a bound, such as an accuracy.
"""

from __future__ import annotations

import numpy as np

from tandem_pl.simplex import Array

from .huber import bounded_exp, fit_huber
from .model import Model, Problem

DELTA = 0.05  # of the Huber loss, in standard deviations of the metric
STARTS = 24


class ExponentialModel(Model):
    """f(p) = offset + scale exp(t·p)."""

    def __init__(self, offset: float, scale: float, slopes: Array) -> None:
        self.offset, self.scale, self.slopes = offset, scale, slopes

    def predict(self, weights: Array) -> Array:
        """Return the law's values."""
        return self.offset + self.scale * bounded_exp(weights @ self.slopes)

    def gradient(self, point: Array) -> Array:
        """Return scale t exp(t·p)."""
        return self.scale * bounded_exp(point @ self.slopes) * self.slopes


def fit(problem: Problem) -> ExponentialModel:
    """Return the better of the fits with k > 0 and k < 0."""
    middle = problem.values.mean()
    spread = problem.values.std() or 1.0  # part of the runs may have one value
    values = (problem.values - middle) / spread
    generator = np.random.default_rng(problem.seed)
    fits, whole = [], problem.whole
    known = whole if isinstance(whole, ExponentialModel) else None
    for sign in (1.0, -1.0) if known is None else (float(np.sign(known.scale)),):

        def curve(parameters: Array, sign: float = sign) -> tuple[Array, Array]:
            grown = sign * bounded_exp(problem.weights @ parameters[1:])
            return parameters[0] + grown, np.column_stack(
                [np.ones_like(grown), grown[:, None] * problem.weights]
            )

        best = (sign * values).min()
        starts = generator.normal(0, 0.5, (STARTS, 1 + problem.weights.shape[1]))
        starts[:, 0] = sign * (best - generator.uniform(0.1, 2.0, STARTS))
        if known is not None:
            slopes = known.slopes + np.log(abs(known.scale) / spread)
            starts = np.append((known.offset - middle) / spread, slopes)[None]
        fits.append((*fit_huber(curve, values, starts, DELTA), sign))
    parameters, _, sign = min(fits, key=lambda found: found[1])
    return ExponentialModel(middle + spread * parameters[0], sign * spread, parameters[1:])
