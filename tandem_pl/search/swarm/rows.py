"""The rows of a swarm's table: one small file each, and all of them in `runs.csv`.

Processes on several machines may finish rows at the same time, so each has a file of its own.
"""

from __future__ import annotations

import csv
import json
import os
import re
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tandem_pl.errors import InputError
from tandem_pl.files import csv_bytes, write_atomically

Row = dict[str, Any]
TABLE, ROWS = "runs.csv", "rows"
DONE, FAILED = "done", "failed"


def row_of(
    number: int,
    weights: Mapping[str, float],
    losses: Mapping[str, float],
    shares: Mapping[str, float],
    columns: Mapping[str, float],
) -> Row:
    """Return the row of a proxy that ended.

    Args:
        number: of the proxy.
        weights: domain -> share.
        losses: target domain -> loss.
        shares: target domain -> its share of `metric/loss`.
        columns: more of them, such as `size` and `tokens`.
    """
    mean = sum(shares[name] * loss for name, loss in losses.items())
    row: Row = {"run": f"{number:05}", "status": DONE, **columns}
    row |= {f"weight/{name}": share for name, share in weights.items()}
    row |= {"metric/loss": mean}
    return row | {f"metric/loss/{name}": loss for name, loss in losses.items()}


def failed_row(number: int, weights: Mapping[str, float], reason: str) -> Row:
    """Return the row of a proxy that failed."""
    row = {"run": f"{number:05}", "status": FAILED}
    return row | {f"weight/{name}": share for name, share in weights.items()} | {"reason": reason}


def write_row(folder: Path, row: Row) -> None:
    """Write the file of a row."""
    write_atomically(folder / ROWS / f"{row['run']}.json", json.dumps(row).encode())


def write_shared(path: Path, content: bytes) -> None:
    """Write a file that other processes may be writing too; one of the contents is left."""
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    write_atomically(scratch, content)
    os.replace(scratch, path)


def read_rows(folder: Path) -> dict[int, Row]:
    """Return the rows by number: those of the table, and those that are not in it yet."""
    found: dict[int, Row] = {}
    if (folder / TABLE).exists():
        with open(folder / TABLE, newline="", encoding="utf-8") as file:
            found = {int(row["run"]): row for row in csv.DictReader(file)}
    for path in (folder / ROWS).glob("*.json"):
        if re.fullmatch(r"\d+", path.stem):
            found[int(path.stem)] = json.loads(path.read_text())
    return found


def write_table(folder: Path) -> dict[int, Row]:
    """Write all rows to `runs.csv`, and return them.

    They are read again after writing, because another process may have written a table without
    some of them.
    """
    rows = read_rows(folder)
    while True:
        _write(folder, rows)
        again = read_rows(folder)
        if again.keys() == rows.keys():
            return rows
        rows = again


def forget_failures(folder: Path, numbers: Iterable[int]) -> None:
    """Remove the failed rows among some proxies, so that they are run again."""
    rows = read_rows(folder)
    for number in numbers:
        if number in rows and rows[number]["status"] != DONE:
            del rows[number]
            (folder / ROWS / f"{number:05}.json").unlink(missing_ok=True)
    _write(folder, rows)


def check_results(done: int, tried: int, folder: Path) -> None:
    """Raise an error if too few runs ended well for further ones to be chosen by their results."""
    if done < 2:
        raise InputError(
            f"{done} of {tried} runs ended well, and the search needs 2: see {folder / TABLE} for "
            "the reasons; --retry runs them again."
        )


def _write(folder: Path, rows: Mapping[int, Row]) -> None:
    ordered = [rows[number] for number in sorted(rows)]
    longest_first = sorted(ordered, key=len, reverse=True)  # failed ones miss the metrics
    columns = list(dict.fromkeys(key for row in longest_first for key in row))
    cells = [[row.get(key, "") for key in columns] for row in ordered]
    write_shared(folder / TABLE, csv_bytes(columns, cells))
