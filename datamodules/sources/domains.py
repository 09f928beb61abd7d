"""Open the domains of a configuration: files of any kind, saved Hugging Face data sets, or the hub.

Rows are read one at a time, as often as asked, so that a corpus need not fit in memory. Nothing is
fetched from a network unless a source is a map whose `dataset` is the name of one on the hub.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from tandem_pl.checks import check_choice
from tandem_pl.errors import InputError

from .file_listing import list_files
from .file_rows import read_files
from .reading import Row, RowError, Rows, check_columns, digest_files
from .saved_datasets import flatten, open_dataset, read_dataset, rows_by_domain

KEYS = ("path", "dataset", "config", "split", "column")

#: A domain's source in a configuration: a path, folder or glob pattern, a list of these, or a map.
SourceSpec = str | Sequence[str] | Mapping[str, Any]


class Source:
    r"""One domain's rows.

    Args:
        domain: the domain's name.
        read: yields the rows with the given columns.
        digest: returns what changes whenever the content may have changed.
        column: the domain's own text column; None if it names none.
        corrupt: `"stop"` raises at a row that cannot be read; `"skip"` leaves it out and counts it.

    Attributes:
        skipped: rows or files left out in the last pass.
        first_skipped: the message on the first of them.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "a.txt").write_text("one document")
        >>> _ = (folder / "b.jsonl").write_text('{"text": "two"}\n{"text": "three"}\n')
        >>> [row["text"] for _, row in open_source("demo", str(folder)).rows(["text"])]
        ['one document', 'two', 'three']
    """

    def __init__(
        self,
        domain: str,
        read: Callable[[Sequence[str]], Rows],
        digest: Callable[[], str],
        column: str | None = None,
        corrupt: Literal["stop", "skip"] = "stop",
    ) -> None:
        check_choice("corrupt", corrupt, ("stop", "skip"))
        self.domain, self.column, self.digest = domain, column, digest
        self._read, self._corrupt = read, corrupt
        self.skipped = 0
        self.first_skipped: str | None = None

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """Yield all rows as `(where, row)`, with the named columns only.

        `where` names the file and line, or the data set and row, for messages.

        Raises:
            InputError: a missing column; with `corrupt="stop"`, a row that cannot be read.
        """
        self.skipped, self.first_skipped = 0, None
        for row in self._read(columns):
            if isinstance(row, RowError):
                self.refuse(str(row))
            else:
                yield row

    def refuse(self, message: str) -> None:
        """Raise `InputError(message)`, or count a row that is left out."""
        if self._corrupt == "stop":
            raise InputError(message)
        self.skipped += 1
        self.first_skipped = self.first_skipped or message


def open_source(
    domain: str,
    source: SourceSpec,
    encoding_errors: str = "raise",
    corrupt: Literal["stop", "skip"] = "stop",
) -> Source:
    """Open one domain.

    Args:
        domain: the domain's name.
        source: a file, folder, glob pattern or list of these, see `READERS` for the kinds; or a map
            with `path` (the same) or `dataset` (a folder written by `save_to_disk`, or a name on
            the Hugging Face hub, with `config` and `split`), and `column` if its text column has
            another name than that of the other domains.
        encoding_errors: see `read_files`.
        corrupt: see `Source`.

    Raises:
        InputError: a source that does not exist or is not understood, or a hub name without
            network.
    """
    spec: Mapping[str, Any] = source if isinstance(source, Mapping) else {"path": source}
    _check_keys(f"domain {domain!r}", spec)
    check_choice("encoding_errors", encoding_errors, ("raise", "replace"))
    column = spec.get("column")
    if "dataset" in spec:
        data, name, digest = _open_dataset(spec)
        read = partial(read_dataset, data, name, None)
        return Source(domain, read, lambda: digest, column, corrupt)
    files = list_files(domain, spec["path"])
    read = partial(read_files, files, encoding_errors)
    return Source(domain, read, partial(digest_files, files), column, corrupt)


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
        encoding_errors: see `read_files`.
        corrupt: see `Source`.

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
    data, name, digest = _open_dataset(spec)
    data = flatten(data, domain_column)
    check_columns([domain_column], data.column_names, f"dataset {name!r}")
    return {
        domain: Source(
            domain,
            partial(read_dataset, data, name, numbers),
            lambda: digest,
            spec.get("column"),
            corrupt,
        )
        for domain, numbers in rows_by_domain(data, domain_column).items()
    }


def check_given(domains: Any, dataset: Any) -> None:
    """Raise `InputError` unless exactly one of the two is given."""
    if bool(domains) == bool(dataset):
        raise InputError(
            "give either domains (a source a domain) or dataset (one data set with a domain "
            f"column), not {'both' if domains else 'neither'}."
        )


def _open_dataset(spec: Mapping[str, Any]) -> tuple[Any, str, str]:
    return open_dataset(str(spec["dataset"]), spec.get("config"), spec.get("split"))


def _check_keys(what: str, spec: Mapping[str, Any]) -> None:
    for key in spec:
        if key not in KEYS:
            raise InputError(f"{what} has the unknown key {key!r}; use {', '.join(KEYS)}.")
    if ("path" in spec) == ("dataset" in spec):
        raise InputError(
            f"{what} has {'both path and' if 'path' in spec else 'neither path nor'} "
            "dataset; give one of them."
        )
    for key in ("config", "split"):
        if "path" in spec and spec.get(key) is not None:
            raise InputError(f"{what} has {key}, which goes with dataset, not path.")
