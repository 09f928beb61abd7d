"""MixMin (arXiv 2502.10510): a mixture from one expert network a domain, without further runs.

It minimises f(w) = -mean over target samples of log Σ_k w_k p_k, with p_k the likelihood of a
sample under the expert of domain k, to the power 1/length. f is convex. With a row for each token
in place of each sample, w mixes the experts' next-token probabilities instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tandem_pl.domain_names import check_texts
from tandem_pl.errors import InputError
from tandem_pl.simplex import Array

from .bounds import make_bounds
from .fitting import Law
from .laws import Kind
from .laws.model import Model
from .runs import Indices, Runs
from .solver import Goal, descend
from .validation import FOLDS, Validation, split

KIND = Kind("mixmin", "of experts' likelihoods, MixMin", lambda m: 2, lambda m: 10 * m)
SMALLEST = 1e-300  # of a likelihood over the best expert's
MOST = 4_000_000  # numbers computed at a time


class HeldOut(NamedTuple):
    """Losses on samples that weights were not fitted on, and those of fixed mixtures on the same.

    `mixture` is of the weights fitted on the other four fifths, `best_expert` of the expert that is
    best there, and `uniform` of equal weights.
    """

    mixture: float
    best_expert: float
    uniform: float


class ExpertModel(Model):
    """f(w) on some target samples.

    Args:
        log_likelihoods: [n, K].
        share: [n] of each row in the mean; their sum is 1.
    """

    def __init__(self, log_likelihoods: Array, share: Array) -> None:
        highest = log_likelihoods.max(axis=1, keepdims=True)
        self.likelihoods = np.maximum(np.exp(log_likelihoods - highest), SMALLEST)
        self.share, self.level = share, float(share @ highest[:, 0])

    def predict(self, weights: Array) -> Array:
        """Return f at [N, K] weights."""
        parts = np.array_split(weights, max(1, len(weights) * len(self.share) // MOST))
        mixed = [np.log(self.likelihoods @ part.T) for part in parts if len(part)]
        return np.concatenate([-self.share @ logs for logs in mixed]) - self.level

    def gradient(self, point: Array) -> Array:
        """Return -Σ share p_k / Σ_j w_j p_j."""
        return -(self.share / (self.likelihoods @ point)) @ self.likelihoods


@dataclass(frozen=True, eq=False)
class ExpertLaw(Law):
    """f as a law of the mixture, for `propose`; its runs are the experts, one for each domain.

    Attributes:
        log_likelihoods: [n, K] of each row under each expert.
        samples: [n] which sample each row is of.
    """

    log_likelihoods: Array = field(kw_only=True)
    samples: Indices = field(kw_only=True)

    @property
    def kind(self) -> Kind:
        """Smooth and convex."""
        return KIND

    @cached_property
    def model(self) -> ExpertModel:
        """The loss f on all samples."""
        return self._model(np.ones(len(self.samples), bool))

    @cached_property
    def folds(self) -> Indices:
        """[n] numbers of five parts of the samples."""
        return split(self.samples, min(FOLDS, len(np.unique(self.samples))), self.seed)

    @cached_property
    def validation(self) -> Validation:
        """How far f moves if a fifth of the samples is left out, and whether they are few."""
        models = [self._model(self.folds != fold) for fold in np.unique(self.folds)]
        number, advised = len(np.unique(self.samples)), KIND.advised(len(self.runs.domains))
        few = f"{number} samples for {len(self.runs.domains)} experts; MixMin wants at least"
        return Validation(
            spearman=float("nan"),
            error=0.0,
            regret=0.0,
            random_regret=0.0,
            by_size={},
            predictions=self.values,
            folds=np.arange(len(self.runs)),
            models=tuple(models),
            noise=0.0,
            warnings=(f"{few} {advised}.",) if number < advised else (),
        )

    @cached_property
    def held_out(self) -> HeldOut:
        """What the weights are worth on samples that they were not fitted on."""
        size = len(self.runs.domains)
        uniform = np.full(size, 1.0 / size)
        parts, counts = [], []
        for fold in np.unique(self.folds):
            inside, rest = self._model(self.folds == fold), self._model(self.folds != fold)
            single = np.eye(size)[rest.predict(np.eye(size)).argmin()]
            parts.append(inside.predict(np.stack([optimum(rest), single, uniform])))
            counts.append(len(np.unique(self.samples[self.folds == fold])))
        return HeldOut(*np.average(parts, axis=0, weights=counts).tolist())

    def _model(self, rows: np.ndarray) -> ExpertModel:
        numbers, counts = np.unique(self.samples[rows], return_inverse=True, return_counts=True)[1:]
        share = 1.0 / (len(counts) * counts[numbers])
        return ExpertModel(self.log_likelihoods[rows], share)


def optimum(model: ExpertModel) -> Array:
    """Return the [K] weights that minimise f, without bounds."""
    size = model.likelihoods.shape[1]
    goal = Goal(model.predict, model.gradient)
    names = [str(number) for number in range(size)]
    found = descend(goal, make_bounds(names), [np.full(size, 1.0 / size)])
    assert found is not None  # every mixture is allowed
    return found


def fit_experts(
    log_likelihoods: ArrayLike,
    domains: Sequence[str],
    samples: ArrayLike | None = None,
    seed: int = 0,
) -> ExpertLaw:
    """Return the law of one expert a domain; `propose({"target": law}, kl=0)` minimises it.

    Args:
        log_likelihoods: [n, K] log p_k(x) / length(x) of target samples, which is minus their mean
            losses; or log p_k of single tokens, with `samples`.
        domains: [K] which domain each expert was trained on.
        samples: [n] which sample each row is of; a sample counts once, however many rows it has.
        seed: of the folds.

    Raises:
        InputError: fewer than two experts or samples, other shapes, or numbers that are not finite.

    >>> target = np.log([[0.9, 0.2]] * 7 + [[0.1, 0.8]] * 3)  # p_k of two outcomes
    >>> law = fit_experts(target, ["a", "b"])
    >>> optimum(law.model).round(4).tolist()  # 0.9 w + 0.2 (1 - w) = 0.7
    [0.7143, 0.2857]
    """
    names = check_texts(domains, "domains")
    table = np.asarray(log_likelihoods, np.float64)
    if table.ndim != 2 or table.shape[1] != len(names):
        raise InputError(
            f"log_likelihoods have the shape {list(table.shape)}: give [samples, {len(names)}], "
            "one column for each expert."
        )
    rows = np.arange(len(table)) if samples is None else np.asarray(samples)
    if rows.shape != (len(table),):
        raise InputError(f"samples has {rows.size} entries for {len(table)} rows of likelihoods.")
    if len(names) < 2 or len(np.unique(rows)) < 2:
        raise InputError(
            f"MixMin needs at least two experts and two samples, and has {len(names)} and "
            f"{len(np.unique(rows))}."
        )
    wrong = ~np.isfinite(table)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise InputError(
            f"the log-likelihood of row {row + 1} under {names[column]!r} is {table[row, column]}: "
            "remove the row, or check the expert."
        )
    numbers = np.unique(rows, return_inverse=True)[1].reshape(-1).astype(np.int64)
    counts = np.bincount(numbers)
    losses = -(1.0 / (len(counts) * counts[numbers])) @ table
    runs = Runs(names, np.eye(len(names)), {"target": losses}, names)
    return ExpertLaw("mixmin", "target", runs, losses, seed, log_likelihoods=table, samples=numbers)
