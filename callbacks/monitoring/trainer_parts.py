"""What the callbacks of this folder need from a trainer: its reweighting callback, other ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from tandem_pl.callbacks.reweighting import ReweightingCallback
from tandem_pl.objectives.samples import at_least_float32
from tandem_pl.training.connection import callbacks_of


def reweighting_of(trainer: Trainer) -> ReweightingCallback | None:
    """Return the callback that learns or sets the domain weights, or None."""
    return next((c for c in callbacks_of(trainer) if isinstance(c, ReweightingCallback)), None)


def gather_columns(trainer: Trainer, parts: Iterable[tuple[Tensor, ...]]) -> list[np.ndarray]:
    """Return the columns of all ranks' samples, in the order of the data; [] without samples.

    Args:
        trainer: the trainer. All ranks must call this together.
        parts: columns [B] of each batch of this rank, which has the samples r, r + world_size, ...
    """
    columns = zip(*parts, strict=True)
    ranks = [tuple(at_least_float32(torch.cat(column)).cpu().numpy() for column in columns)]
    if trainer.world_size > 1:
        mine, ranks = ranks[0], [()] * trainer.world_size
        torch.distributed.all_gather_object(ranks, mine)
    return [interleave(column) for column in zip(*ranks, strict=True)]


def interleave(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the array whose slice `[r :: len(parts)]` is part r.

    >>> interleave([np.array([0, 2, 4]), np.array([1, 3])]).tolist()
    [0, 1, 2, 3, 4]
    """
    whole = np.empty(sum(map(len, parts)), parts[0].dtype)
    for rank, part in enumerate(parts):
        whole[rank :: len(parts)] = part
    return whole
