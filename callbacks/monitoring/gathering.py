"""Samples of all ranks, in the order of the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


def gather_columns(mine: tuple[np.ndarray, ...], world_size: int) -> tuple[np.ndarray, ...]:
    """Return the columns of all ranks' samples; rank r has the samples r, r + world_size, ...

    Args:
        mine: columns [N] of this rank's samples. All ranks must call this together.
        world_size: number of ranks.
    """
    if world_size == 1:
        return mine
    parts: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(parts, mine)
    return tuple(interleave(column) for column in zip(*parts, strict=True))


def interleave(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the array whose slice `[r :: len(parts)]` is part r.

    >>> interleave([np.array([0, 2, 4]), np.array([1, 3])]).tolist()
    [0, 1, 2, 3, 4]
    """
    whole = np.empty(sum(map(len, parts)), parts[0].dtype)
    for rank, part in enumerate(parts):
        whole[rank :: len(parts)] = part
    return whole
