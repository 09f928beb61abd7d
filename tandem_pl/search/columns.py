"""Which columns of a table of runs are weights, metrics and names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from tandem_pl.domain_names import list_names
from tandem_pl.errors import InputError, did_you_mean

#: How columns of weights may begin; the first two are no part of the domain's name.
WEIGHT_MARKS = ("weight/", "weights/", "train_", "ratio_")
METRIC_MARKS = ("metric/", "metric_", "loss/")
NAMES = ("index", "run", "name", "id", "run_id", "run_name", "unnamed: 0")
SIZES = ("size", "parameters", "params", "model_size", "n_params")
LENGTHS = ("tokens", "steps", "step", "n_tokens")
STATUS = "status"
LEAST_DOMAINS = 2


def weight_columns(
    table: pd.DataFrame, domains: Sequence[str] | None, alone: Sequence[str], where: str
) -> list[str]:
    """Return the columns of weights; `alone` are those of a file that should have no others.

    Raises:
        InputError: the table `where` has none, or not those that `domains` names.
    """
    columns = [str(name) for name in table.columns]
    if domains:
        for name in domains:
            if name not in columns:
                raise InputError(
                    f"{where} has no column {name!r} for a domain: {did_you_mean(name, columns)}"
                    f"its columns are {list_names(columns)}."
                )
        return list(domains)
    numbers = table.apply(pd.to_numeric, errors="coerce")
    for mark in WEIGHT_MARKS:
        marked = [name for name in columns if name.lower().startswith(mark)]
        if not mark.startswith("weight"):
            marked = [name for name in marked if numbers[name].median() <= 1.0]  # not train_time
            if abs(numbers[marked].sum(axis=1).median() - 1.0) >= 0.05:  # such as train_loss
                continue
        if len(marked) >= LEAST_DOMAINS:
            return marked
    found = _columns_that_sum_to_one(numbers)
    if not found and alone:
        known = {*NAMES, *SIZES, *LENGTHS, STATUS, "seed"}
        found = [name for name in alone if name.lower() not in known]
    if len(found) < LEAST_DOMAINS:
        raise InputError(
            f"{where} has no columns of weights: name the domains (domains=[...]), or begin their "
            f"columns with 'weight/'; its columns are {list_names(columns)}."
        )
    return found


def _columns_that_sum_to_one(numbers: pd.DataFrame) -> list[str]:
    """Return the longest row of neighbouring columns that sum to 1 in most runs."""
    values = numbers.to_numpy(np.float64)
    share = ((values >= 0) & (values <= 1)).mean(axis=0) > 0.5
    best: tuple[int, int] = (0, 0)
    for start in range(len(share)):
        stop = start
        while stop < len(share) and share[stop]:
            stop += 1
        sums = np.nancumsum(values[:, start:stop], axis=1)
        fits = (np.abs(sums - 1.0) <= 0.01).mean(axis=0) > 0.5
        for length in np.flatnonzero(fits) + 1:
            if length >= max(LEAST_DOMAINS, best[1] - best[0] + 1):
                best = (start, start + int(length))
    return [str(name) for name in numbers.columns[best[0] : best[1]]]


def metric_columns(
    table: pd.DataFrame, shares: Sequence[str], metrics: Sequence[str] | None, where: str
) -> list[str]:
    """Return the columns of metrics; `shares` are those of weights.

    Raises:
        InputError: the table `where` has none, or not those that `metrics` names.
    """
    known = {*NAMES, *SIZES, *LENGTHS, STATUS, "seed"}
    rest = [
        str(name)
        for name in table.columns
        if name not in shares and str(name).lower() not in known and has_numbers(table[name])
    ]
    for name in metrics or ():
        if name not in table or name in shares:
            raise InputError(
                f"{where} has no metric {name!r}: {did_you_mean(name, rest)}its metrics are "
                f"{list_names(rest)}."
            )
    if metrics:
        return list(metrics)
    marked = [name for name in rest if name.lower().startswith(METRIC_MARKS)]
    if not (marked or rest):
        raise InputError(
            f"{where} has no metrics: give each run a loss, such as in a column 'metric/loss', or "
            "the file that has them as `losses`."
        )
    return marked or rest


def has_numbers(column: pd.Series) -> bool:
    """Return whether cells are numbers; a metric may have a text in some, for an error to name."""
    if pd.api.types.is_numeric_dtype(column):
        return True
    share = pd.to_numeric(column, errors="coerce").notna().mean()
    return bool(share > (0.0 if str(column.name).lower().startswith(METRIC_MARKS) else 0.5))


def as_list(names: Sequence[str] | None) -> Sequence[str] | None:
    """Return names, of which one may be given alone."""
    return [names] if isinstance(names, str) else names


def row_names(table: pd.DataFrame) -> tuple[str, ...]:
    """Return what the table calls its rows, or else their numbers."""
    column = next((n for n in table if str(n).lower() in NAMES), None)
    return tuple(str(n) for n in (table[column] if column is not None else table.index + 1))
