"""Hugging Face data sets: saved folders, files, and names on the hub."""

import glob
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tandem_pl.errors import InputError

from .file_listing import expand_user, match_files, once
from .file_rows import CSV, PARQUET
from .json_form import JSON, JSON_LINES
from .labels import has_labels, name_labels
from .reading import ReadAs, Rows, check_columns, digest_files, suffix_of

BUILDERS = {  # suffix -> the builder of `datasets` that reads such files
    **dict.fromkeys({*JSON_LINES, *JSON}, "json"),
    **dict.fromkeys(PARQUET, "parquet"),
    **dict.fromkeys(CSV, "csv"),
}
HUB_NAME = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
FETCH_ROWS = 256  # rows decoded at once


def read_dataset(data: Any, name: str, numbers: np.ndarray | None, columns: Sequence[str]) -> Rows:
    """Yield the rows of a memory-mapped `datasets.Dataset`, with the named columns only.

    Labels (`datasets.ClassLabel`) are given by their names.

    Args:
        data: the data set.
        name: what messages call it.
        numbers: the row numbers to read, shape `[rows]`; None for all.
        columns: names of the columns.
    """
    check_columns(columns, data.column_names, f"dataset {name!r}")
    columns = [column for column in columns if column in data.column_names]
    data = data.select_columns(columns)
    data = data if numbers is None else data.select(numbers)
    features = [data.features[column] for column in columns]
    labelled = [feature if has_labels(feature) else None for feature in features]
    rows = (
        row
        for batch in data.iter(batch_size=FETCH_ROWS)
        for row in zip(*(batch[column] for column in columns), strict=True)
    )
    for number, row in zip(range(len(data)) if numbers is None else numbers, rows, strict=True):
        named = map(name_labels, row, labelled)
        yield f"dataset {name!r}, row {number + 1}", dict(zip(columns, named, strict=True))
    yield ReadAs("data set", len(data))


def open_dataset(
    name: str, config: str | None = None, split: str | None = None
) -> tuple[Any, str, str]:
    """Open a saved data set or files, or load a data set from the hub by its name.

    Args:
        name: a folder written by `save_to_disk`; a file or glob pattern of JSON lines, Parquet or
            CSV, which `datasets` converts into its cache; or a name on the hub.
        config: the configuration of a data set on the hub.
        split: the split to take if there are several; on the hub also a slice, such as
            `train[:10%]`.

    Returns:
        The `datasets.Dataset`, what messages call it, and a digest that changes with its content.

    Raises:
        InputError: no such folder or name, no network, or several splits and none named.
    """
    path = expand_user(name)
    if path.is_dir():
        return _open_saved(path, name, split)
    files = find_files_of(name)
    builder = BUILDERS.get(suffix_of(path))
    if builder is not None:
        if split is not None:
            raise InputError(f"dataset {name!r}: files have no splits; leave split out.")
        return open_files(files, name)
    if files or not HUB_NAME.fullmatch(name):
        raise InputError(
            f"dataset {name!r} is neither a folder written by Dataset.save_to_disk nor JSON lines, "
            "Parquet or CSV; give one of these, or other files as domains with path."
        )
    return _open_hub(name, config, split)


def flatten(data: Any, column: str) -> Any:
    """Return the data set, with nested columns flattened if `column` is a field of one."""
    nested = column not in data.column_names and column.split(".")[0] in data.column_names
    return data.flatten() if nested else data


def find_files_of(name: str, config: str | None = None, split: str | None = None) -> list[Path]:
    """Return the files that the name of a data set stands for; none for a folder or a hub name.

    Raises:
        InputError: a path or pattern of files that does not exist, or a split of files.
    """
    path = expand_user(name)
    files = sorted(once(match_files(path)), key=str)
    if not files and suffix_of(path) in BUILDERS and not path.is_dir():
        raise InputError(f"dataset {name!r} matches no file; give a file, folder or hub name.")
    for key, value in (("split", split), ("config", config)):
        if files and value is not None:
            raise InputError(f"dataset {name!r}: files have no splits; leave {key} out.")
    return files


