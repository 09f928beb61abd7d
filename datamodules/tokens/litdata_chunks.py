"""A folder that `litdata.optimize` wrote, of tensors or arrays of tokens; read without litdata.

A chunk is the number of items and their offsets, uint32 each, and the items' bytes. With
`TokensLoader` an item is its tokens; else the sizes of its fields, uint32 each, and the fields.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tandem_pl.errors import InputError

from .pieces import Buffer, Pieces
from .reading import (
    IDS,
    Columns,
    Options,
    find_columns,
    integer_dtype,
    map_file,
    read_index,
    read_u32,
)

# Types by the numbers that litdata gives them.
TENSORS = dict(enumerate(["u1", "i1", "i2", "i2", "i4", "i4", "i8", "i8", "u1", "u2"], start=11))
ARRAYS = dict(enumerate(["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]))
FORMATS = {"no_header_tensor": TENSORS, "no_header_numpy": ARRAYS}


def is_litdata(path: Path) -> bool:
    """Return whether a folder has an index of chunks."""
    return "chunks" in read_index(path)


def read_litdata(path: Path, options: Options) -> Columns:
    """Return the items of all chunks."""
    index = read_index(path)
    config, where = index["config"], f"the litdata folder {str(path)!r}"
    if config.get("compression") or config.get("encryption") or config.get("ipc_compression"):
        raise InputError(
            f"{where} is compressed or encrypted, and cannot be memory-mapped; optimize it again "
            "without compression."
        )
    names = _field_names(config, where)
    columns = find_columns(names, options, where)
    heads = 0 if config.get("item_loader") == "TokensLoader" else len(names)
    parts: dict[str, list[Pieces]] = {name: [] for name in columns}
    for chunk in index["chunks"]:
        data = map_file(path / chunk["filename"], chunk["chunk_bytes"])
        count = int(np.frombuffer(data, "<u4", 1)[0])
        offsets = np.frombuffer(data, "<u4", count + 1, 4).astype(np.int64)
        sizes = np.diff(offsets)[:, None]
        if heads:
            sizes = read_u32(data, offsets[:-1, None] + 4 * np.arange(heads))
        starts = offsets[:-1, None] + 4 * heads + np.cumsum(sizes, axis=1) - sizes
        for name, column in columns.items():
            place = names.index(column)
            dtype = _dtype(config["data_format"][place], f"{where}, {column!r}")
            lengths = sizes[:, place] // dtype.itemsize
            parts[name].append(Pieces.rows(Buffer(data, dtype), starts[:, place], lengths))
    return {name: Pieces.chain(pieces) for name, pieces in parts.items()}


def _field_names(config: dict[str, Any], where: str) -> list[str]:
    """Return the names of the fields of an item, in order; one that has none is the tokens."""
    try:
        spec = json.loads(config["data_spec"])[1]
        if spec["type"] is None:
            return [IDS[0]]
        names = json.loads(spec["context"])
        flat = all(child["type"] is None for child in spec["children_spec"])
    except (TypeError, ValueError, KeyError, IndexError):
        flat, names = False, []
    if not flat or not isinstance(names, list) or len(names) != len(config["data_format"]):
        raise InputError(
            f"{where} has items of another form than tokens, or a map with tensors or arrays of "
            "one dimension; optimize it again with such items."
        )
    return names


def _dtype(name: str, where: str) -> np.dtype:
    kind, _, number = name.partition(":")
    types = FORMATS.get(kind)
    if types is None or not number:
        raise InputError(
            f"{where} is stored as {name}; optimize it again with tensors or NumPy arrays of one "
            "dimension."
        )
    return integer_dtype(types.get(int(number), "float"), where)
