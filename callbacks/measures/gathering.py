"""Bringing numbers of all ranks to all ranks, so that every rank computes the same weights."""

from __future__ import annotations

import numpy as np
import torch
from lightning.pytorch import Trainer

from tandem_pl.simplex import Array


def gather_sum(trainer: Trainer, values: Array) -> Array:
    """The sum over ranks, added in the order of the ranks: the same bits everywhere.

    Args:
        trainer: every rank of it must call this together.
        values: any shape, float64; one of the same shape on every rank.
    """
    if trainer.world_size == 1:
        return values
    return _gather(trainer, values).sum(axis=0)


def from_first_rank(trainer: Trainer, values: Array) -> Array:
    """Rank 0's values on every rank, for numbers that reductions have made nearly the same."""
    if trainer.world_size == 1:
        return values
    return _gather(trainer, values)[0]


def _gather(trainer: Trainer, values: Array) -> Array:
    """[ranks, ...]."""
    mine = torch.from_numpy(np.ascontiguousarray(values)).to(trainer.strategy.root_device)
    gathered: torch.Tensor = trainer.strategy.all_gather(mine)
    return gathered.reshape(trainer.world_size, *values.shape).cpu().numpy()
