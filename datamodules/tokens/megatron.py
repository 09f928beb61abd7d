"""Megatron-LM's `.bin` with its `.idx`: documents one after the other, of one integer type."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tandem_pl.errors import InputError

from .pieces import Buffer, Pieces
from .reading import Columns, Options, integer_dtype, map_file

MAGIC = b"MMIDIDX\x00\x00"
DTYPES = {1: "u1", 2: "i1", 3: "i2", 4: "i4", 5: "i8", 6: "f8", 7: "f4", 8: "u2"}
HEADER = 34  # bytes: magic 9, version 8, type 1, sequences 8, documents 8


def is_megatron(path: Path) -> bool:
    """Return whether a file is one of a pair of `.bin` and `.idx`."""
    return path.suffix in (".bin", ".idx") and path.with_suffix(".idx").is_file()


def read_megatron(path: Path, options: Options) -> Columns:
    """Return the documents of a pair of files, in the order of the index."""
    index = path.with_suffix(".idx")
    head = map_file(index, HEADER)
    if head[:9].tobytes() != MAGIC:
        raise InputError(f"{index} is no index of Megatron-LM (its first bytes are others).")
    version = int(head[9:17].view("<u8")[0])
    dtype = integer_dtype(DTYPES.get(int(head[17]), "of an unknown code"), str(index))
    if version != 1:
        raise InputError(f"{index} has version {version} of Megatron-LM's index; write it as 1.")
    count = int(head[18:26].view("<u8")[0])
    map_file(index, HEADER + 12 * count)
    lengths = np.frombuffer(head, "<i4", count, HEADER)
    starts = np.frombuffer(head, "<i8", count, HEADER + 4 * count)
    end = int(starts[-1]) + int(lengths[-1]) * dtype.itemsize if count else 0
    data = Buffer(map_file(path.with_suffix(".bin"), end), dtype)
    # As Megatron-LM writes them: one piece, however many documents there are.
    if count and (np.diff(starts) == lengths[:-1].astype(np.int64) * dtype.itemsize).all():
        total = (end - int(starts[0])) // dtype.itemsize
        return {"input_ids": Pieces.rows(data, starts[:1], [total])}
    return {"input_ids": Pieces.rows(data, starts, lengths)}
