"""JSON: one object a line, or objects one after the other, in an array or not.

Not by the reader of `datasets`: it turns text that looks like a date into one, and does not name
the line that is corrupt.
"""

import json
import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from .reading import Columns, RowError, Rows, check_columns, check_text, decode, open_text

HALF_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
BETWEEN = string.whitespace + "\ufeff"  # files with byte order marks may have been joined
CHUNK = 1 << 20  # characters read at once
LONGEST = 1 << 28  # characters of a value, about


def read_json_lines(path: Path, columns: Columns, encoding_errors: str) -> Rows:
    """Yield a row for each line that is not empty."""
    with open_text(path, encoding_errors) as file:
        for number, line in enumerate(file, start=1):
            line = line.strip(BETWEEN)
            if line:
                yield _row(line, f"{path}, line {number}", columns, encoding_errors)


def read_json_values(path: Path, columns: Columns, encoding_errors: str) -> Rows:
    """Yield a row for each object of an array, or of objects that may span lines."""
    with open_text(path, encoding_errors) as file:
        for number, text in _values(file, str(path)):
            yield _row(text, f"{path}, line {number}", columns, encoding_errors)


def _row(
    text: str, where: str, columns: Columns, encoding_errors: str
) -> tuple[str, dict[str, Any]] | RowError:
    try:
        row = _parse(check_text(text, where, encoding_errors), where, encoding_errors)
        check_columns(columns, list(row), where)
    except RowError as error:
        return error
    return where, row if columns is None else {c: row[c] for c in columns if c in row}


def _parse(text: str, where: str, encoding_errors: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
        if HALF_SURROGATE.search(text):
            # JSON can spell half a surrogate pair, which no UTF-8 text can hold.
            data = json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass")
            row = json.loads(decode(data, where, encoding_errors))
    except (json.JSONDecodeError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deep"
        raise RowError(
            f"{where} is not valid JSON ({reason}); correct or delete that line, or set corrupt "
            'to "skip".'
        ) from error
    if not isinstance(row, dict):
        raise RowError(f'{where} is not a JSON object; write one a line, or set corrupt to "skip".')
    return row


def _values(file: TextIO, path: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each value; memory is that of the longest."""
    decoder = json.JSONDecoder()
    text, start, line, array = file.read(CHUNK), 0, 1, False
    while True:
        end = start
        while end < len(text) and text[end] in BETWEEN + ",":
            end += 1
        line += text.count("\n", start, end)
        start = end
        if text.startswith("]" if array else "[", start):
            array = not array
            start += 1
            continue
        try:
            _, end = decoder.raw_decode(text, start)
            # A number may go on in the next chunk; an object cannot.
            whole = end < len(text) or text[end - 1] in "]}"
            reason = "it ends early"
        except (json.JSONDecodeError, RecursionError) as error:
            whole, reason = False, getattr(error, "msg", "nested too deep")
        if not whole:
            left = len(text) - start
            more = file.read(max(CHUNK, left)) if left < LONGEST else ""
            if more:
                text, start = text[start:] + more, 0
                continue
            if not left and not array:
                return
            if end == start:
                raise RowError(
                    f"{path}, line {line} is not valid JSON ({reason}); correct it, or set corrupt "
                    'to "skip", which leaves out the rest of the file.'
                )
        yield line, text[start:end]
        line += text.count("\n", start, end)
        start = end
