"""A table of runs: the mixture of each, and what it reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem_pl.domain_names import list_names
from tandem_pl.errors import InputError, did_you_mean
from tandem_pl.simplex import Array

Indices = NDArray[np.int64]
SUM_TOLERANCE = 0.01  # RegMix's published rows, rounded to 0.001, sum to 0.996 ... 1.003
SAME_MIXTURE = 6  # decimals; what differs less is one mixture written twice


@dataclass(frozen=True)
class Runs:
    """N runs on M domains.

    Args:
        domains: [M] names.
        weights: [N, M] shares; rows are divided by their sums.
        metrics: name -> [N] values, lower is better; NaN if the run has none.
        names: [N] how the table names the runs, for messages.
        size: [N] parameters of each network, if the table has them.
        length: [N] tokens (or steps) of each run, if the table has them.
        notes: what was noticed while reading, one sentence each.
        parts: name -> [N] values of columns that a metric may be the mean of, beside the metrics.

    Raises:
        InputError: weights are missing, negative or do not sum to 1.
    """

    domains: tuple[str, ...]
    weights: Array
    metrics: dict[str, Array]
    names: tuple[str, ...] = ()
    size: Array | None = None
    length: Array | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)
    parts: dict[str, Array] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        weights = np.asarray(self.weights, np.float64)
        if weights.ndim != 2 or weights.shape[1] != len(self.domains):
            raise InputError(
                f"weights have the shape {list(weights.shape)}: give [runs, {len(self.domains)}], "
                "one column a domain."
            )
        names = self.names or tuple(str(row) for row in range(1, len(weights) + 1))
        _check_shares(self.domains, weights, names)
        for name, values in (self.metrics | self.parts).items():
            if np.shape(values) != (len(weights),):
                raise InputError(
                    f"metric {name!r} has {np.size(values)} values for {len(weights)} runs."
                )
        total = weights.sum(axis=1, keepdims=True)
        object.__setattr__(self, "weights", weights / total)
        object.__setattr__(self, "names", names)

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def groups(self) -> Indices:
        """[N] a number for each mixture: runs of one mixture stay together when runs are split."""
        rounded = self.weights.round(SAME_MIXTURE) + 0.0  # no negative zeros
        numbers = np.unique(rounded, axis=0, return_inverse=True)[1]
        return numbers.reshape(-1).astype(np.int64)

    def values(self, metric: str) -> Array:
        """Return the [N] values of a metric.

        Raises:
            InputError: the table has no such metric.
        """
        if metric not in self.metrics:
            raise InputError(
                f"metric {metric!r} is no column of the runs: "
                f"{did_you_mean(metric, self.metrics)}the metrics are {list_names(self.metrics)}."
            )
        return np.asarray(self.metrics[metric], np.float64)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64] | Sequence[int]) -> Runs:
        """Return some of the runs, by their numbers or a mask."""
        chosen = np.arange(len(self))[np.asarray(rows)]

        def cut(column: Array | None) -> Array | None:
            return None if column is None else column[chosen]

        return replace(
            self,
            weights=self.weights[chosen],
            metrics={name: np.asarray(values)[chosen] for name, values in self.metrics.items()},
            names=tuple(self.names[row] for row in chosen),
            size=cut(self.size),
            length=cut(self.length),
            parts={name: np.asarray(values)[chosen] for name, values in self.parts.items()},
        )

    def with_notes(self, *notes: str) -> Runs:
        """Return the runs with more notes."""
        return replace(self, notes=(*self.notes, *notes))


def drop_copies(runs: Runs) -> Runs:
    """Return the runs without those that were written twice: one mixture, size, and all metrics.

    A copy on both sides of a split would make a fit look better than it is. The last one is kept:
    some logs write the final step twice, with another count of tokens.
    """
    columns = [runs.groups, *runs.metrics.values()] + ([] if runs.size is None else [runs.size])
    table = np.column_stack(columns)
    _, last = np.unique(table[::-1], axis=0, return_index=True)
    kept = np.sort(len(runs) - 1 - last)
    if len(kept) == len(runs):
        return runs
    dropped = len(runs) - len(kept)
    note = f"{dropped} of {len(runs)} rows repeat another row's mixture and metrics: left out."
    return runs.take(kept).with_notes(note)


def last_of_each(runs: Runs) -> Runs:
    """Return the longest run of each mixture and size, since most laws know no length."""
    if runs.length is None:
        return runs
    size = np.zeros(len(runs)) if runs.size is None else runs.size
    longest: dict[tuple[int, float], float] = {}
    keys = list(zip(runs.groups.tolist(), size.tolist(), strict=True))
    for key, length in zip(keys, runs.length.tolist(), strict=True):
        longest[key] = max(length, longest.get(key, length))
    kept = [longest[key] == length for key, length in zip(keys, runs.length, strict=True)]
    return runs.take(np.array(kept, np.bool_))


def as_share(given: Any, domains: Sequence[str], key: str) -> Array:
    """Return a mixture as [M] shares in the order of `domains`, divided by their sum.

    Raises:
        InputError: other domains, negative numbers, or a sum that is not 1.
    """
    share = as_weights(given, domains, key)[0]
    if not (share >= 0).all() or not abs(share.sum() - 1.0) <= SUM_TOLERANCE:
        raise InputError(
            f"{key} must be numbers of 0 or more that sum to 1; they sum to {share.sum():.4g}."
        )
    return np.asarray(share / share.sum(), np.float64)


def _check_shares(domains: Sequence[str], weights: Array, names: Sequence[str]) -> None:
    if not len(domains) or not len(weights):
        raise InputError("the table has no run or no domain: give a row for each run.")
    wrong = ~(np.isfinite(weights) & (weights >= 0))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        value = weights[row, column]
        reason = "is missing" if np.isnan(value) else f"is {value:g}"
        raise InputError(
            f"run {names[row]}: the weight of {domains[column]!r} {reason}; give a number of 0 or "
            "more, or remove the row."
        )
    sums = weights.sum(axis=1)
    off = np.abs(sums - 1.0) > SUM_TOLERANCE
    if off.any():
        row = int(np.argmax(off))
        more = f" (and those of {off.sum() - 1} more runs)" if off.sum() > 1 else ""
        raise InputError(
            f"run {names[row]}: the weights sum to {sums[row]:.4g}{more} and must sum to 1; "
            "check which columns are domains, or divide each row by its sum."
        )


def as_weights(given: Any, domains: Sequence[str], key: str) -> Array:
    """Return weights as [N, M] in the order of `domains`, from numbers or maps by domain.

    Raises:
        InputError: another number of domains, or other names.
    """
    if isinstance(given, Mapping):
        from tandem_pl.domain_names import check_domains

        check_domains(given, domains, key)
        given = [float(given[name]) for name in domains]
    array = np.atleast_2d(np.asarray(given, np.float64))
    if array.ndim != 2 or array.shape[1] != len(domains):
        raise InputError(
            f"{key} has the shape {list(np.shape(given))}: give {len(domains)} numbers a mixture, "
            f"in the order {list_names(domains)}."
        )
    return array
