"""How well a law does on runs that it was not fitted on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tandem_pl.domain_names import list_names
from tandem_pl.simplex import Array

from .laws.model import Model
from .runs import Indices

if TYPE_CHECKING:
    from .fitting import Law

FOLDS = 5
LEAST_RANK = 0.7  # Spearman below this is not to be trusted
SAME = 1e-9  # shares that differ less are one
NEAREST = 0.25  # of the runs: those with the best predictions, near which a proposal lies


@dataclass(frozen=True, eq=False)
class Validation:
    """Results on held-out runs; each was predicted by the fit on the other folds.

    Attributes:
        spearman: rank correlation of predictions and values.
        error: mean absolute difference of them.
        regret: what the run with the best prediction in a fold lacks to the best run of the fold,
            mean over the folds; so much is lost by trusting the law.
        random_regret: the same of a run chosen at random.
        by_size: size -> rank correlation on its runs of the fit on all other sizes.
        predictions: [N].
        folds: [N] numbers of the folds.
        models: the fit without each fold.
        noise: root mean square of the residuals of the quarter with the best predictions.
        warnings: why the fit is not to be trusted, one sentence each.
    """

    spearman: float
    error: float
    regret: float
    random_regret: float
    by_size: dict[float, float]
    predictions: Array
    folds: Indices
    models: tuple[Model, ...]
    noise: float
    warnings: tuple[str, ...]


def split(groups: Indices, number: int, seed: int) -> Indices:
    """Return the fold of each run; runs of one group are in one fold.

    >>> split(np.array([0, 0, 1, 2, 2]), 3, seed=0).tolist()
    [1, 1, 2, 0, 0]
    """
    kinds = np.unique(groups)
    order = np.random.default_rng(seed).permutation(len(kinds))
    folds = np.empty(len(kinds), np.int64)
    folds[order] = np.arange(len(kinds)) % number
    return folds[np.searchsorted(kinds, groups)]


def validate(law: Law) -> Validation:
    """Cross-validate a law: over five folds, or over single mixtures if the runs are few."""
    runs, values = law.runs, law.values
    groups = runs.groups
    number = len(np.unique(groups))
    folds = split(groups, number_of_folds(number, law.kind.least(len(runs.domains))), law.seed)
    predictions, models = np.empty(len(runs)), []
    for fold in range(folds.max() + 1):
        inside = folds == fold
        models.append(law.fit(np.flatnonzero(~inside)))
        predictions[inside] = models[-1].predict(law.shares[inside])
    regret, random_regret = _regrets(values, predictions, folds)
    spearman = rank_correlation(predictions, values)
    return Validation(
        spearman=spearman,
        error=float(np.abs(values - predictions).mean()),
        regret=regret,
        random_regret=random_regret,
        by_size=_leave_one_size_out(law),
        predictions=predictions,
        folds=folds,
        models=tuple(models),
        noise=noise_near_best(values, predictions),
        warnings=tuple(_doubts(law, number, spearman, regret, random_regret)),
    )


def number_of_folds(mixtures: int, least: int) -> int:
    """Return five, or one for each mixture if four fifths of them are too few for the law."""
    return FOLDS if mixtures * (FOLDS - 1) // FOLDS >= max(least, FOLDS) else mixtures


def noise_near_best(values: Array, predictions: Array) -> float:
    """Return the root mean square of the residuals of the quarter with the best predictions."""
    best = np.argsort(predictions, kind="stable")[: max(5, round(NEAREST * len(values)))]
    return float(np.sqrt(((values - predictions)[best] ** 2).mean()))


def rank_correlation(first: Array, second: Array) -> float:
    """Return Spearman's rank correlation; 0 if one of them is constant."""
    from scipy.stats import spearmanr

    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(spearmanr(first, second).statistic)


def _regrets(values: Array, predictions: Array, folds: Indices) -> tuple[float, float]:
    lost, lost_at_random = [], []
    if folds.max() + 1 == len(np.unique(folds)) and np.bincount(folds).min() < 2:
        folds = np.zeros_like(folds)  # folds of one run have nothing to choose from
    for fold in np.unique(folds):
        own, guess = values[folds == fold], predictions[folds == fold]
        lost.append(own[guess.argmin()] - own.min())
        lost_at_random.append(own.mean() - own.min())
    return float(np.mean(lost)), float(np.mean(lost_at_random))


def _leave_one_size_out(law: Law) -> dict[float, float]:
    size = law.runs.size
    found: dict[float, float] = {}
    if size is None or len(np.unique(size)) < 2:
        return found
    for one in np.unique(size).tolist():
        others = np.flatnonzero(size != one)
        if len(np.unique(law.runs.groups[others])) >= law.kind.least(len(law.runs.domains)):
            predicted = law.fit(others).predict(law.shares[size == one])
            found[one] = rank_correlation(predicted, law.values[size == one])
    return found


def _doubts(law: Law, number: int, spearman: float, regret: float, random: float) -> list[str]:
    doubts = []
    domains = law.runs.domains
    advised = law.kind.advised(len(domains))
    if number < advised:
        doubts.append(
            f"{law.metric}: {number} mixtures for {len(domains)} domains; the law {law.name!r} "
            f"wants at least {advised}."
        )
    if spearman < LEAST_RANK:
        doubts.append(
            f"{law.metric}: rank correlation {spearman:.2f} on held-out runs is below "
            f"{LEAST_RANK}; do not trust the order of mixtures."
        )
    elif regret >= random > 0:
        doubts.append(
            f"{law.metric}: the best prediction among held-out runs is no better than a random one."
        )
    spread = np.ptp(law.runs.weights, axis=0)
    same = [name for name, width in zip(domains, spread, strict=True) if width < SAME]
    if same:
        doubts.append(
            f"{law.metric}: {list_names(same)} had the same share in all runs, so that its effect "
            "is unknown."
        )
    return doubts
