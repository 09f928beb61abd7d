"""BiMix (arXiv 2405.14908): f(r, s) = (B / s^β + C) / r^α.

r is the share of the domain that the metric is measured on, and s the length of the run.
"""

from __future__ import annotations

import numpy as np

from tandem_pl.errors import InputError
from tandem_pl.simplex import Array

from .huber import bounded_exp, fit_huber
from .model import Model, Problem

DELTA = 0.02
STARTS = 24
LEAST_LENGTHS = 2


class BiMixModel(Model):
    """f(p) = level r^-α with r the share of one domain, at the length of the longest run."""

    def __init__(self, domain: int, level: float, power: float, least: float) -> None:
        self.domain, self.level, self.power, self.least = domain, level, power, least

    def predict(self, weights: Array) -> Array:
        """Return the law's values; shares below the smallest one fitted count as that one."""
        share = np.maximum(weights[:, self.domain], self.least)
        return self.level * share**-self.power

    def gradient(self, point: Array) -> Array:
        """Return the derivatives: 0 for all other domains."""
        slopes = np.zeros_like(point)
        share = max(point[self.domain], self.least)
        slopes[self.domain] = -self.power * self.level * share ** (-self.power - 1)
        return slopes


def fit(problem: Problem) -> BiMixModel:
    """Return the fit on the runs that have drawn the domain.

    Raises:
        InputError: the metric's name has no domain in it, or all runs are equally long.
    """
    if problem.domain is None:
        raise InputError(
            f"metric {problem.metric!r} has no domain in its name, whose share the law 'bimix' "
            "needs: use another law."
        )
    if problem.length is None or len(np.unique(problem.length)) < LEAST_LENGTHS:
        raise InputError(
            "the law 'bimix' needs runs of at least two lengths, in a column 'tokens' or 'steps': "
            "add one, or use another law."
        )
    share = problem.weights[:, problem.domain]
    used = share > 0
    if used.sum() < 5:
        raise InputError(
            f"metric {problem.metric!r}: {used.sum()} runs draw its domain and the law 'bimix' "
            "needs at least 5."
        )
    share, length = share[used], problem.length[used]
    scale = float(np.median(problem.values[used]))

    def curve(parameters: Array) -> tuple[Array, Array]:
        power, fall, shrink, left = bounded_exp(parameters)
        lower, decay = share**-power, length**-shrink
        whole = lower * (fall * decay + left)
        shrinking = -lower * fall * decay * shrink * np.log(length)
        columns = [-whole * power * np.log(share), lower * fall * decay, shrinking, lower * left]
        return whole, np.column_stack(columns)

    generator = np.random.default_rng(problem.seed)
    starts = generator.uniform([-4, -3, -3, -2], [0, 1, 0, 1], (STARTS, 4))
    best, _ = fit_huber(curve, problem.values[used] / scale, starts, DELTA)
    power, fall, _, left = bounded_exp(best).tolist()
    return BiMixModel(problem.domain, scale * (fall + left), power, float(share.min()))
