"""Where a domain's rows come from: files of any kind, saved Hugging Face data sets, or the hub.

`open_source` opens one domain and `open_domains` all of them. A `Source` gives its rows one at a
time, as often as asked, so that a corpus need not fit in memory. Nothing is fetched from a network
unless the source is a mapping whose `dataset` is the name of a data set on the hub.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from tandem_pl.errors import InputError

from .file_listing import list_files
from .file_rows import check_columns, read_rows
from .saved_datasets import digest_files, flat, open_dataset, rows_by_domain

KEYS = ("path", "dataset", "config", "split", "column")
FETCH_ROWS = 256  # rows of a data set decoded at once

#: A domain's source as it is written: a path, folder or glob pattern, a list of these, or a map.
SourceSpec = str | Sequence[str] | Mapping[str, Any]


class Source:
    """One domain's rows, wherever they lie.

    Attributes:
        domain: the domain's name.
        column: the column that the source's own `column` key names, or None.
        skipped: lines, rows or files left out in the last pass, as unfit.
        first_skipped: the message on the first of them.
    """

    def __init__(
        self, domain: str, column: str | None = None, corrupt: Literal["stop", "skip"] = "stop"
    ) -> None:
        if corrupt not in ("stop", "skip"):
            raise InputError(f'corrupt is {corrupt!r}; give "stop" or "skip".')
        self.domain = domain
        self.column = column
        self.corrupt = corrupt
        self.skipped = 0
        self.first_skipped: str | None = None

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """A fresh pass over the rows: `(where, row)`, with the named columns only.

        `where` names the file and line, or the data set and row, for messages.

        Raises:
            InputError: a missing column; with `corrupt="stop"`, a row that cannot be read.
        """
        self.skipped, self.first_skipped = 0, None
        return self._read(columns)

    def digest(self) -> str:
        """Changes whenever the content may have changed."""
        raise NotImplementedError

    def refuse(self, message: str) -> None:
        """Raises `InputError(message)`, or counts it where corrupt rows are skipped."""
        if self.corrupt == "stop":
            raise InputError(message)
        self.skipped += 1
        self.first_skipped = self.first_skipped or message

    def _read(self, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        raise NotImplementedError


class FileSource(Source):
    r"""The rows of files, in the order of their paths.

    Args:
        domain: the domain's name, for messages.
        paths: files, folders and glob patterns, see `list_files`.
        encoding_errors: `"raise"` refuses text that is not UTF-8; `"replace"` puts U+FFFD there.
        corrupt: what happens to rows that cannot be read.
        column: the domain's own text column, or None.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "a.txt").write_text("one document")
        >>> _ = (folder / "b.jsonl").write_text('{"text": "two"}\n{"text": "three"}\n')
        >>> [row["text"] for _, row in FileSource("demo", str(folder)).rows(["text"])]
        ['one document', 'two', 'three']
    """

    def __init__(
        self,
        domain: str,
        paths: str | Sequence[str],
        encoding_errors: str = "raise",
        corrupt: Literal["stop", "skip"] = "stop",
        column: str | None = None,
    ) -> None:
        super().__init__(domain, column, corrupt)
        if encoding_errors not in ("raise", "replace"):
            raise InputError(f'encoding_errors is {encoding_errors!r}; give "raise" or "replace".')
        self.files = list_files(domain, paths)
        self.encoding_errors = encoding_errors

    def digest(self) -> str:
        """Changes with the files' names, sizes and times of change."""
        return digest_files(self.files)

    def _read(self, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        for path in self.files:
            try:
                yield from read_rows(path, columns, self.encoding_errors, self.refuse)
            except OSError as error:  # also of compressed files that are cut short
                self.refuse(
                    f"{path} cannot be read ({error.strerror or error}); mend the file, leave it "
                    'out, or set corrupt to "skip".'
                )


class DatasetSource(Source):
    """The rows of a `datasets.Dataset`, or some of them; memory-mapped, never loaded whole.

    Args:
        domain: the domain's name, for messages.
        data: the data set.
        name: what messages call it.
        digest: stands for its content.
        rows: the row numbers that are this domain's, shape `[rows]`; None for all.
        column: the domain's own text column, or None.
        corrupt: what happens to rows that cannot be used.
    """

    def __init__(
        self,
        domain: str,
        data: Any,
        name: str,
        digest: str,
        rows: np.ndarray | None = None,
        column: str | None = None,
        corrupt: Literal["stop", "skip"] = "stop",
    ) -> None:
        super().__init__(domain, column, corrupt)
        self.data, self.name = data, name
        self._digest, self._rows = digest, rows

    def digest(self) -> str:
        """Changes with the data set's files, or its fingerprint where it is of the hub."""
        return self._digest

    def _read(self, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        check_columns(columns, self.data.column_names, f"dataset {self.name!r}")
        data = self.data.select_columns(list(columns))
        numbers = np.arange(len(data)) if self._rows is None else self._rows
        for start in range(0, len(numbers), FETCH_ROWS):
            chunk = numbers[start : start + FETCH_ROWS]
            contiguous = chunk[-1] - chunk[0] + 1 == len(chunk)
            fetched = data[int(chunk[0]) : int(chunk[-1]) + 1] if contiguous else data[chunk]
            values = zip(*(fetched[column] for column in columns), strict=True)
            for number, row in zip(chunk.tolist(), values, strict=True):
                where = f"dataset {self.name!r}, row {number + 1}"
                yield where, dict(zip(columns, row, strict=True))


def open_source(
    domain: str,
    source: SourceSpec,
    encoding_errors: str = "raise",
    corrupt: Literal["stop", "skip"] = "stop",
) -> Source:
    """Open one domain's source.

    Args:
        domain: the domain's name.
        source: a file, folder, glob pattern or list of these: plain text (every file a row),
            `.jsonl`, `.parquet` or `.csv`; or a map with `path` (such a file, folder, pattern or
            list) or `dataset` (a folder written by `save_to_disk`, or a name on the Hugging Face
            hub, with `config` and `split`), and `column`, where its text column has another name
            than the other domains'.
        encoding_errors: `"raise"` refuses text files that are not UTF-8; `"replace"` puts U+FFFD
            where they are not.
        corrupt: `"stop"` raises at a row that cannot be read; `"skip"` leaves it out and counts it.

    Raises:
        InputError: a source that is not there or not understood, or a hub name without network.
    """
    if isinstance(source, Mapping):
        _check_keys(f"domain {domain!r}", source)
        column = source.get("column")
        if "dataset" in source:
            data, name, digest = open_dataset(
                str(source["dataset"]), source.get("config"), source.get("split")
            )
            return DatasetSource(domain, data, name, digest, None, column, corrupt)
        return FileSource(domain, source["path"], encoding_errors, corrupt, column)
    return FileSource(domain, source, encoding_errors, corrupt)


def open_domains(
    domains: Mapping[str, SourceSpec] | None = None,
    dataset: str | Mapping[str, Any] | None = None,
    domain_column: str = "domain",
    encoding_errors: str = "raise",
    corrupt: Literal["stop", "skip"] = "stop",
) -> dict[str, Source]:
    """Open all domains: a source each, or one data set with a domain column.

    Args:
        domains: domain -> source, see `open_source`; or give `dataset`.
        dataset: the folder of a saved data set, JSON lines, Parquet or CSV, or a hub name; or a map
            as `open_source` takes.
        domain_column: column of `dataset` that names a row's domain, `meta.source` for a field
            inside a column; the domains are sorted by name.
        encoding_errors: see `open_source`.
        corrupt: see `open_source`.

    Raises:
        InputError: neither or both of `domains` and `dataset`, or what `open_source` raises.
    """
    check_given(domains, dataset)
    if domains:
        return {
            str(domain): open_source(str(domain), source, encoding_errors, corrupt)
            for domain, source in domains.items()
        }
    spec = {"dataset": dataset} if isinstance(dataset, str) else dict(dataset or {})
    _check_keys("dataset", spec)
    if "dataset" not in spec:
        raise InputError(
            "dataset has no key 'dataset'; give a saved data set's folder or a hub name."
        )
    data, name, digest = open_dataset(str(spec["dataset"]), spec.get("config"), spec.get("split"))
    data = flat(data, domain_column)
    check_columns([domain_column], data.column_names, f"dataset {name!r}")
    return {
        domain: DatasetSource(domain, data, name, digest, rows, spec.get("column"), corrupt)
        for domain, rows in rows_by_domain(data, domain_column).items()
    }


def check_given(domains: Any, dataset: Any) -> None:
    """Raises `InputError` unless one of the two is given and the other is not."""
    if bool(domains) == bool(dataset):
        raise InputError(
            "give either domains (a source a domain) or dataset (one data set with a domain "
            f"column), not {'both' if domains else 'neither'}."
        )


def _check_keys(what: str, source: Mapping[str, Any]) -> None:
    for key in source:
        if key not in KEYS:
            raise InputError(f"{what} has the unknown key {key!r}; use {', '.join(KEYS)}.")
    if ("path" in source) == ("dataset" in source):
        raise InputError(
            f"{what} has {'both path and' if 'path' in source else 'neither path nor'} "
            "dataset; give one of them."
        )
    for key in ("config", "split"):
        if "path" in source and source.get(key) is not None:
            raise InputError(f"{what} has {key}, which goes with dataset, not path.")
