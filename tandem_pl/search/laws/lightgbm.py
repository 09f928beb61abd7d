"""Boosted trees with RegMix's settings (arXiv 2407.01492), by LightGBM.

RegMix's notebook stops early on its test set; here a tenth of the runs is held out to find the
number of rounds, and the trees are grown again on all runs. Trees know nothing beyond the runs and
are flat between them: look at the distance of a proposal from the runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tandem_pl.simplex import Array

from .model import Model, Problem

ROUNDS, PATIENCE, HELD_OUT = 1000, 3, 0.1
SETTINGS: dict[str, Any] = {
    "objective": "regression",
    "metric": "l2",
    "learning_rate": 0.01,
    "verbosity": -1,
    "deterministic": True,
    "force_row_wise": True,
}


class TreesModel(Model):
    """A LightGBM booster."""

    def __init__(self, booster: Any) -> None:
        self.booster = booster

    def predict(self, weights: Array) -> Array:
        """Return the mean over the trees' leaves."""
        return np.asarray(self.booster.predict(weights), np.float64)


def fit(problem: Problem) -> TreesModel:
    """Return trees grown on all runs, with the number of rounds that a held-out tenth asks for.

    Runs of one mixture are held out together.
    """
    import lightgbm

    weights, values = problem.weights, problem.values
    groups = np.unique(weights, axis=0, return_inverse=True)[1].reshape(-1)
    shuffled = np.random.default_rng(problem.seed).permutation(groups.max() + 1)
    held = np.isin(groups, shuffled[: max(1, round(HELD_OUT * len(shuffled)))])
    settings = SETTINGS | {"seed": problem.seed}
    trial = lightgbm.train(
        settings,
        lightgbm.Dataset(weights[~held], values[~held]),
        ROUNDS,
        valid_sets=[lightgbm.Dataset(weights[held], values[held])],
        callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
    )
    whole = lightgbm.train(settings, lightgbm.Dataset(weights, values), trial.best_iteration)
    return TreesModel(whole)
