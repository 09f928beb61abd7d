"""Read tables of runs: CSV or Parquet, in one file or two, or folders of runs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tandem_pl.domain_names import list_names
from tandem_pl.errors import InputError, did_you_mean

from .run_folders import read_folder
from .runs import Runs, drop_copies

#: How columns of weights may begin; the first two are no part of the domain's name.
WEIGHT_MARKS = ("weight/", "weights/", "train_", "ratio_")
METRIC_MARKS = ("metric/", "metric_", "loss/")
NAMES = ("index", "run", "name", "id", "run_id", "run_name", "unnamed: 0")
SIZES = ("size", "parameters", "params", "model_size", "n_params")
LENGTHS = ("tokens", "steps", "step", "n_tokens")
STATUS, DONE = "status", ("done", "finished", "ok", "completed", "")
LEAST_DOMAINS = 2


def read_runs(
    path: str | os.PathLike[str],
    losses: str | os.PathLike[str] | None = None,
    domains: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    prefix: str = "",
    missing: str = "error",
) -> Runs:
    """Return the runs of a table.

    Columns of weights are `domains` if given; else those that begin with "weight/", "train_" or
    "ratio_"; else the longest row of neighbouring columns that sum to 1. The metrics are the
    columns that begin with "metric/", "metric_" or "loss/" if there are any; else all other
    numbers. `size` (parameters) and `tokens` or `steps` are known by their names, and a row whose
    `status` is not "done" is left out.

    Args:
        path: CSV or Parquet with a row for each run, a folder of `tandem compare`, or of a run or
            several: a row for each validation, see `run_folders`.
        losses: a second table with the metrics; rows are joined by a column such as "index", or
            in their order if both have none. RegMix publishes its runs so.
        domains: the columns of weights.
        metrics: the columns to read as metrics.
        prefix: what to take off the columns of weights to get the corpus's names of domains.
        missing: "error", or "drop" to leave out runs that miss a metric.

    Raises:
        InputError: no such file; no columns of weights or metrics; missing values; weights that
            are negative or do not sum to 1; runs that only one of two tables has.
    """
    if missing not in ("error", "drop"):
        raise InputError(f"missing={missing!r} must be 'error' or 'drop'.")
    notes: list[str] = []
    if Path(path).is_dir():
        table = read_folder(Path(path), notes)
        domains = domains or [name for name in table if name.startswith("weight/")]
    else:
        table = read_table(path)
    alone = [] if losses is None else [str(name) for name in table.columns]
    if losses is not None:
        table = _join(table, read_table(losses), str(path), str(losses), notes)
    table = _leave_out_failed(table, notes)
    shares = _weight_columns(table, domains, alone, str(path))
    found = _metric_columns(table, shares, metrics, str(losses or path))
    names = _names(table)
    values = {name: read_numbers(table[name], name, names) for name in found}
    lost = np.zeros(len(table), bool)
    for name, column in values.items():
        gone = ~np.isfinite(column)
        if gone.any() and missing == "error":
            raise InputError(
                f"run {names[int(gone.argmax())]} has no {name!r} ({gone.sum()} missing in all): "
                "fill it in, remove the row, or leave such runs out with missing='drop'."
            )
        lost |= gone
    if lost.all():
        raise InputError(f"{path}: every run misses a metric; choose the columns to read.")
    if lost.any():
        notes.append(f"{lost.sum()} of {len(lost)} runs miss a metric: left out.")
    runs = Runs(
        domains=tuple(_domain_name(name, prefix) for name in shares),
        weights=np.column_stack([read_numbers(table[name], name, names) for name in shares]),
        metrics=values,
        names=names,
        size=_optional(table, SIZES, names),
        length=_optional(table, LENGTHS, names),
        notes=tuple(notes),
    )
    if len(set(runs.domains)) < len(runs.domains):
        raise InputError(f"prefix={prefix!r} gives two columns of weights the same domain.")
    runs = drop_copies(runs.take(~lost))
    for note in runs.notes:
        warnings.warn(note, stacklevel=2)
    return runs


def read_table(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Return a table of runs from a CSV or Parquet file; raise an error if it is none."""
    if not Path(path).exists():
        beside = Path(path).parent
        near = did_you_mean(Path(path).name, os.listdir(beside)) if beside.is_dir() else ""
        raise InputError(f"{path} does not exist: {near}give a CSV or Parquet file of runs.")
    try:
        if Path(path).suffix.lower() in (".parquet", ".pq"):
            return pd.read_parquet(path)
        table = pd.read_csv(path, encoding="utf-8-sig")
    except (ValueError, OSError) as error:  # ParserError and EmptyDataError are ValueErrors
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} cannot be read as a table of runs: {reason}.") from None
    if not len(table):
        raise InputError(f"{path} has no rows: give a row for each run.")
    return table


