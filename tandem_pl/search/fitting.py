"""Fit a law of one metric on a table of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from tandem_pl.domain_names import check_domains
from tandem_pl.errors import InputError
from tandem_pl.simplex import Array

from .laws import LAWS, Kind, find_law
from .laws.linear import fit as fit_linear
from .laws.model import Model, Problem, SumModel
from .levels import at_one_size
from .means import find_parts
from .repetition import Repetition
from .runs import SUM_TOLERANCE, Indices, Runs, as_weights, last_of_each
from .validation import Validation, validate


def fit_law(
    name: str, runs: Runs, metric: str, seed: int = 0, repetition: Repetition | None = None
) -> Law:
    """Return a law of a metric, fitted on runs.

    The law of a metric that is the mean of others, Σ_i s_i metric_i, such as the loss over the
    target's domains, is the sum Σ_i s_i law_i, since each domain's loss follows its own share (see
    `means.find_parts`). If one of them cannot be fitted, it is a law of the mean itself.

    Args:
        name: a law of the table `tandem_pl.search.laws.LAWS`.
        runs: from `read_runs`. Of each mixture and size the longest run is used, except by laws of
            the length. If there are several sizes, see `levels.at_one_size`.
        metric: a metric of the runs; lower is better.
        seed: of starts, splits and trees.
        repetition: what repeated data is worth in the final run; None if nothing repeats.

    Raises:
        InputError: an unknown law or metric, too few runs, a metric that is the same in all, or the
            law's library is not installed.
    """
    kind = find_law(name)
    values = runs.values(metric)
    missing = ~np.isfinite(values)
    if missing.any():
        raise InputError(
            f"run {runs.names[int(missing.argmax())]} has no {metric!r}: leave such runs out."
        )
    if np.ptp(values) <= 1e-12 * np.abs(values).max():
        raise InputError(
            f"metric {metric!r} is {values[0]:g} in all {len(values)} runs: choose a metric "
            "that differs."
        )
    used = runs if kind.needs_length else last_of_each(runs)
    needed, different = kind.least(len(runs.domains)), len(np.unique(used.groups))
    if kind.needs_length:
        different = len(used)
    if different < needed:
        raise InputError(
            f"the law {name!r} of {len(runs.domains)} domains needs at least {needed} runs with "
            f"different mixtures, and the table has {different}: train more, or use another law."
        )
    if repetition is not None:
        check_domains(repetition.tokens_per_domain, runs.domains, "tokens_per_domain")
    kind.check_installed()
    measured, columns = used.values(metric), used.parts | used.metrics
    level = at_one_size(measured, used.size, metric)
    parts = {
        part: (share, at_one_size(measured, used.size, metric, columns[part]))
        for part, share in find_parts(metric, columns).items()
    }
    note = f"is the sum of the laws of the {len(parts)} metrics that it is the mean of"
    law = Law(name, metric, used, level, seed, repetition, parts, note if parts else "")
    try:
        _ = law.model  # what cannot be fitted is reported now
    except InputError as error:
        if not parts:
            raise
        note = f"is one curve, since not all that it is the mean of can be fitted: {error}"
        law = Law(name, metric, used, level, seed, repetition, note=note)
        try:
            _ = law.model
        except InputError:
            raise error from None
    return law


@dataclass(frozen=True, eq=False)
class Law:
    """A law of one metric.

    Attributes:
        name: of the law.
        metric: of the runs.
        runs: [N] it was fitted on.
        values: [N] of the metric, brought to one size.
        seed: of everything random.
        repetition: of the final run.
        parts: metric -> its share and [N] values, if the law is the sum of theirs.
        note: what to know of a law of a mean, a phrase that "the law" comes before.
    """

    name: str
    metric: str
    runs: Runs
    values: Array
    seed: int = 0
    repetition: Repetition | None = None
    parts: Mapping[str, tuple[float, Array]] = field(default_factory=dict)
    note: str = ""

    @property
    def kind(self) -> Kind:
        """The law's row in the table."""
        return LAWS[self.name]

    @cached_property
    def least_useful(self) -> int:
        """The number of the domain that helps the metric least, by linear regression."""
        used = self.runs.weights.any(axis=0)
        slopes = fit_linear(self._problem(self.runs.weights, np.arange(len(self.runs)))).slopes
        return int(np.where(used, slopes, -np.inf).argmax())

    @cached_property
    def shares(self) -> Array:
        """[N, M] what the runs trained on, at its worth if seen once."""
        if self.repetition is None:
            return self.runs.weights
        return self.repetition.shares(
            self.runs.weights, self.runs.domains, self.least_useful, proxy=True
        )

    @cached_property
    def model(self) -> Model:
        """The fit on all runs."""
        return self.fit(np.arange(len(self.runs)))

    @cached_property
    def validation(self) -> Validation:
        """How well the law does on runs that it was not fitted on."""
        return validate(self)

    def fit(self, rows: Indices) -> Model:
        """Return the fit on some of the runs, by their numbers."""
        whole = self.model if len(rows) < len(self.runs) else None
        problem = self._problem(self.shares, rows)._replace(whole=whole)
        if not self.parts:
            return self.kind.fit(problem)
        models = []
        for number, (part, (share, values)) in enumerate(self.parts.items()):
            own = problem._replace(
                metric=part,
                values=values[rows],
                domain=own_domain(part, self.runs.domains),
                whole=whole.models[number][1] if isinstance(whole, SumModel) else None,
            )
            models.append((share, self.kind.fit(own)))
        return SumModel(models)

    def predict(self, weights: Array | Sequence[Sequence[float]] | Mapping[str, float]) -> Array:
        """Return the [N'] values at [N', M] mixtures, in the order of `runs.domains`.

        Raises:
            InputError: weights of other domains, or that do not sum to 1.
        """
        points = as_weights(weights, self.runs.domains, "weights")
        total = points.sum(axis=1, keepdims=True)
        wrong = ~(np.abs(total[:, 0] - 1.0) <= SUM_TOLERANCE) | (points < 0).any(axis=1)
        if wrong.any():
            row = int(wrong.argmax())
            raise InputError(
                f"weights in row {row + 1} are no mixture: they sum to {total[row, 0]:.4g}; give "
                "numbers of 0 or more that sum to 1."
            )
        return self.predict_by(self.model, points / total)

    def predict_by(self, model: Model, points: Array) -> Array:
        """Return the [N'] values that a fit gives for the final run; nothing is checked."""
        if self.repetition is not None:
            points = self.repetition.shares(points, self.runs.domains, self.least_useful)
        return model.predict(points)

    def gradient(self, point: Array) -> Array:
        """Return the [M] derivatives at a mixture [M]."""
        if self.repetition is None:
            return self.model.gradient(point)
        shares = self.repetition.shares(point[None], self.runs.domains, self.least_useful)[0]
        return self.repetition.gradient(
            self.model.gradient(shares), point, self.runs.domains, self.least_useful
        )

    def _problem(self, shares: Array, rows: Indices) -> Problem:
        length = self.runs.length
        return Problem(
            metric=self.metric,
            weights=shares[rows],
            values=self.values[rows],
            length=None if length is None else length[rows] / length.max(),
            domain=own_domain(self.metric, self.runs.domains),
            seed=self.seed,
        )


def own_domain(metric: str, domains: Sequence[str]) -> int | None:
    """Return the number of the domain with the longest name in the metric's name, or None.

    A common start of all names, such as RegMix's "train_", does not count.

    >>> own_domain("metric/the_pile_github_val_loss", ["train_pile_arxiv", "train_pile_github"])
    1
    """
    common = 0
    if len(domains) > 1:
        while len({name[: common + 1] for name in domains}) == 1:
            common += 1
    parts = [name[common:] for name in domains]
    own = [(len(part), m) for m, part in enumerate(parts) if part and part in metric]
    return max(own)[1] if own else None
