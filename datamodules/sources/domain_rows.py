"""Files with a domain column: their rows are written into a cache once, and found there by domain.

The rows are those of the readers of files, so that values are as in the file and a bad row is
named; the builders of `datasets` guess types. A row is kept as JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from tandem_pl.errors import InputError
from tandem_pl.files import new_folder

from .cache_folder import default_cache_dir
from .file_rows import CSV, mark_reading, read_files
from .reading import (
    Columns,
    ReadAs,
    Remark,
    RowError,
    Rows,
    check_columns,
    digest_files,
    suffix_of,
)

FORMAT = 1  # raise it if the same files give other rows
ROWS, ABOUT = "rows.arrow", "about.json"
NAMES = ("where", "domain", "row")
SCHEMA = pa.schema(dict.fromkeys(NAMES, pa.large_string()))
ROWS_AT_ONCE = 1000


def open_rows(
    files: Sequence[Path],
    domain_column: str,
    encoding_errors: str,
    quotes: bool | None,
    stop: bool,
) -> tuple[Any, dict[str, Any]]:
    """Open the rows of files as a `datasets.Dataset`; they are written first if they are not yet.

    Args:
        files: files of any kind that has columns.
        domain_column: the column of the domain, `meta.source` for a field inside a column.
        encoding_errors: see `read_files`.
        quotes: see `find_reader`.
        stop: whether to stop at the first row that cannot be read or has no domain.

    Returns:
        The data set with the columns `NAMES`, texts all; and a map of `kinds` (kind -> files),
        `remarks`, `skipped` (rows left out) and `first_skipped` (the message on the first).

    Raises:
        InputError: with `stop`, for such a row.
    """
    from datasets import Dataset

    settings = json.dumps([FORMAT, digest_rows(files, quotes), domain_column, encoding_errors])
    name = hashlib.blake2b(settings.encode(), digest_size=12).hexdigest()
    folder = default_cache_dir() / f"rows-{name}"
    if not (folder / ABOUT).exists():
        with new_folder(folder, done=ABOUT) as scratch:
            rows = read_files(files, encoding_errors, None, quotes)
            _write(scratch, rows, domain_column, stop)
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    if stop and about["skipped"]:
        raise InputError(about["first_skipped"])
    return Dataset.from_file(str(folder / ROWS)), about


def digest_rows(files: Sequence[Path], quotes: bool | None) -> str:
    """Return what changes whenever the rows may have changed."""

    def mark(path: Path) -> str:
        guessed = "texts" if suffix_of(path) in CSV else ""  # by pandas, in older caches
        return mark_reading(path, None, quotes) or guessed

    return digest_files(files, mark)


def read_rows(data: Any, kinds: Mapping[str, int], numbers: np.ndarray, columns: Columns) -> Rows:
    """Yield the rows with these numbers, with the named columns only.

    Args:
        data: the data set that `open_rows` returned.
        kinds: kind -> files, of all files.
        numbers: the rows' numbers, shape `[rows]`.
        columns: names of the columns.
    """
    chosen = data.select(numbers)
    for batch in chosen.iter(batch_size=ROWS_AT_ONCE):
        for where, text in zip(batch["where"], batch["row"], strict=True):
            row = json.loads(text)
            try:
                check_columns(columns, list(row), where)
            except RowError as error:
                yield error
            else:
                yield where, {column: row[column] for column in columns or row if column in row}
    yield ReadAs(", ".join(kinds), len(chosen), sum(kinds.values()))


class RowWriter:
    """Writes rows with the columns `NAMES` to a file; use it in a `with` statement."""

    def __init__(self, path: Path) -> None:
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_stream(self._file, SCHEMA)
        self._rows: list[tuple[str, str, str]] = []

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._flush()
            self._writer.close()
        finally:
            self._file.close()

    def write(self, where: str, domain: str, row: Mapping[str, Any]) -> None:
        """Write a row."""
        self.write_text(where, domain, json.dumps(row, ensure_ascii=False, default=str))

    def write_text(self, where: str, domain: str, row: str) -> None:
        """Write a row that is JSON."""
        self._rows.append((where, domain, row))
        if len(self._rows) == ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        columns = zip(*self._rows, strict=True) if self._rows else ((), (), ())
        arrays = [pa.array(column, pa.large_string()) for column in columns]
        self._writer.write_batch(pa.record_batch(arrays, SCHEMA))
        self._rows = []


def _write(folder: Path, rows: Rows, domain_column: str, stop: bool) -> None:
    about: dict[str, Any] = {"kinds": {}, "remarks": [], "skipped": 0, "first_skipped": None}

    def texts() -> Iterator[tuple[str, str, str]]:
        for item in tqdm(rows, desc="reading the data set", unit=" rows", delay=1):
            if isinstance(item, ReadAs):
                about["kinds"][item.kind] = about["kinds"].get(item.kind, 0) + item.files
            elif isinstance(item, Remark):
                about["remarks"].append(item)
            else:
                try:
                    if isinstance(item, RowError):
                        raise item
                    where, row = item
                    domain = _domain(row, domain_column, where)
                    yield where, domain, json.dumps(row, ensure_ascii=False, default=str)
                except RowError as error:
                    if stop:
                        raise
                    about["skipped"] += 1
                    about["first_skipped"] = about["first_skipped"] or str(error)

    with RowWriter(folder / ROWS) as writer:
        for where, domain, text in texts():
            writer.write_text(where, domain, text)
    (folder / ABOUT).write_text(json.dumps(about), encoding="utf-8")


def _domain(row: dict[str, Any], column: str, where: str) -> str:
    first, *fields = [column] if column in row else column.split(".")
    check_columns([first], list(row), where)
    value: Any = row[first]
    for field in fields:
        value = value.get(field) if isinstance(value, dict) else None
    if value is None or value == "":
        raise RowError(
            f"{where} has no value in column {column!r}; add one, name another domain_column, or "
            'set corrupt to "skip".'
        )
    if isinstance(value, dict | list):
        raise RowError(
            f"{where} has a {type(value).__name__} in column {column!r}; name a field inside it as "
            'domain_column, such as meta.source, or set corrupt to "skip".'
        )
    return value if isinstance(value, str) else json.dumps(value, default=str)
