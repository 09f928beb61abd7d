"""Plain text: every file is one row with one column."""

from pathlib import Path

from .reading import Columns, Rows, check_one_column, check_text, open_text


def read_text(path: Path, columns: Columns, encoding_errors: str) -> Rows:
    """Yield the whole file as one row; its column has the name that is asked for."""
    (column,) = check_one_column(columns, path)
    with open_text(path, encoding_errors) as file:
        text = file.read()
    yield str(path), {column: check_text(text, str(path), encoding_errors)}
