"""What the readers of files share: the form of a row, opening text, and checks."""

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from tandem_pl.errors import InputError
from tandem_pl.files import encoding_of

COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
MAGIC = {b"\x1f\x8b\x08": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}


class RowError(InputError):
    """A row, or the rest of a file, that cannot be read; a source may skip it.

    A reader yields it to go on with the next row, or raises it to give up the file.
    """


class ReadAs(NamedTuple):
    """What files were read as, and how many rows they had; yielded after the rows."""

    kind: str
    rows: int
    files: int = 1


class Remark(NamedTuple):
    """A reader's count of what a user should know of a file; `about` is a key of `SENTENCES`."""

    about: str
    path: str
    number: int


SENTENCES = {
    "line breaks": "{count:,} lines more than rows, since quoted fields hold line breaks; if these "
    "lines are rows of their own, set quotes to false in the map of the source.",
    "quotes": "{count:,} rows with fields in quotes, which are kept as text; if they only enclose "
    "the fields, set quotes to true in the map of the source.",
}


def sentences(remarks: Iterable[Remark]) -> Iterator[str]:
    """Yield a sentence for each kind of remark, with its sum over all files."""
    for about, sentence in SENTENCES.items():
        found = [remark for remark in remarks if remark.about == about]
        if found:
            others = f" and {len(found) - 1} other files have " if len(found) > 1 else " has "
            count = sum(remark.number for remark in found)
            yield f"{found[0].path}{others}{sentence.format(count=count)}"


#: `(where, row)`: `where` names the file and line for messages, `row` maps columns to values.
Row = tuple[str, dict[str, Any]]
Rows = Iterator[Row | RowError | ReadAs | Remark]


class OptionalColumn(str):
    """The name of a column that may be missing: it is then not in the row."""


#: Names of the columns to read; None for all that a row has.
Columns = Sequence[str] | None
#: `reader(path, columns, encoding_errors)` yields the rows of one file, with these columns only.
Reader = Callable[[Path, Columns, str], Rows]


def suffix_of(path: Path) -> str:
    """Return the suffix that tells the kind of file: in lower case, without a compression's.

    Example:
        >>> suffix_of(Path("a.JSONL")), suffix_of(Path("a.jsonl.gz")), suffix_of(Path("notes"))
        ('.jsonl', '.jsonl', '')
    """
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in COMPRESSED else suffix


def open_text(path: Path, encoding_errors: str = "raise") -> TextIO:
    r"""Open a file, decompressed, as text: UTF-8, or what a byte order mark says.

    Lines end with "\n" only, and line ends are kept. Bytes that are not UTF-8 become surrogates, so
    that one bad row does not stop the file: pass the text that you use to `check_text`. The mark
    is no part of the text. UTF-16 that is cut or broken raises `UnicodeDecodeError` where it is
    read, or is replaced.
    """
    data = path.open("rb")
    compression = COMPRESSED.get(path.suffix.lower()) or _known(MAGIC, data.peek(4))
    if compression:
        import pyarrow as pa

        data.close()
        data = io.BufferedReader(pa.input_stream(str(path), compression=compression), 1 << 20)
    encoding = encoding_of(data.peek(4)[:4])
    errors = "surrogateescape"
    if not encoding.startswith("utf-8"):
        errors = "replace" if encoding_errors == "replace" else "strict"
    return io.TextIOWrapper(data, encoding=encoding, errors=errors, newline="\n")


def _known(magic: Mapping[bytes, str], head: bytes) -> str | None:
    return next((name for start, name in magic.items() if head.startswith(start)), None)


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


def check_columns(columns: Columns, present: Sequence[str], where: str) -> None:
    """Raise `RowError`, naming the columns present, if one that must be there is missing."""
    for column in required(columns) or ():
        if column not in present:
            raise RowError(
                f"{where} has no column {column!r}; it has {_listed(present) or 'none'}: name one "
                "of these."
            )


def required(columns: Columns) -> Columns:
    """Return the columns that must be there."""
    if columns is None:
        return None
    return [column for column in columns if not isinstance(column, OptionalColumn)]


def check_one_column(columns: Columns, path: Path) -> list[str]:
    """Return the one column; raise `InputError` if others are asked of a file that is one text."""
    columns = required(columns)
    if columns is None or len(columns) != 1:
        needed = "a domain column is" if columns is None else f"{_listed(columns)} are"
        raise InputError(
            f"{path} is a plain text file, which has one column, but {needed} needed; give JSON "
            "lines, Parquet or CSV."
        )
    return list(columns)


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(map(repr, columns))


def digest_files(files: Iterable[Path], mark: Callable[[Path], str] = lambda path: "") -> str:
    """Return what changes with the files' names, sizes and times of change, and their marks."""
    digest = hashlib.blake2b(digest_size=16)
    for path in files:
        stat = path.stat() if path.exists() else path.lstat()  # a link to nothing
        digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n{mark(path)}".encode())
    return digest.hexdigest()
