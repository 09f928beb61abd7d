"""Plain text: every file is one row with one column."""

from collections.abc import Sequence
from pathlib import Path

from tandem_pl.errors import InputError

from .reading import Rows, check_text, open_text


def read_text(path: Path, columns: Sequence[str], encoding_errors: str) -> Rows:
    """Yield the whole file as one row; its column has the name that is asked for."""
    if len(columns) != 1:
        raise InputError(
            f"{path} is a plain text file, which has one column, but "
            f"{', '.join(map(repr, columns))} are needed; give JSON lines, Parquet or CSV."
        )
    with open_text(path) as file:
        text = file.read()
    yield str(path), {columns[0]: check_text(text, str(path), encoding_errors)}
