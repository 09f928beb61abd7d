"""The rows of files: which reader reads which kind of file.

To read another kind of file, write its reader in a file of its own and add its suffix to `READERS`;
see README.md.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from .csv_rows import read_csv
from .json_form import JSON_LINES, json_form
from .json_lines import read_json_lines, read_json_values
from .parquet_rows import read_parquet
from .plain_text import read_text
from .reading import (
    Columns,
    ReadAs,
    Reader,
    Remark,
    RowError,
    Rows,
    open_text,
    required,
    suffix_of,
)

PARQUET = {".parquet", ".pq"}
PARQUET_MAGIC = b"PAR1"
BINARY = PARQUET  # kept when a folder is listed; other binary files are left out
CSV = {".csv": ",", ".tsv": "\t"}
JSON_READERS: dict[str | None, Reader] = {
    "JSON lines": read_json_lines,
    "JSON array": read_json_values,
    "JSON objects": read_json_values,
}

#: suffix -> reader; of any other file the content decides: rows in JSON, or plain text.
READERS: dict[str, Reader] = {
    **dict.fromkeys(PARQUET, read_parquet),
    ".csv": partial(read_csv, delimiter=",", quotes=True),
    ".tsv": partial(read_csv, delimiter="\t", quotes=False),
}
KINDS = {".parquet": "Parquet", ".pq": "Parquet", ".csv": "CSV", ".tsv": "TSV"}


def find_reader(path: Path, columns: Columns, quotes: bool | None = None) -> tuple[str, Reader]:
    """Return the kind of a file, as a user calls it, and its reader.

    Args:
        path: the file.
        columns: the columns to read, which distinguish rows in JSON from a document in JSON.
        quotes: whether fields of CSV and TSV may stand in quotes; None: those of CSV.
    """
    suffix = suffix_of(path)
    if suffix in CSV and quotes is not None:
        return KINDS[suffix], partial(read_csv, delimiter=CSV[suffix], quotes=quotes)
    if suffix in READERS:
        return KINDS.get(suffix, suffix), READERS[suffix]
    if is_parquet(path):
        return "Parquet", read_parquet
    form = json_form(path, required(columns))
    return (form, JSON_READERS[form]) if form else ("text", read_text)


def is_parquet(path: Path) -> bool:
    """Return whether a file begins as Parquet does."""
    try:
        with path.open("rb") as file:
            return file.read(4) == PARQUET_MAGIC
    except OSError:
        return False  # the reader names the reason


def mark_reading(path: Path, columns: Columns, quotes: bool | None) -> str:
    """Return how a file is read if the first version read it in another way; "" for most files.

    It is part of the digests that caches are named by: old caches stay in use unless their files
    are read in another way now.
    """
    suffix = suffix_of(path)
    if suffix in PARQUET:
        return ""
    if suffix in READERS and suffix not in CSV:
        return suffix  # a kind that was added later: it was plain text before
    try:
        with open_text(path) as file:
            encoding = file.encoding
    except (OSError, UnicodeDecodeError):
        return ""
    marks = [] if encoding == "utf-8" else [encoding]
    if suffix == ".tsv" or quotes is not None:
        marks.append(f"quotes={bool(quotes)}")
    kind = "" if suffix in JSON_LINES or suffix in READERS else json_form(path, columns)
    return " ".join([*marks, kind] if kind else marks)


def read_files(
    files: Sequence[Path], encoding_errors: str, columns: Columns, quotes: bool | None = None
) -> Rows:
    """Yield the rows of one file after the other, with the named columns only.

    Args:
        files: the files.
        encoding_errors: `"raise"` makes text that is not UTF-8 a `RowError`; `"replace"` puts
            U+FFFD in place of the bytes that are not.
        columns: names of the columns; None for all.
        quotes: see `find_reader`.
    """
    for path in files:
        kind, reader = find_reader(path, columns, quotes)
        rows = 0
        try:
            for item in reader(path, columns, encoding_errors):
                rows += not isinstance(item, RowError | Remark)
                yield item
        except RowError as error:
            yield error
        except UnicodeDecodeError as error:
            yield RowError(
                f"{path} is not {error.encoding.upper()} text, as it begins ({error.reason}); "
                'convert it, or set encoding_errors to "replace" or corrupt to "skip".'
            )
        except OSError as error:  # also of compressed files that are cut short
            yield RowError(
                f"{path} cannot be read ({error.strerror or error}); repair the file, leave it "
                'out, or set corrupt to "skip".'
            )
        yield ReadAs(kind, rows)
