"""`TrainingLossReweighting`: base of the methods that need only the losses of training steps."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from numpy.typing import NDArray
from torch import Tensor

from tandem_pl.checks import check_at_least
from tandem_pl.episode import TRAIN, MixtureBatch, Plan, Segment
from tandem_pl.objectives.samples import at_least_float32
from tandem_pl.simplex import Array

from .anchor import AnchorSetting
from .bad_domains import list_domains
from .measures.gathering import gather_columns
from .reweighting import ReweightingCallback, Update

Ints = NDArray[np.int64]


class TrainingLossReweighting(ReweightingCallback):
    """Learns weights from the losses of training steps, so that it needs no batches to measure.

    An episode is `period` training batches drawn with the weights. All ranks' losses stay on the
    device until `next_weights` gets them. If one is not finite, the weights do not change.

    Args:
        period: training batches between updates.
        anchor: as of every method; see `callbacks.anchor`.
    """

    def __init__(self, period: int, anchor: AnchorSetting = 0.0) -> None:
        super().__init__(anchor)
        check_at_least("period", period, 1)
        self.period = period
        # [2, B] each: domains and losses of all ranks
        self._rows: list[Tensor] = self.add_state("_rows", list, tensors=True)

    @abstractmethod
    def next_weights(self, trainer: Trainer, domains: Ints, losses: Array) -> Update:
        """Return the next weights [M], and named values to log; the same on each rank.

        Args:
            trainer: of the run.
            domains: [P, B]; row p is the period's p-th batch over all ranks.
            losses: [P, B].
        """

    def skip_period(self, domains: Ints) -> None:
        """Take the domains [P, B] of a period with a loss that is not finite."""

    def plan(self) -> Plan:
        """Return one segment of training batches."""
        return [Segment(TRAIN, self.period, tuple(self.weights.tolist()))]

    def observe_training(self, trainer: Trainer, outputs: Any, batch: MixtureBatch) -> None:
        """Keep all ranks' losses, on the device."""
        losses = at_least_float32(outputs["losses"].detach())
        rows = torch.stack([batch.domains.to(losses), losses])  # domain numbers are exact to 2^24
        self._rows.append(gather_columns(trainer, rows))

    def update(self, trainer: Trainer, module: Any) -> Update:
        """Return `next_weights` of the period's losses."""
        rows = torch.stack(self._rows, dim=1).cpu().double().numpy()
        self._rows = []
        domains, losses = rows[0].astype(np.int64), rows[1]
        if np.isfinite(losses).all():
            return self.next_weights(trainer, domains, losses)
        self.skip_period(domains)
        bad = list_domains(self.domains, domains[~np.isfinite(losses)])
        return self.keep_weights(trainer, "a training loss is not finite", bad)


def domain_means(domains: Ints, losses: Array, size: int) -> tuple[Array, Array]:
    """Return mean losses [M], NaN for an absent domain, and samples [M], from any shape.

    >>> domain_means(np.array([0, 0, 2]), np.array([1.0, 3.0, 5.0]), 3)[0].tolist()
    [2.0, nan, 5.0]
    """
    count = np.bincount(domains.ravel(), minlength=size).astype(np.float64)
    total = np.bincount(domains.ravel(), losses.ravel(), size)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan), count
