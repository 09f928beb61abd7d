"""Open the domains of a configuration: files of any kind, saved Hugging Face data sets, or the hub.

Rows are read one at a time, as often as asked, so that a corpus need not fit in memory. Nothing is
fetched from a network unless a source is a map whose `dataset` is the name of one on the hub.
"""

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tandem_pl.checks import check_choice
from tandem_pl.domain_names import check_texts
from tandem_pl.errors import InputError

from .domain_rows import digest_rows, open_rows, read_rows
from .file_listing import find_files
from .file_rows import PARQUET, mark_reading, read_files
from .parquet_rows import why_unreadable
from .reading import Columns, Remark, RowError, check_columns, digest_files, sentences, suffix_of
from .saved_datasets import (
    find_files_of,
    flatten,
    open_dataset,
    open_files,
    read_dataset,
    rows_by_domain,
)
from .source import Source as Source
from .source import Sources as Sources

WITHOUT_DOMAINS = ", or give cluster (such as auto), which makes domains"  # end of an error
KEYS = ("path", "dataset", "config", "split", "column", "quotes")

#: A source as a map. Not of `Any`, since jsonargparse makes numbers of texts in quotes there.
SourceMap = dict[str, str | list[str] | bool | None]
#: A domain's source in a configuration: a path, folder or glob pattern, a list of these, or a map.
SourceSpec = str | Sequence[str] | Mapping[str, Any]


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
            the Hugging Face hub, with `config` and `split`), `column` if its text column has
            another name than that of the other domains, and `quotes`, see `find_reader`.
        encoding_errors: see `read_files`.
        corrupt: see `Source`.

    Raises:
        InputError: a source that does not exist or is not understood, or a hub name without
            network.
    """
    spec: Mapping[str, Any] = source if isinstance(source, Mapping) else {"path": source}
    _check_keys(f"domain {domain!r}", spec)
    check_choice("encoding_errors", encoding_errors, ("raise", "replace"))
    column, quotes = spec.get("column"), spec.get("quotes")
    left_out: dict[str, int] = {}
    if "path" in spec:
        files, left_out = find_files(domain, spec["path"])
    else:
        files = _text_files(spec)
        if not files:
            data, name, digest = _open_dataset(spec)
            read = partial(read_dataset, data, name, None)
            return Source(domain, read, lambda columns: digest, column, corrupt)

    def digest_columns(columns: Columns) -> str:
        return digest_files(files, partial(mark_reading, columns=columns, quotes=quotes))

    read = partial(read_files, files, encoding_errors, quotes=quotes)
    return Source(domain, read, digest_columns, column, corrupt, left_out)


def open_domains(
    domains: Mapping[str, SourceSpec] | None = None,
    dataset: str | Mapping[str, Any] | None = None,
    domain_column: str = "domain",
    encoding_errors: str = "raise",
    corrupt: Literal["stop", "skip"] = "stop",
) -> Sources:
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
        return open_sources(domains, "domains", encoding_errors, corrupt)
    spec = {"dataset": dataset} if isinstance(dataset, str) else dict(dataset or {})
    _check_keys("dataset", spec)
    if "dataset" not in spec:
        raise InputError(
            "dataset has no key 'dataset'; give a saved data set's folder or a hub name."
        )
    files = _text_files(spec)
    try:
        if files:
            sources = _sources_of_files(files, spec, domain_column, encoding_errors, corrupt)
        else:
            sources = _sources_of_dataset(spec, domain_column, corrupt)
    except RowError as error:
        if f"no column {domain_column!r}" not in str(error):
            raise
        raise RowError(f"{str(error).rstrip('.')} as domain_column{WITHOUT_DOMAINS}.") from error
    if sources.skipped:
        warnings.warn(
            f"dataset {spec['dataset']!r}: {sources.skipped} rows without a domain were left out; "
            f"the first: {sources.first_skipped}",
            stacklevel=2,
        )
    if not sources:
        raise InputError(
            f"dataset {spec['dataset']!r} has no row with a domain "
            f"({sources.first_skipped or 'it is empty'}); name its column as domain_column"
            f"{WITHOUT_DOMAINS}."
        )
    return sources


def open_sources(
    specs: Mapping[str, SourceSpec],
    key: str,
    encoding_errors: str = "raise",
    corrupt: Literal["stop", "skip"] = "stop",
) -> Sources:
    """Open a source for each name; `key` is the option that names them."""
    check_texts(specs, key)
    return Sources(
        (domain, open_source(domain, source, encoding_errors, corrupt))
        for domain, source in specs.items()
    )


def _sources_of_files(
    files: list[Path],
    spec: Mapping[str, Any],
    domain_column: str,
    encoding_errors: str,
    corrupt: Literal["stop", "skip"],
) -> Sources:
    quotes, column = spec.get("quotes"), spec.get("column")
    data, about = open_rows(files, domain_column, encoding_errors, quotes, corrupt == "stop")
    for sentence in sentences([Remark(*remark) for remark in about["remarks"]]):
        warnings.warn(sentence, stacklevel=3)
    sources = Sources()
    if about["skipped"]:
        sources.skip(about["first_skipped"], about["skipped"])
    for domain, numbers in rows_by_domain(data, "domain", sources.skip).items():
        read = partial(read_rows, data, about["kinds"], numbers)
        sources[domain] = Source(
            domain, read, lambda columns: digest_rows(files, quotes), column, corrupt
        )
    return sources


def _sources_of_dataset(
    spec: Mapping[str, Any], domain_column: str, corrupt: Literal["stop", "skip"]
) -> Sources:
    sources = Sources()

    def refuse(message: str) -> None:
        if corrupt == "stop":
            raise InputError(message)
        sources.skip(message)

    files = find_files_of(str(spec["dataset"]), spec.get("config"), spec.get("split"))
    for file in list(files):
        reason = why_unreadable(file)
        if reason:
            refuse(reason)
            files.remove(file)
    if files:
        data, name, digest = open_files(files, str(spec["dataset"]))
    elif sources.skipped:
        return sources
    else:
        data, name, digest = _open_dataset(spec)
    data = flatten(data, domain_column)
    check_columns([domain_column], data.column_names, f"dataset {name!r}")
    for domain, numbers in rows_by_domain(data, domain_column, refuse).items():
        read = partial(read_dataset, data, name, numbers)
        sources[domain] = Source(domain, read, lambda columns: digest, spec.get("column"), corrupt)
    return sources


def _text_files(spec: Mapping[str, Any]) -> list[Path]:
    """Return the files of a data set that are read row by row; none if all are Parquet."""
    files = find_files_of(str(spec["dataset"]), spec.get("config"), spec.get("split"))
    return files if any(suffix_of(file) not in PARQUET for file in files) else []


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
