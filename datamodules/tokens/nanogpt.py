"""`.bin` files of nanoGPT, tokens alone, and of llm.c and modded-nanogpt, with a header of 1 KB."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tandem_pl.errors import InputError

from .pieces import Buffer, Pieces
from .reading import Columns, Options, integer_dtype, map_file

HEADER = 1024  # bytes: 256 numbers of 32 bits; the third is the number of tokens
MAGIC = {20240520: "uint16", 20240801: "uint32"}  # tokens of GPT-2, of Llama 3
LOOKED_AT = 1 << 16  # tokens
LEAST = 64  # tokens, to judge their type


def is_nanogpt(path: Path) -> bool:
    """Return whether a file is a `.bin`."""
    return path.suffix == ".bin"


def read_nanogpt(path: Path, options: Options) -> Columns:
    """Return the tokens of a file as one piece; without a header they are uint16 unless said."""
    data = map_file(path)
    if len(data) >= HEADER and int(np.frombuffer(data, "<i4", 1)[0]) in MAGIC:
        magic, _, count = np.frombuffer(data, "<u4", 3).tolist()
        dtype = integer_dtype(options.dtype or MAGIC[magic], str(path))
        data = map_file(path, HEADER + count * dtype.itemsize)
        if len(data) > HEADER + count * dtype.itemsize:
            raise InputError(
                f"{path} has {len(data) - HEADER:,} bytes of tokens, but its header says {count:,} "
                f"tokens of {dtype.itemsize} bytes; write it again."
            )
        return {"input_ids": Pieces.whole(Buffer(data[HEADER:], dtype))}
    dtype = integer_dtype(options.dtype or "uint16", str(path))
    if len(data) % dtype.itemsize:
        raise InputError(
            f"{path} has {len(data):,} bytes, no multiple of the {dtype.itemsize} of a token; give "
            "its type as dtype, such as uint32."
        )
    if options.dtype is None and _looks_wider(data):
        raise InputError(
            f"{path} looks like tokens of 32 bits, since every other number of 16 bits is nearly "
            "0; give dtype: uint32, or dtype: uint16 if it is not."
        )
    return {"input_ids": Pieces.whole(Buffer(data, dtype))}


def _looks_wider(data: np.ndarray) -> bool:
    pairs = np.frombuffer(data, "<u2", min(len(data) // 4, LOOKED_AT) * 2).reshape(-1, 2)
    return len(pairs) >= LEAST and bool(pairs[:, 1].max() < 16 <= pairs[:, 0].max())
