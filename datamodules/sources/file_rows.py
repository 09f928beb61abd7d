"""Rows of one file: JSON lines, Parquet, CSV, or plain text, which is one row.

Every reader is a generator of `(where, row)`; `where` names the file and the line or row, for
messages. What cannot be read goes to `refuse`, which raises or counts (see `sources.Source`).
Compressed files (`.gz`, `.bz2`, `.zst`) are opened on the fly.
"""

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from tandem_pl.errors import InputError

JSON_LINES = {".jsonl", ".ndjson"}
PARQUET = {".parquet", ".pq"}
CSV = {".csv": ",", ".tsv": "\t"}
COMPRESSED = {".gz", ".bz2", ".zst"}
PARQUET_ROWS = 256  # rows decoded at once
HALF_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

#: Takes the message on a line that cannot be used.
Refuse = Callable[[str], None]
Rows = Iterator[tuple[str, dict[str, Any]]]


def suffix_of(path: Path) -> str:
    """The suffix that tells the kind of file, in lower case and without that of a compression.

    Example:
        >>> suffix_of(Path("a.JSONL")), suffix_of(Path("a.jsonl.gz")), suffix_of(Path("notes"))
        ('.jsonl', '.jsonl', '')
    """
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in COMPRESSED else suffix


def read_rows(path: Path, columns: Sequence[str], encoding_errors: str, refuse: Refuse) -> Rows:
    """The rows of one file, with the named columns and no others.

    Args:
        path: the file; its suffix tells how to read it.
        columns: what every row must have. A plain text file is one row whose only column has
            whatever name is asked for.
        encoding_errors: `"raise"` refuses text that is not UTF-8, `"replace"` puts U+FFFD there.
        refuse: is given the message on every line that cannot be read.

    Raises:
        InputError: a missing column, or a file that is not what its suffix says.
    """
    suffix = suffix_of(path)
    if suffix in PARQUET:
        return _read_parquet(path, columns)
    if suffix in JSON_LINES:
        return _read_json_lines(path, columns, encoding_errors, refuse)
    if suffix in CSV:
        return _read_csv(path, columns, encoding_errors, refuse)
    return _read_text(path, columns, encoding_errors, refuse)


def check_columns(columns: Sequence[str], present: Sequence[str], where: str) -> None:
    """Raises `InputError`, naming the columns present, where one of `columns` is not."""
    for column in columns:
        if column not in present:
            raise InputError(
                f"{where} has no column {column!r}; it has {', '.join(map(repr, present))}: "
                "name one of these."
            )


def is_binary(path: Path) -> bool:
    """Whether a NUL byte stands in the first 8000 bytes, which is how git tells too."""
    if path.suffix.lower() in COMPRESSED:
        return False
    try:
        with path.open("rb") as file:
            return b"\0" in file.read(8000)
    except OSError:
        return False  # whoever reads it says why not


def _open(path: Path) -> BinaryIO:
    if path.suffix.lower() not in COMPRESSED:
        return path.open("rb")
    import pyarrow as pa

    return io.BufferedReader(pa.input_stream(str(path), compression="detect"), 1 << 20)


def _decode(data: bytes, where: str, encoding_errors: str) -> str:
    try:
        return data.decode("utf-8", errors="strict" if encoding_errors == "raise" else "replace")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where} is not UTF-8 text (byte {error.start}); convert it, narrow the pattern to "
            'text files, or set encoding_errors to "replace" or corrupt to "skip".'
        ) from error


def _read_text(path: Path, columns: Sequence[str], encoding_errors: str, refuse: Refuse) -> Rows:
    if len(columns) != 1:
        raise InputError(
            f"{path} is a plain text file, which has one column, where "
            f"{', '.join(map(repr, columns))} are needed; give JSON lines, Parquet or CSV."
        )
    try:
        with _open(path) as file:
            text = _decode(file.read(), str(path), encoding_errors)
    except InputError as error:
        refuse(str(error))
        return
    yield str(path), {columns[0]: text}


def _read_json_lines(
    path: Path, columns: Sequence[str], encoding_errors: str, refuse: Refuse
) -> Rows:
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                row = _parse_json(line, where, encoding_errors)
            except InputError as error:
                refuse(str(error))
                continue
            check_columns(columns, list(row), where)
            yield where, {column: row[column] for column in columns}


def _parse_json(line: bytes, where: str, encoding_errors: str) -> dict[str, Any]:
    text = _decode(line, where, encoding_errors)
    try:
        row = json.loads(text)
        if HALF_SURROGATE.search(line):
            # JSON can spell half a surrogate pair, which no UTF-8 text can hold.
            data = json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass")
            row = json.loads(_decode(data, where, encoding_errors))
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(
            f"{where} is not valid JSON ({getattr(error, 'msg', 'nested too deep')}); mend or "
            'delete that line, or set corrupt to "skip".'
        ) from error
    if not isinstance(row, dict):
        raise InputError(
            f'{where} is not a JSON object; write one a line, or set corrupt to "skip".'
        )
    return row


def _read_csv(path: Path, columns: Sequence[str], encoding_errors: str, refuse: Refuse) -> Rows:
    csv.field_size_limit(sys.maxsize)  # a document may be longer than the default of 131072
    with _open(path) as file:
        # A quoted text may hold line ends, so lines are decoded loosely and rows checked whole.
        lines = (line.decode("utf-8", errors="surrogateescape") for line in file)
        reader = csv.reader(lines, delimiter=CSV[suffix_of(path)], strict=True)
        try:
            header = next((cells for cells in reader if cells), None)
        except csv.Error as error:
            raise InputError(
                f"{path} has a header that is not valid CSV ({error}); mend it."
            ) from error
        if header is None:
            return
        header[0] = header[0].removeprefix("\ufeff")
        check_columns(columns, header, str(path))
        places = [header.index(column) for column in columns]
        while True:
            where = f"{path}, line {reader.line_num + 1}"
            try:
                cells = next(reader, None)
                if cells is None:
                    return
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise InputError(
                        f"{where} has {len(cells)} fields where the header has {len(header)}; "
                        'mend that line or set corrupt to "skip".'
                    )
                texts = [cells[place] for place in places]
                values = [
                    text
                    if text.isascii()
                    else _decode(text.encode("utf-8", "surrogateescape"), where, encoding_errors)
                    for text in texts
                ]
            except csv.Error as error:
                refuse(
                    f'{where} is not valid CSV ({error}); mend that line or set corrupt to "skip".'
                )
                continue
            except InputError as error:
                refuse(str(error))
                continue
            yield where, dict(zip(columns, values, strict=True))


def _read_parquet(path: Path, columns: Sequence[str]) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise InputError(
            f"{path} is not a Parquet file; write it again or leave it out."
        ) from error
    with table:
        check_columns(columns, table.schema_arrow.names, str(path))
        number = 0
        for batch in table.iter_batches(batch_size=PARQUET_ROWS, columns=list(columns)):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row
