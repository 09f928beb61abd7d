"""The log-linear law of Olmix (arXiv 2602.12237): f(p) = exp(c) + exp(t·p)."""

from __future__ import annotations

import numpy as np

from tandem_pl.errors import InputError
from tandem_pl.simplex import Array

from .exponential import ExponentialModel
from .huber import bounded_exp, fit_huber
from .model import Model, Problem

DELTA = 0.02  # of the Huber loss; Olmix's metrics, bits per byte, are near 1
STARTS = 40


def fit(problem: Problem) -> Model:
    """Return the fit of values divided by their median.

    Raises:
        InputError: a value is not positive.
    """
    if problem.values.min() <= 0:
        raise InputError(
            f"metric {problem.metric!r} is {problem.values.min():g} in a run and the log-linear "
            "law is above 0: use the law 'exponential' or 'gaussian_process'."
        )
    scale = float(np.median(problem.values))
    generator = np.random.default_rng(problem.seed)
    number = problem.weights.shape[1]
    if isinstance(problem.whole, ExponentialModel):
        return _fit(problem, scale, _parameters(problem.whole, scale)[None])
    starts = np.empty((STARTS, 1 + number))
    starts[:, 0] = np.resize(np.linspace(-2.0, 1.5, 10), STARTS)
    starts[:, 1:] = -generator.uniform(0, 0.1, (STARTS, number))
    one = generator.integers(number, size=STARTS)
    starts[np.arange(STARTS), 1 + one] = -generator.uniform(0, 1, STARTS)
    return _fit(problem, scale, starts)


def _fit(problem: Problem, scale: float, starts: Array) -> ExponentialModel:
    def curve(parameters: Array) -> tuple[Array, Array]:
        floor, grown = bounded_exp(parameters[:1]), bounded_exp(problem.weights @ parameters[1:])
        jacobian = np.column_stack([np.repeat(floor, len(grown)), grown[:, None] * problem.weights])
        return floor + grown, jacobian

    best, _ = fit_huber(curve, problem.values / scale, starts, DELTA)
    return ExponentialModel(scale * float(bounded_exp(best[0])), scale, best[1:])


def _parameters(model: ExponentialModel, scale: float) -> Array:
    """Return the parameters of a model for values divided by `scale`."""
    floor = np.log(max(model.offset, 1e-12) / scale)
    return np.append(floor, model.slopes + np.log(model.scale / scale))
