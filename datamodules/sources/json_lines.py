"""JSON lines: one object a line.

Not by the reader of `datasets`: it turns text that looks like a date into one, and does not name
the line that is corrupt.
"""

import json
import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .reading import RowError, Rows, check_columns, check_text, decode, open_text

HALF_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_json_lines(path: Path, columns: Sequence[str], encoding_errors: str) -> Rows:
    """Yield a row for each line that is not empty."""
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip(string.whitespace):
                continue
            where = f"{path}, line {number}"
            try:
                row = _parse(check_text(line, where, encoding_errors), where, encoding_errors)
            except RowError as error:
                yield error
                continue
            check_columns(columns, list(row), where)
            yield where, {column: row[column] for column in columns}


def _parse(line: str, where: str, encoding_errors: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
        if HALF_SURROGATE.search(line):
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
