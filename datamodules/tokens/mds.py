"""A folder of MosaicML Streaming (MDS) with a column of tokens; read without its library.

A shard holds the number of samples and their offsets, uint32 each, its settings, and the samples. A
sample holds the sizes of the columns of no fixed size, uint32 each, and the columns. An `ndarray`
without a fixed type or shape begins with both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tandem_pl.errors import InputError

from .pieces import Buffer, Pieces
from .reading import (
    Columns,
    Options,
    find_columns,
    integer_dtype,
    map_file,
    read_index,
    read_u32,
)

BYTES = "int64"  # tokens in a column of bytes, as LLM Foundry writes them
DTYPES = {8: "u1", 9: "i1", 16: "u2", 17: "i2", 32: "u4", 33: "i4", 64: "u8", 65: "i8"}


def is_mds(path: Path) -> bool:
    """Return whether a folder has an index of shards."""
    return "shards" in read_index(path)


def read_mds(path: Path, options: Options) -> Columns:
    """Return the samples of all shards."""
    parts: dict[str, list[Pieces]] = {}
    for shard in read_index(path)["shards"]:
        if shard["format"] != "mds" or shard["version"] != 2:
            raise InputError(f"{str(path)!r} has shards that are not MDS, version 2.")
        file = path / shard["raw_data"]["basename"]
        if not file.exists() and shard.get("zip_data"):
            raise InputError(
                f"{file} is there only in compressed form, which cannot be memory-mapped; write it "
                "without compression, or unpack it."
            )
        data = map_file(file, shard["raw_data"]["bytes"])
        columns = find_columns(shard["column_names"], options, f"the MDS folder {str(path)!r}")
        for name, column in columns.items():
            parts.setdefault(name, []).append(_rows(data, shard, column, options, str(file)))
    return {name: Pieces.chain(pieces) for name, pieces in parts.items()}


def _rows(
    data: np.ndarray, shard: dict[str, Any], column: str, options: Options, where: str
) -> Pieces:
    count = int(np.frombuffer(data, "<u4", 1)[0])
    offsets = np.frombuffer(data, "<u4", count + 1, 4)[:-1].astype(np.int64)
    fixed = np.array([size or 0 for size in shard["column_sizes"]], np.int64)
    free = np.flatnonzero(fixed == 0)
    sizes = np.tile(fixed, (count, 1))
    sizes[:, free] = read_u32(data, offsets[:, None] + 4 * np.arange(len(free)))
    place = shard["column_names"].index(column)
    starts = offsets + 4 * len(free) + sizes[:, :place].sum(axis=1)
    encoding, dtype, shape = [*shard["column_encodings"][place].split(":"), "", ""][:3]
    heads = np.zeros(count, np.int64)
    if encoding == "ndarray":
        if not dtype:
            codes = np.unique(data[starts])
            if len(codes) > 1:
                raise InputError(f"{where} has arrays of several types; write them as one.")
            dtype = DTYPES.get(int(codes[0]), "float") if len(codes) else BYTES
            heads += 1
        if not shape:
            axes = data[starts + heads].astype(np.int64)
            heads += 1 + (axes >> 2) * (1 << (axes & 3))
    else:
        dtype = options.dtype or (BYTES if encoding == "bytes" else encoding)
    kind = integer_dtype(dtype, f"{where}, {column!r}")
    lengths, rest = np.divmod(sizes[:, place] - heads, kind.itemsize)
    if rest.any():
        raise InputError(
            f"{where} has a {column!r} whose bytes are no multiple of the {kind.itemsize} of "
            f"{kind.name}; give its type as dtype."
        )
    return Pieces.rows(Buffer(data, kind), starts + heads, lengths)
