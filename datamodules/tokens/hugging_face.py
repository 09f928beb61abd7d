"""A Hugging Face data set written by `save_to_disk`, with token ids in a column of lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tandem_pl.datamodules.sources.saved_datasets import open_dataset
from tandem_pl.errors import InputError

from .pieces import Buffer, Pieces
from .reading import MASK, Columns, Options, find_columns, integer_dtype

SAVED = ("dataset_info.json", "state.json", "dataset_dict.json")


def is_hugging_face(path: Path) -> bool:
    """Return whether a folder was written by `save_to_disk`."""
    return path.is_dir() and any((path / name).is_file() for name in SAVED)


def read_hugging_face(path: Path, options: Options) -> Columns:
    """Return the rows of the columns of tokens, labels and attention mask."""
    data, _, _ = open_dataset(str(path), split=options.split)
    columns = find_columns(data.column_names, options, f"the data set {str(path)!r}")
    table = data.data
    return {
        name: Pieces.chain([_rows(chunk, column, path, name) for chunk in table[column].chunks])
        for name, column in columns.items()
    }


def _rows(chunk: Any, column: str, path: Path, name: str) -> Pieces:
    where = f"column {column!r} of {str(path)!r}"
    kinds = (pa.ListArray, pa.LargeListArray, pa.FixedSizeListArray)
    if not isinstance(chunk, kinds) or chunk.null_count:
        problem = "rows that are null" if isinstance(chunk, kinds) else f"the type {chunk.type}"
        raise InputError(f"{where} has {problem}; every row must be a list of token ids.")
    values = chunk.flatten()
    if values.null_count:
        raise InputError(f"{where} has token ids that are null; filter these rows out.")
    if name == MASK and pa.types.is_boolean(values.type):
        flat = values.to_numpy(zero_copy_only=False).astype(np.uint8)
    else:
        integer_dtype(str(values.type), where)
        flat = values.to_numpy(zero_copy_only=True)
    if isinstance(chunk, pa.FixedSizeListArray):
        offsets = np.arange(len(chunk) + 1, dtype=np.int64) * chunk.type.list_size
    else:
        offsets = chunk.offsets.to_numpy().astype(np.int64)
    buffer = Buffer(flat.view(np.uint8), flat.dtype)
    return Pieces.rows(buffer, (offsets[:-1] - offsets[0]) * flat.itemsize, np.diff(offsets))
