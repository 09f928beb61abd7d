"""What the callbacks of this folder read from a trainer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from tandem_pl.callbacks.reweighting import ReweightingCallback


def mixture_data(trainer: Trainer) -> Any:
    """Return the trainer's MixtureDataModule, or None if its data has no domains."""
    data = getattr(trainer, "datamodule", None)
    return None if getattr(data, "domain_names", None) is None else data


def reweighting_of(trainer: Trainer) -> ReweightingCallback | None:
    """Return the callback that learns or sets the domain weights, or None."""
    callbacks = getattr(trainer, "callbacks", ())
    return next((c for c in callbacks if isinstance(c, ReweightingCallback)), None)


def run_folder(trainer: Trainer) -> Path:
    """Return the folder of the run's files. All ranks must call it: `log_dir` is broadcast."""
    return Path(trainer.log_dir or trainer.default_root_dir)


def experiments(trainer: Trainer, method: str) -> Iterator[Any]:
    """Yield the loggers' writers that have `method`, on rank zero only."""
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            experiment = getattr(logger, "experiment", None)
            if getattr(experiment, method, None) is not None:
                yield experiment