def rows_by_domain(data: Any, column: str, refuse: Callable[[str], None]) -> dict[str, np.ndarray]:
    """Return domain -> its row numbers, shape `[rows]`, sorted by name; 8 bytes a row in all.

    Args:
        data: the data set.
        column: holds the domains, as texts, numbers or labels.
        refuse: is called with a message for a row without a domain, which is left out.
    """
    codes: dict[str, int] = {}
    numbers = np.empty(len(data), dtype=np.int32)
    feature = data.features[column]
    batches = data.select_columns([column]).with_format("arrow").iter(batch_size=10_000)
    names = (name for batch in batches for name in batch.column(0).to_pylist())
    for row, value in enumerate(names):
        name = name_labels(value, feature)
        if name is None or name == "":
            refuse(
                f"row {row + 1} of the data set has no value in column {column!r}; filter it out, "
                'name another domain_column, or set corrupt to "skip".'
            )
            numbers[row] = -1
        else:
            numbers[row] = codes.setdefault(str(name), len(codes))
    return {name: np.flatnonzero(numbers == codes[name]) for name in sorted(codes)}


def _open_saved(path: Path, name: str, split: str | None) -> tuple[Any, str, str]:
    from datasets import Dataset, load_from_disk

    try:
        data = load_from_disk(str(path))
    except FileNotFoundError as error:
        raise InputError(
            f"dataset {name!r} is not a saved dataset; give a folder written by "
            "Dataset.save_to_disk, or give its files with path."
        ) from error
    if isinstance(data, Dataset):
        if split is not None:
            raise InputError(f"dataset {name!r} has no splits; leave split={split!r} out.")
    elif split in data:
        data, path = data[split], path / str(split)
    else:
        asked = "" if split is None else f" and not {split!r}"
        raise InputError(
            f"dataset {name!r} holds the splits {', '.join(data)}{asked}; give the folder of one "
            f"of them, such as {str(path / next(iter(data)))!r}, or name it as split."
        )
    return data, name, digest_files(sorted(p for p in path.rglob("*") if p.is_file()))


def open_files(files: list[Path], name: str) -> tuple[Any, str, str]:
    """Open files by a builder of `datasets`, which converts them into its cache; see `BUILDERS`."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    builder = BUILDERS[suffix_of(files[0])]
    options = {"sep": CSV[suffix_of(files[0])]} if builder == "csv" else {}
    escaped = [glob.escape(str(file)) for file in files]
    try:
        data = load_dataset(builder, data_files=escaped, split="train", **options)
    except (DatasetGenerationError, OSError, ValueError) as error:
        reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"dataset {name!r} cannot be read as {builder} ({reason[0]}); correct the file, or "
            "give each domain a file of its own: then bad lines are named and can be skipped."
        ) from error
    return data, name, digest_files(files)


def _open_hub(name: str, config: str | None, split: str | None) -> tuple[Any, str, str]:
    from datasets import Dataset, load_dataset

    try:
        data = load_dataset(name, config, split=split)
    except ConnectionError as error:
        arguments = ", ".join(
            [repr(name), *([repr(config)] if config else []), f"split={split or 'train'!r}"]
        )
        raise InputError(
            f"dataset {name!r} is not a folder here and the Hugging Face hub cannot be reached "
            f"({error}); on a machine with network run "
            f"`datasets.load_dataset({arguments}).save_to_disk(FOLDER)`, copy FOLDER here, and "
            "give dataset: FOLDER."
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"dataset {name!r} is not a folder here and cannot be loaded from the Hugging Face hub "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}); "
            "correct the name, config or split, or give a folder written by save_to_disk."
        ) from error
    if not isinstance(data, Dataset):
        raise InputError(
            f"dataset {name!r} holds the splits {', '.join(data)}; name one of them as split."
        )
    return data, name, str(data._fingerprint)
