"""AutoScale's law (arXiv 2407.20177): f(n) = c + Σ_j k_j (n0_j + n_j)^-γ_j, n_j tokens of domain j.

n0_j is what the other domains are worth in tokens of domain j. The paper has k_j = 1 and fits each
domain alone; here all are fitted together on runs that may differ in every share.
"""

from __future__ import annotations

import numpy as np

from tandem_pl.errors import InputError
from tandem_pl.simplex import Array

from .huber import bounded_exp, fit_huber
from .model import Model, Problem

DELTA = 0.05  # in standard deviations of the metric
STARTS = 24


class AutoScaleModel(Model):
    """f(p), with tokens in units of the longest run, so that n = p."""

    def __init__(self, offset: float, gains: Array, head_starts: Array, powers: Array) -> None:
        self.offset, self.gains = offset, gains
        self.head_starts, self.powers = head_starts, powers

    def predict(self, weights: Array) -> Array:
        """Return the law's values."""
        return self.offset + ((weights + self.head_starts) ** -self.powers) @ self.gains

    def gradient(self, point: Array) -> Array:
        """Return the derivatives, all negative."""
        powers = self.powers
        return -powers * self.gains * (point + self.head_starts) ** (-powers - 1)


def fit(problem: Problem) -> AutoScaleModel:
    """Return the fit.

    Raises:
        InputError: the runs have no length.
    """
    if problem.length is None:
        raise InputError(
            "the law 'autoscale' needs the length of the runs, in a column 'tokens' or 'steps': "
            "add one, or use another law."
        )
    tokens = problem.weights * problem.length[:, None]
    middle = problem.values.mean()
    spread = problem.values.std() or 1.0  # part of the runs may have one value
    number = tokens.shape[1]

    def curve(parameters: Array) -> tuple[Array, Array]:
        gains, head_starts, powers = bounded_exp(parameters[1:]).reshape(3, number)
        whole = tokens + head_starts
        terms = gains * whole**-powers
        columns = [terms, -terms * powers * head_starts / whole, -terms * powers * np.log(whole)]
        return parameters[0] + terms.sum(axis=1), np.hstack([np.ones((len(terms), 1)), *columns])

    low = np.concatenate([[-3.0], *np.repeat([[-3.0], [-4.0], [-2.0]], number, axis=1)])
    high = np.concatenate([[0.0], *np.repeat([[0.0], [-1.0], [0.0]], number, axis=1)])
    starts = np.random.default_rng(problem.seed).uniform(low, high, (STARTS, len(low)))
    best, _ = fit_huber(curve, (problem.values - middle) / spread, starts, DELTA)
    gains, head_starts, powers = bounded_exp(best[1:]).reshape(3, number)
    return AutoScaleModel(middle + spread * best[0], spread * gains, head_starts, powers)
