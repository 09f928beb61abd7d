"""Plain text: every file is one row with one column."""

from collections.abc import Sequence
from pathlib import Path

from .reading import Rows, check_one_column, check_text, open_text


def read_text(path: Path, columns: Sequence[str], encoding_errors: str) -> Rows:
    """Yield the whole file as one row; its column has the name that is asked for."""
    check_one_column(columns, path)
    with open_text(path) as file:
        text = file.read()
    yield str(path), {columns[0]: check_text(text, str(path), encoding_errors)}
