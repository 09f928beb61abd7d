"""What callbacks look for in a trainer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Trainer

from tandem_pl.callbacks.reweighting import ReweightingCallback


def reweighting_of(trainer: Trainer) -> ReweightingCallback | None:
    """The callback that learns or sets the weights, if there is one."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return next((c for c in callbacks if isinstance(c, ReweightingCallback)), None)


def experiments(trainer: Trainer, method: str) -> Iterator[Any]:
    """The loggers' writers that have `method`, on rank zero."""
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            experiment = getattr(logger, "experiment", None)
            if hasattr(experiment, method):
                yield experiment
