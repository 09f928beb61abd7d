"""Decide from the start of a file whether it holds rows in JSON."""

import json
from pathlib import Path
from typing import Any

from .json_lines import BETWEEN
from .reading import Columns, open_text, suffix_of

JSON_LINES = {".jsonl", ".ndjson", ".jl", ".jsonlines"}
JSON = {".json"}
SIZES = (1 << 12, 1 << 16, 1 << 20, 1 << 24)  # characters looked at, while the first row is longer
LOOKED_AT = 16  # rows in which the columns are looked for


def json_form(path: Path, columns: Columns) -> str | None:
    """Return "JSON lines", "JSON array" or "JSON objects"; None for any other text.

    Files named as JSON lines are that unless they begin with an array or an object of several
    lines. A `.json` file may be a document of its own, such as a program's settings, and so may any
    other text: it holds rows if one of its first objects has the columns.
    """
    suffix = suffix_of(path)
    named = "lines" if suffix in JSON_LINES else "json" if suffix in JSON else ""
    default = "JSON lines" if named == "lines" else None
    try:
        with open_text(path) as file:
            text = ""
            for size in SIZES:
                text += file.read(size - len(text))
                head = text.lstrip(BETWEEN)
                if not head.startswith(("{", "[")) and head:
                    return default
                rows, rest, lines = _first_rows(head)
                if rows or len(text) < size:
                    break
    except (OSError, UnicodeDecodeError):
        return default  # the reader names the reason
    if not rows:
        return default
    form = "JSON array" if head[0] == "[" else "JSON objects" if lines > 1 else "JSON lines"
    if named == "lines":
        return form
    if named == "" and head[0] != "[" and rest.lstrip(BETWEEN)[:1] not in ("", "{"):
        return None  # text that begins with an object
    several = len(rows) > 1 or head[0] == "["
    if columns is None or (len(columns) > 1 and named):
        return form if several or named else None
    return form if any(all(c in row for c in columns) for row in rows) else None


def _first_rows(head: str) -> tuple[list[dict[str, Any]], str, int]:
    """Return the first objects, what follows the first, and the lines that the first spans."""
    decoder = json.JSONDecoder()
    rows: list[dict[str, Any]] = []
    rest, lines, end = "", 0, int(head.startswith("["))
    try:
        while len(rows) < LOOKED_AT:
            start = len(head) - len(head[end:].lstrip(BETWEEN + ","))
            row, end = decoder.raw_decode(head, start)
            if not isinstance(row, dict):
                break
            if not rows:
                rest, lines = head[end:], 1 + head.count("\n", start, end)
            rows.append(row)
    except (json.JSONDecodeError, RecursionError):
        pass  # the rows so far
    return rows, rest, lines
