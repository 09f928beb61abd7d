"""What laws expect of a mixture, how far off they may be, and why not to trust them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tandem_pl.simplex import Array

from .fitting import Law
from .proposal import Expectation
from .validation import noise_near_best

FAR = 0.95  # quantile of the runs' distances to their nearest neighbour
MOST_DISTANCES = 500  # runs whose distance is computed


def expect(
    laws: Mapping[str, Law], weights: Mapping[str, float], point: Array, base: Array
) -> tuple[dict[str, Expectation], float, float, float]:
    """Return each metric's expectation, and the sums at the proposal and the reference."""
    both = np.vstack([base, point])
    metrics, gains = {}, {}
    for name, law in laws.items():
        before, after = law.predict_by(law.model, both).tolist()
        checked = law.validation
        gains[name] = np.array([np.subtract(*law.predict_by(m, both)) for m in checked.models])
        metrics[name] = Expectation(before, after, _error(gains[name], checked.noise))
    total = sum(weights[name] * one.predicted for name, one in metrics.items())
    start = sum(weights[name] * one.reference for name, one in metrics.items())
    folds = [law.validation.folds for law in laws.values()]
    if all(np.array_equal(fold, folds[0]) for fold in folds):
        own = [(weights[name], law) for name, law in laws.items()]
        values = np.sum([weight * law.values for weight, law in own], axis=0)
        predictions = np.sum([weight * law.validation.predictions for weight, law in own], axis=0)
        moved = np.sum([weights[name] * gain for name, gain in gains.items()], axis=0)
        error = _error(moved, noise_near_best(values, predictions))
    else:  # as if all errors went one way
        error = sum(abs(weights[name]) * one.error for name, one in metrics.items())
    return metrics, float(total), float(start), float(error)


def _error(gains: Array, noise: float) -> float:
    """Return the standard error of a gain, from those of the fits without each fold."""
    jackknife = (len(gains) - 1) / len(gains) * ((gains - gains.mean()) ** 2).sum()
    return float(np.sqrt(jackknife + noise**2))


def find_doubts(laws: Mapping[str, Law], point: Array, gain: float, error: float) -> list[str]:
    """Return why the proposal is not to be trusted, one sentence each."""
    doubts = [doubt for law in laws.values() for doubt in law.validation.warnings]
    runs = np.unique(next(iter(laws.values())).runs.weights, axis=0)
    own = 0.5 * np.abs(runs - point).sum(axis=1).min()
    between = [
        np.partition(0.5 * np.abs(runs - run).sum(axis=1), 1)[1] for run in runs[:MOST_DISTANCES]
    ]
    if own > np.quantile(between, FAR):
        doubts.append(
            f"the proposal is {own:.2f} (total variation) from the nearest run, further than runs "
            "are from each other: train a run near it before you trust it."
        )
    if gain <= error:
        doubts.append(
            f"the predicted gain {gain:.4g} is not above its error {error:.4g}: the reference may "
            "be as good."
        )
    return list(dict.fromkeys(doubts))