def _join(
    left: pd.DataFrame, right: pd.DataFrame, first: str, second: str, notes: list[str]
) -> pd.DataFrame:
    key = next((n for n in left if str(n).lower() in NAMES and n in right), None)
    if key is None or not (left[key].is_unique and right[key].is_unique):
        key = None
    elif set(left[key]) != set(right[key]):
        counted = all(
            pd.api.types.is_integer_dtype(t[key]) and (t[key].diff()[1:] == 1).all()
            for t in (left, right)
        )
        if not (counted and len(left) == len(right)):
            only = sorted(set(left[key]) ^ set(right[key]))
            raise InputError(
                f"{first} and {second} name other runs in {key!r}: only one of them has "
                f"{list_names(map(str, only))}."
            )
        notes.append(f"{first} and {second} count {key!r} from other numbers: joined in order.")
        key = None
    if key is not None:
        right = right.set_index(key).loc[left[key]].reset_index(drop=True)
    elif len(left) != len(right):
        raise InputError(
            f"{first} has {len(left)} rows and {second} {len(right)}: give both a column 'index', "
            "or as many rows in the same order."
        )
    # what both tables have, such as a second index, is the left one's
    return pd.concat([left, right[[n for n in right if n not in left]]], axis=1)


def _leave_out_failed(table: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    column = next((n for n in table if str(n).lower() == STATUS), None)
    if column is None:
        return table
    done = table[column].fillna("").astype(str).str.strip().str.lower().isin(DONE)
    if not done.all():
        notes.append(f"{(~done).sum()} of {len(table)} runs are marked as failed: left out.")
    if not done.any():
        raise InputError(f"no run of the table has the status 'done' in {column!r}.")
    return table[done].reset_index(drop=True)


def _weight_columns(
    table: pd.DataFrame, domains: Sequence[str] | None, alone: Sequence[str], where: str
) -> list[str]:
    """Return the columns of weights; `alone` are those of a file that should have no others."""
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
        marked = [name for name in marked if numbers[name].median() <= 1.0]  # not train_time
        sums = numbers[marked].sum(axis=1).median()
        certain = mark.startswith("weight") or abs(sums - 1.0) < 0.05  # not train_loss
        if len(marked) >= LEAST_DOMAINS and certain:
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


def _metric_columns(
    table: pd.DataFrame, shares: Sequence[str], metrics: Sequence[str] | None, where: str
) -> list[str]:
    known = {*NAMES, *SIZES, *LENGTHS, STATUS, "seed"}
    rest = [
        str(name)
        for name in table.columns
        if name not in shares
        and str(name).lower() not in known
        and pd.api.types.is_numeric_dtype(table[name])
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


def _names(table: pd.DataFrame) -> tuple[str, ...]:
    column = next((n for n in table if str(n).lower() in NAMES), None)
    return tuple(str(n) for n in (table[column] if column is not None else table.index + 1))


def read_numbers(column: pd.Series, name: str, names: Sequence[str]) -> np.ndarray:
    """Return a column as [N] float64, NaN if empty; `names` are those of its runs, for the error.

    Raises:
        InputError: a cell has another text.
    """
    values = pd.to_numeric(column, errors="coerce")
    text = values.isna() & column.notna()
    if text.any():
        row = int(text.to_numpy().argmax())
        raise InputError(f"run {names[row]}: {name!r} is {column.iloc[row]!r}, not a number.")
    return values.to_numpy(np.float64)


def _optional(table: pd.DataFrame, known: Sequence[str], names: Sequence[str]) -> np.ndarray | None:
    column = next((n for n in table if str(n).lower() in known), None)
    if column is None or not pd.api.types.is_numeric_dtype(table[column]):
        return None
    values = read_numbers(table[column], str(column), names)
    return values if np.isfinite(values).all() and (values > 0).all() else None


def _domain_name(column: str, prefix: str) -> str:
    for mark in ("weight/", "weights/", prefix):
        column = column.removeprefix(mark)
    return column
