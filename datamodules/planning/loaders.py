"""The data loaders of planned batches, and the ranks that share them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from tandem_pl.errors import InputError

from .loader_workers import outlive_sigterm

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from .loading import Episodes, PlannedSamples
    from .sampler import PlannedBatch


class ResumableLoader(DataLoader):
    """Tells Lightning that resuming inside an epoch is exact; the data module holds the state."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing."""


def make_loader(
    samples: PlannedSamples, planned: Episodes | list[PlannedBatch], num_workers: int
) -> DataLoader:
    """Return a loader whose sampler yields whole planned batches, for training or evaluation."""
    kind = DataLoader if isinstance(planned, list) else ResumableLoader
    return kind(
        samples,
        sampler=planned,
        batch_size=None,  # an element of the sampler is a whole batch
        collate_fn=identity,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        worker_init_fn=outlive_sigterm,
        pin_memory=torch.cuda.is_available(),
        # of workers' randomness, different on every rank; leaves the global generator alone
        generator=torch.Generator().manual_seed(samples.seed + (samples.rank << 32)),
    )


def no_batches() -> list[DataLoader]:
    """Return no loader, and silence Lightning's warning of it, because none is meant."""
    warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
    return []


def identity(batch: Any) -> Any:
    """Return the batch: the data set has collated it."""
    return batch


def ranks_of(trainer: Trainer | None) -> tuple[int, int]:
    """Return this process's number, and how many processes share each batch.

    Raises:
        InputError: the trainer would replace the sampler by one of its own.
    """
    if trainer is None:
        return 0, 1
    given = trainer.distributed_sampler_kwargs
    rank, ranks = (given["rank"], given["num_replicas"]) if given else (0, 1)
    if given and trainer._accelerator_connector.use_distributed_sampler:  # also one rank of DDP
        raise InputError(
            "use_distributed_sampler=True would replace the mixture's sampler: set "
            "Trainer(use_distributed_sampler=False); the datamodule shards over ranks itself."
        )
    return rank, ranks
