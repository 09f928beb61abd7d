"""`TrainingLossReweighting`: what methods share that look at nothing but the training losses."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor

from tandem_pl.checks import check_at_least
from tandem_pl.episode import TRAIN, MixtureBatch, Plan, Segment
from tandem_pl.objectives.samples import at_least_float32
from tandem_pl.simplex import Array

from .reweighting import ReweightingCallback

Ints = NDArray[np.int64]


class TrainingLossReweighting(ReweightingCallback):
    """Weights from losses that training computes anyway: nothing is drawn for measuring.

    An episode is `period` training batches drawn with the weights; then `learn` gives the next
    weights. The losses of all ranks are kept on the device until then. A period with a loss that
    is not finite leaves the weights alone.

    Args:
        period: training batches between updates.
    """

    def __init__(self, period: int) -> None:
        super().__init__()
        check_at_least("period", period, 1)
        self.period = period
        self.skipped_episodes = 0
        self._rows: list[Tensor] = []  # [2, B] each: domain and loss, of all ranks

    @abstractmethod
    def learn(self, trainer: Trainer, domains: Ints, losses: Array) -> tuple[Array, dict]:
        """The next weights [M] and values to log, from domains [P, B] and losses [P, B].

        Row p is the period's p-th batch over all ranks. On each rank alike.
        """

    def skip(self, domains: Ints) -> None:
        """What a period does that is left out, of which the domains [P, B] are known."""

    def plan(self) -> Plan:
        """One segment of training batches."""
        return [Segment(TRAIN, self.period, tuple(self.weights.tolist()))]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Starts afresh."""
        self._rows, self.skipped_episodes = [], 0
        super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Brings what a checkpoint brought to where the next losses will be."""
        self._rows = [rows.to(pl_module.device) for rows in self._rows]

    def observe_training(self, trainer: Trainer, outputs: Any, batch: MixtureBatch) -> None:
        """Keeps every rank's losses on every rank, on the device."""
        losses = at_least_float32(outputs["losses"].detach())
        rows = torch.stack([batch.domains.to(losses), losses])  # whole numbers up to 2^24
        if trainer.world_size > 1:
            rows = torch.cat(list(trainer.strategy.all_gather(rows)), dim=1)
        self._rows.append(rows)

    def update(self, trainer: Trainer, module: Any) -> tuple[Array, dict[str, float]]:
        """What `learn` gives; losses that are not finite leave the weights alone."""
        rows = torch.stack(self._rows, dim=1).cpu().double().numpy()
        self._rows = []
        domains, losses = rows[0].astype(np.int64), rows[1]
        if np.isfinite(losses).all():
            return self.learn(trainer, domains, losses)
        self.skip(domains)
        return self.leave(trainer, "a training loss is not finite")

    def leave(self, trainer: Trainer, reason: str) -> tuple[Array, dict[str, float]]:
        """Warns, counts, and gives the weights as they are."""
        self.skipped_episodes += 1
        rank_zero_warn(
            f"step {trainer.global_step}: {reason}, the weights stay as they are "
            f"({self.skipped_episodes} episodes so far)."
        )
        return self.weights, {"mixture/skipped_episodes": float(self.skipped_episodes)}

    def state_dict(self) -> dict[str, Any]:
        """Adds the losses of the period so far."""
        rows = torch.stack(self._rows).cpu() if self._rows else None
        return super().state_dict() | {"rows": rows, "skipped_episodes": self.skipped_episodes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them."""
        super().load_state_dict(state_dict)
        rows = state_dict.get("rows")
        self._rows = [] if rows is None else list(rows)
        self.skipped_episodes = state_dict.get("skipped_episodes", 0)


def domain_means(domains: Ints, losses: Array, size: int) -> tuple[Array, Array]:
    """Mean loss [M] (NaN for an absent domain) and samples [M], of any shape of losses.

    >>> domain_means(np.array([0, 0, 2]), np.array([1.0, 3.0, 5.0]), 3)[0].tolist()
    [2.0, nan, 5.0]
    """
    count = np.bincount(domains.ravel(), minlength=size).astype(np.float64)
    total = np.bincount(domains.ravel(), losses.ravel(), size)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan), count
