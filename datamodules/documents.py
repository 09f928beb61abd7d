"""Read documents: plain text, JSON lines, Parquet and saved Hugging Face datasets.

A document is one `str`. A domain's source is a path, a folder, a glob pattern or a list of them;
`list_files` turns it into a sorted list of files and `read_documents` reads those one document at a
time, so a corpus need not fit in memory. Every error is an `InputError` of one sentence that names
the domain or file and what to change.
"""

import glob
import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from tandem_pl.errors import InputError

JSON_LINES = {".jsonl", ".ndjson"}
PARQUET = {".parquet", ".pq"}

#: Calling it starts a fresh pass over the documents of one domain.
Reader = Callable[[], Iterator[str]]


def list_files(domain: str, source: str | Sequence[str]) -> list[Path]:
    """List the files of one domain, sorted by path, each once.

    Args:
        domain: name of the domain, for the error messages.
        source: a file, a folder (read recursively, hidden files left out), a glob pattern (`**`
            crosses folders), or a list of these. `~` is expanded.

    Raises:
        InputError: an entry matches no file.
    """
    found: set[Path] = set()
    for entry in [source] if isinstance(source, str) else source:
        path = Path(entry).expanduser()
        if path.is_file():
            matches = [path]
        elif path.is_dir():
            matches = [p for p in path.rglob("*") if p.is_file() and not _hidden(p, path)]
        else:
            matches = [Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file()]
        if not matches:
            raise InputError(
                f"domain {domain!r}: {str(entry)!r} matches no file; "
                f"give an existing file, folder or glob pattern (looked from {os.getcwd()})."
            )
        found.update(p.absolute() for p in matches)
    if not found:
        raise InputError(f"domain {domain!r} has an empty list of sources; give at least one path.")
    return sorted(found)


def read_documents(
    files: Sequence[Path], text_column: str = "text", encoding_errors: str = "raise"
) -> Iterator[str]:
    r"""Read the documents of `files` in order; documents of nothing but white space are left out.

    `.jsonl` and `.ndjson` files give one document a line, `.parquet` files one a row (both from
    `text_column`), and any other file is one document of plain text, its line ends kept as stored.

    Args:
        files: the files, as `list_files` gives them.
        text_column: column of JSON lines and Parquet files that holds the text.
        encoding_errors: `"raise"` stops at text that is not UTF-8; `"replace"` puts U+FFFD there.

    Raises:
        InputError: text that is not UTF-8, a corrupt line, a missing column, a text that is not a
            string.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "a.txt").write_text("one document")
        >>> _ = (folder / "b.jsonl").write_text('{"text": "two"}\n{"text": "three"}\n')
        >>> list(read_documents(list_files("demo", str(folder))))
        ['one document', 'two', 'three']
    """
    if encoding_errors not in ("raise", "replace"):
        raise InputError(f'encoding_errors is {encoding_errors!r}; give "raise" or "replace".')
    for path in files:
        suffix = path.suffix.lower()
        if suffix in JSON_LINES:
            texts = _read_json_lines(path, text_column, encoding_errors)
        elif suffix in PARQUET:
            texts = _read_parquet(path, text_column)
        else:
            texts = iter([_decode(path.read_bytes(), str(path), encoding_errors)])
        yield from (text for text in texts if text.strip())


def read_saved_dataset(
    folder: str, text_column: str = "text", domain_column: str = "domain"
) -> dict[str, Reader]:
    """Open a dataset saved with `Dataset.save_to_disk`: one reader a domain, names sorted.

    Args:
        folder: the saved dataset; it is memory-mapped, never loaded whole.
        text_column: column that holds the text.
        domain_column: column that holds the name of the document's domain.

    Raises:
        InputError: no saved dataset there, a folder of several splits, or a missing column.
    """
    from datasets import Dataset, load_from_disk

    path = Path(folder).expanduser()
    if not path.is_dir():
        raise InputError(
            f"dataset {folder!r} is not a folder; give one written by Dataset.save_to_disk."
        )
    try:
        data = load_from_disk(str(path))
    except FileNotFoundError as error:
        raise InputError(
            f"dataset {folder!r} is not a saved dataset; give a folder written by "
            "Dataset.save_to_disk."
        ) from error
    if not isinstance(data, Dataset):
        raise InputError(
            f"dataset {folder!r} holds the splits {', '.join(data)}; give the folder of one of "
            f"them, such as {str(path / next(iter(data)))!r}."
        )
    for column in (text_column, domain_column):
        _check_column(column, data.column_names, f"dataset {folder!r}")
    rows: dict[str, list[int]] = {}
    for row, domain in enumerate(data[domain_column]):
        rows.setdefault(str(domain), []).append(row)

    def read(domain: str) -> Iterator[str]:
        for text in data.select(rows[domain])[text_column]:
            if not isinstance(text, str):
                raise InputError(
                    f"dataset {folder!r} has a text of type {type(text).__name__} in column "
                    f"{text_column!r}, domain {domain!r}; every text must be a string."
                )
            if text.strip():
                yield text

    return {domain: partial(read, domain) for domain in sorted(rows)}


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _decode(data: bytes, where: str, encoding_errors: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        if encoding_errors == "replace":
            return data.decode("utf-8", errors="replace")
        raise InputError(
            f"{where} is not UTF-8 text (byte {error.start}); convert it, narrow the pattern to "
            'text files, or set encoding_errors to "replace".'
        ) from error


def _read_json_lines(path: Path, text_column: str, encoding_errors: str) -> Iterator[str]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}, line {number},"
            if not line.strip():
                continue
            try:
                row = json.loads(_decode(line, where, encoding_errors))
            except json.JSONDecodeError as error:
                raise InputError(
                    f"{where} is not valid JSON ({error.msg}); mend or delete that line."
                ) from error
            if not isinstance(row, dict):
                raise InputError(f"{where} is not a JSON object; write {{{text_column!r}: ...}}.")
            _check_column(text_column, list(row), where)
            text = row[text_column]
            if not isinstance(text, str):
                raise InputError(
                    f"{where} has a {text_column!r} of type {type(text).__name__}; "
                    "every text must be a string."
                )
            # JSON can spell half a surrogate pair, which no UTF-8 text can hold.
            yield _decode(text.encode("utf-8", "surrogatepass"), where, encoding_errors)


def _read_parquet(path: Path, text_column: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise InputError(
            f"{path} is not a Parquet file; write it again or leave it out."
        ) from error
    with table:
        _check_column(text_column, table.schema_arrow.names, str(path))
        for batch in table.iter_batches(batch_size=1024, columns=[text_column]):
            for text in batch.column(0).to_pylist():
                if not isinstance(text, str):
                    raise InputError(
                        f"{path} has a value of type {type(text).__name__} in column "
                        f"{text_column!r}; every text must be a string."
                    )
                yield text


def _check_column(column: str, present: list[str], where: str) -> None:
    if column not in present:
        raise InputError(
            f"{where} has no column {column!r}; it has {', '.join(map(repr, present))}: "
            "set text_column or domain_column to one of these."
        )
