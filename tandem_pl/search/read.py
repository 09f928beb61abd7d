"""Read tables of runs: CSV or Parquet, in one file or two, or folders of runs."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tandem_pl.domain_names import list_names
from tandem_pl.errors import InputError, did_you_mean
from tandem_pl.simplex import Array

from .columns import (
    LENGTHS,
    NAMES,
    SIZES,
    STATUS,
    as_list,
    has_numbers,
    metric_columns,
    row_names,
    weight_columns,
)
from .means import names_of_parts
from .run_folders import read_folder
from .runs import Runs, drop_copies

DONE = ("done", "finished", "ok", "completed", "")  # in the column `status`
UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}  # of sizes and lengths, such as 1.5B


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
    `status` is not "done" is left out. Of a metric such as "metric/loss" the columns
    "metric/loss/DOMAIN" are kept too, see `fit_law`.

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
    domains, metrics = as_list(domains), as_list(metrics)
    shares = weight_columns(table, domains, alone, str(path))
    found = metric_columns(table, shares, metrics, str(losses or path))
    names = row_names(table)
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
        names = tuple(name for name, gone in zip(names, lost, strict=True) if not gone)
        table = table[~lost]
    runs = Runs(
        domains=tuple(_domain_name(name, prefix) for name in shares),
        weights=np.column_stack([read_numbers(table[name], name, names) for name in shares]),
        metrics={name: column[~lost] for name, column in values.items()},
        names=names,
        size=_optional(table, SIZES, names),
        length=_optional(table, LENGTHS, names),
        notes=tuple(notes),
        parts=_parts(table, found, names),
    )
    if len(set(runs.domains)) < len(runs.domains):
        raise InputError(f"prefix={prefix!r} gives two columns of weights the same domain.")
    runs = drop_copies(runs)
    for note in runs.notes:
        warnings.warn(note, stacklevel=2)
    return runs


def _parts(table: pd.DataFrame, metrics: Sequence[str], names: Sequence[str]) -> dict[str, Array]:
    """Return the columns that one of the metrics may be the mean of, and that are no metric."""
    columns = [str(name) for name in table if has_numbers(table[name])]
    found = [name for metric in metrics for name in names_of_parts(metric, columns)]
    return {n: read_numbers(table[n], n, names) for n in found if n not in metrics}


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


def read_counts(column: pd.Series, name: str, names: Sequence[str]) -> np.ndarray:
    """Return a column of sizes or lengths as [N] float64; cells may be such as "60M" or "1.5B"."""
    if not pd.api.types.is_numeric_dtype(column):
        column = column.map(_count)
    return read_numbers(column, name, names)


def _count(cell: object) -> object:
    found = re.fullmatch(r"\s*([\d.]+(?:e[+-]?\d+)?)\s*([kmbt]?)\s*", str(cell), re.IGNORECASE)
    return cell if found is None else float(found[1]) * UNITS[found[2].lower()]


def _optional(table: pd.DataFrame, known: Sequence[str], names: Sequence[str]) -> np.ndarray | None:
    column = next((n for n in table if str(n).lower() in known), None)
    if column is None:
        return None
    values = read_counts(table[column], str(column), names)
    wrong = ~(np.isfinite(values) & (values > 0))
    if wrong.any():
        row = int(wrong.argmax())
        reason = "is missing" if np.isnan(values[row]) else f"is {values[row]:g}"
        raise InputError(
            f"run {names[row]}: {str(column)!r} {reason} ({wrong.sum()} of {len(wrong)} runs are "
            "so): give a number above 0, or remove the row or the column."
        )
    return values


def _domain_name(column: str, prefix: str) -> str:
    for mark in ("weight/", "weights/", prefix):
        column = column.removeprefix(mark)
    return column
