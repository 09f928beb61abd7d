"""What the readers of token formats share."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tandem_pl.errors import InputError

from .pieces import Pieces

IDS = ("input_ids", "tokens")  # names of the column of tokens
LABELS, MASK = "labels", "attention_mask"

#: `input_ids` and, if there are any, `labels` and `attention_mask`: a piece is a row or a document.
Columns = dict[str, Pieces]


class Options(NamedTuple):
    """What a source's map says beside its path.

    `dtype` is the type of tokens in files that do not name it, `column` the column of tokens, and
    `split` the split of a saved data set.
    """

    dtype: str | None = None
    column: str | None = None
    split: str | None = None


class Kind(NamedTuple):
    """A format: whether a file or folder has it, and its reader."""

    matches: Callable[[Path], bool]
    read: Callable[[Path, Options], Columns]


def map_file(path: Path, least: int = 0) -> NDArray[np.uint8]:
    """Return the bytes of a file, memory-mapped.

    Raises:
        InputError: it cannot be read, or has fewer than `least` bytes.
    """
    try:
        size = path.stat().st_size
        if size < least:
            raise InputError(
                f"{path} has {size:,} bytes and must have {least:,}; it was cut short: copy it "
                "again."
            )
        return np.memmap(path, np.uint8, "r") if size else np.empty(0, np.uint8)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}).") from error


def read_index(path: Path) -> dict[str, Any]:
    """Return the `index.json` of a folder; empty if there is none."""
    try:
        index = json.loads((path / "index.json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}
    return index if isinstance(index, dict) else {}


def read_u32(data: NDArray[np.uint8], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the uint32 at each of these bytes, in the shape of `places`.

    Example:
        >>> read_u32(np.array([9, 1, 2, 0, 0], np.uint8), np.array([1])).tolist()
        [513]
    """
    found = data[places[..., None] + np.arange(4)]
    return np.ascontiguousarray(found).view("<u4")[..., 0].astype(np.int64)


def integer_dtype(name: str, where: str) -> np.dtype:
    """Return the type of this name, little-endian; raise an error unless it is of integers."""
    try:
        dtype = np.dtype(name)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind not in "iu":
        raise InputError(
            f"{where} has tokens of type {name}, which is none of integers; give dtype: uint16, "
            "uint32, int32 or int64, or another column."
        )
    return dtype.newbyteorder("<")


def find_columns(names: Sequence[str], options: Options, where: str) -> dict[str, str]:
    """Return `input_ids`, `labels` and `attention_mask` -> the column of this name, if it exists.

    Raises:
        InputError: no column of tokens.
    """
    ids = options.column or next((name for name in IDS if name in names), None)
    if ids is None or ids not in names:
        raise InputError(
            f"{where} has no column {options.column or IDS[0]!r} of tokens; it has "
            f"{', '.join(map(repr, names))}: name one of these as column."
        )
    return {IDS[0]: ids, **{name: name for name in (LABELS, MASK) if name in names}}
