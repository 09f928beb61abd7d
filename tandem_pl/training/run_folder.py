"""Where the files of a run are."""

from __future__ import annotations

import os
from pathlib import Path

from lightning.pytorch import Trainer


def run_address(trainer: Trainer) -> str:
    """Return the folder of a run's files: a path, or a remote address.

    It is the first logger's SAVE_DIR/NAME/VERSION, where Lightning's ModelCheckpoint saves too, so
    that no run overwrites another one's files; without a logger, `default_root_dir`. (Lightning's
    `trainer.log_dir` is SAVE_DIR alone for W&B and MLflow.) All ranks must call it, because the
    name of the run is known on rank zero and broadcast.
    """
    folder = str(trainer.log_dir or trainer.default_root_dir)
    logger = trainer.loggers[0] if trainer.loggers else None
    if logger is None or logger.log_dir is not None:  # TensorBoard and CSV name it themselves
        return folder
    parts = [str(part) for part in (logger.name, logger.version) if part not in (None, "")]
    address: str = trainer.strategy.broadcast(os.path.join(folder, *parts))
    return address


def run_folder(trainer: Trainer) -> Path:
    """Return `run_address` as a path."""
    return Path(run_address(trainer))
