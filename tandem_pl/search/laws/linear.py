"""Linear regression, RegMix's baseline: f(p) = t·p. The sum of p is 1, so t holds the intercept."""

from __future__ import annotations

import numpy as np

from tandem_pl.simplex import Array

from .model import Model, Problem


class LinearModel(Model):
    """f(p) = t·p."""

    def __init__(self, slopes: Array) -> None:
        self.slopes = slopes

    def predict(self, weights: Array) -> Array:
        """Return t·p."""
        return weights @ self.slopes

    def gradient(self, point: Array) -> Array:
        """Return t."""
        return self.slopes


def fit(problem: Problem) -> LinearModel:
    """Return the least-squares fit; the one of least norm if the runs leave a choice.

    >>> weights = np.array([[1, 0], [0.5, 0.5], [0, 1]])
    >>> fit(Problem("loss", weights, np.array([1.0, 2.0, 3.0]), None, None, 0)).slopes.round(6)
    array([1., 3.])
    """
    slopes = np.linalg.lstsq(problem.weights, problem.values, rcond=None)[0]
    return LinearModel(slopes.astype(np.float64))
