"""Numbers of all ranks on all ranks, so that every rank computes the same weights."""

from __future__ import annotations

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from tandem_pl.simplex import Array


def gather_sum(trainer: Trainer, values: Array) -> Array:
    """Return the sum over ranks, added in the order of the ranks: the same bits everywhere.

    Args:
        trainer: all its ranks must call this together.
        values: any shape, float64; of the same shape on every rank.
    """
    return values if trainer.world_size == 1 else _gather(trainer, values).sum(axis=0)


def from_first_rank(trainer: Trainer, values: Array) -> Array:
    """Return rank 0's values, because reductions may differ by a bit between ranks."""
    return values if trainer.world_size == 1 else _gather(trainer, values)[0]


def gather_columns(trainer: Trainer, rows: Tensor) -> Tensor:
    """Return [R, ranks N], all ranks' rows [R, N] side by side, on the device."""
    if trainer.world_size == 1:
        return rows
    return torch.cat(list(trainer.strategy.all_gather(rows)), dim=1)


def _gather(trainer: Trainer, values: Array) -> Array:
    """Return [ranks, ...]."""
    mine = torch.from_numpy(np.ascontiguousarray(values)).to(trainer.strategy.root_device)
    gathered: Tensor = trainer.strategy.all_gather(mine)
    return gathered.reshape(trainer.world_size, *values.shape).cpu().numpy()
