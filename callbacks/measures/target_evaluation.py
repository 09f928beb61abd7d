"""`TargetEvaluation`: losses on the same target samples each time, for methods of differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer

from tandem_pl.datamodules.planning.loading import Rows, evaluation_rows
from tandem_pl.datamodules.planning.sampler import PlannedBatch
from tandem_pl.episode import EVALUATE
from tandem_pl.errors import InputError
from tandem_pl.randomness import private_randomness
from tandem_pl.simplex import Array
from tandem_pl.training.domain_losses import DomainLosses
from tandem_pl.training.modes import evaluating


class TargetEvaluation:
    """Mean loss of each target domain, on a fixed set of samples.

    The samples are the same at every evaluation of a run, and after a resume, so that the
    difference of two evaluations is due to training alone. They are a function of the data's seed.
    Every target domain counts alike; `target_weights` of the datamodule plays no part.

    Args:
        samples: of each target domain; None for all that there are.

    Raises:
        InputError: by `prepare`, for data without a target.
    """

    def __init__(self, samples: int | None) -> None:
        if samples is not None and not (np.isfinite(samples) and samples >= 1):
            raise InputError(
                f"evaluation_samples={samples} must be at least 1, or null for all target samples."
            )
        self.samples = samples
        self.names: tuple[str, ...] = ()
        self._indices: list[np.ndarray] = []

    def prepare(self, trainer: Trainer, method: str) -> None:
        """Chooses the samples."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not data.target_sets:
            raise InputError(
                f"{method} weighs domains by what they do for target data, and there is none: give "
                "the datamodule target=..."
            )
        self.names = tuple(data.target_sets)
        self._indices = []
        for number, name in enumerate(self.names):
            size = len(data.target_sets[name])
            order = np.random.default_rng([data.seed, number]).permutation(size)
            self._indices.append(np.sort(order[: self.samples]))

    def losses(self, trainer: Trainer, module: Any) -> Array:
        """Means [M'] in nats, in eval mode; all ranks call this together and get the same.

        One forward of each sample: the cost is a third of a training step a batch.
        """
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        rank, ranks = trainer.global_rank, trainer.world_size
        counts = [len(indices) for indices in self._indices]
        domains = np.repeat(np.arange(len(counts)), counts)
        indices = np.concatenate(self._indices)
        size = max(data.eval_batch_size // ranks, 1)
        if module.micro_batch_size:  # one forward a batch: as many of them on every rank
            size = min(size, module.micro_batch_size)
        rows, store = Rows(data.target_sets, {}, data.collate_fn, data.seed, rank), DomainLosses()
        precision = trainer.precision_plugin
        module.share_buffers()
        with torch.no_grad(), private_randomness(module.device), precision.forward_context():
            for part in evaluation_rows(len(domains), size, rank, ranks):
                batch = rows.__getitems__(
                    PlannedBatch(EVALUATE, 0, False, False, domains[part], indices[part])
                )
                batch = trainer.strategy.batch_to_device(precision.convert_input(batch))
                with evaluating(module.network):
                    losses = module.sample_losses(module.network, batch.samples, len(part))
                store.add(batch.domains, losses)
        return store.reduce(len(counts), trainer.strategy)[0]
