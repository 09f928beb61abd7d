"""What the readers of files share: the form of a row, opening text, and checks."""

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from tandem_pl.errors import InputError

COMPRESSED = {".gz", ".bz2", ".zst"}


class RowError(InputError):
    """A row, or the rest of a file, that cannot be read; a source may skip it.

    A reader yields it to go on with the next row, or raises it to give up the file.
    """


#: `(where, row)`: `where` names the file and line for messages, `row` maps columns to values.
Row = tuple[str, dict[str, Any]]
Rows = Iterator[Row | RowError]

#: `reader(path, columns, encoding_errors)` yields the rows of one file, with these columns only.
Reader = Callable[[Path, Sequence[str], str], Rows]


def suffix_of(path: Path) -> str:
    """Return the suffix that tells the kind of file: in lower case, without a compression's.

    Example:
        >>> suffix_of(Path("a.JSONL")), suffix_of(Path("a.jsonl.gz")), suffix_of(Path("notes"))
        ('.jsonl', '.jsonl', '')
    """
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in COMPRESSED else suffix


def open_text(path: Path) -> TextIO:
    r"""Open a file, decompressed, as UTF-8 text.

    Lines end with "\n" only, and line ends are kept. Bytes that are not UTF-8 become surrogates, so
    that one bad row does not stop the file: pass the text that you use to `check_text`.
    """
    if path.suffix.lower() in COMPRESSED:
        import pyarrow as pa

        data = io.BufferedReader(pa.input_stream(str(path), compression="detect"), 1 << 20)
    else:
        data = path.open("rb")
    return io.TextIOWrapper(data, encoding="utf-8", errors="surrogateescape", newline="\n")


def check_text(text: str, where: str, encoding_errors: str) -> str:
    """Return text of `open_text` as valid text.

    Args:
        text: as read.
        where: what messages call it.
        encoding_errors: `"replace"` puts U+FFFD in place of bytes that are not UTF-8.

    Raises:
        RowError: with `encoding_errors="raise"`, a byte that is not UTF-8.
    """
    try:
        if not text.isascii():
            text.encode("utf-8")
    except UnicodeEncodeError:
        return decode(text.encode("utf-8", "surrogateescape"), where, encoding_errors)
    return text


def decode(data: bytes, where: str, encoding_errors: str) -> str:
    """Decode UTF-8; see `check_text`."""
    try:
        return data.decode("utf-8", errors="strict" if encoding_errors == "raise" else "replace")
    except UnicodeDecodeError as error:
        raise RowError(
            f"{where} is not UTF-8 text (byte {error.start}); convert it, narrow the pattern to "
            'text files, or set encoding_errors to "replace" or corrupt to "skip".'
        ) from error


def check_columns(columns: Sequence[str], present: Sequence[str], where: str) -> None:
    """Raise `InputError`, naming the columns present, if one of `columns` is missing."""
    for column in columns:
        if column not in present:
            raise InputError(
                f"{where} has no column {column!r}; it has {', '.join(map(repr, present))}: "
                "name one of these."
            )


def check_one_column(columns: Sequence[str], path: Path) -> None:
    """Raise `InputError` if more than one column is asked of a file that is one text."""
    if len(columns) != 1:
        raise InputError(
            f"{path} is a plain text file, which has one column, but "
            f"{', '.join(map(repr, columns))} are needed; give JSON lines, Parquet or CSV."
        )


def digest_files(files: Iterable[Path]) -> str:
    """Return what changes with the files' names, sizes and times of change."""
    digest = hashlib.blake2b(digest_size=16)
    for path in files:
        stat = path.stat()
        digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()
