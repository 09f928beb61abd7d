"""`TimedCheckpoint`: checkpoints by the clock, and when SIGTERM stops the run."""

from __future__ import annotations

import os
import signal
import threading
from time import monotonic
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

from tandem_pl.errors import InputError
from tandem_pl.training.checkpoint_io import AtomicCheckpointIO, refuse_time_interval

STOPPED = 128 + signal.SIGTERM  # 143, the exit code of a process that SIGTERM ended
INTERVAL = 1.0  # seconds of training between two exchanges among ranks


class TimedCheckpoint(Checkpoint):
    """Save `checkpoints/last.ckpt` by the clock, and when SIGTERM stops the run.

    Clusters send SIGTERM before they take a machine back. The current batch is finished, the
    checkpoint is saved, `fit` raises SystemExit with code 143, and rank zero prints how to resume.
    The resumed run equals the uninterrupted one. A second SIGTERM changes nothing. A signal before
    the first batch ends the process at once; a signal during validation waits for its end.
    `tandem fit` adds this callback.

    With several ranks a signal to any of them stops the run, and the clock is that of rank zero.
    The ranks exchange both about once a second, or every batch if a batch takes longer.

    `last.ckpt` is in the folder of `ModelCheckpoint` if there is one, and replaces its
    `last.ckpt`. With `minutes`, or without another checkpoint callback, it is also saved at the
    end of fit.

    Args:
        minutes: minutes of training between two saves; None to save at SIGTERM only.

    Raises:
        InputError: `minutes` is not positive, or a ModelCheckpoint would save nothing.
    """

    def __init__(self, minutes: float | None = None) -> None:
        super().__init__()
        if minutes is not None and not minutes > 0:
            raise InputError(
                f"minutes={minutes} must be positive, or null to save at SIGTERM only."
            )
        self.minutes = minutes
        self.best_model_path = ""  # Lightning reads it from its first checkpoint callback
        self.signalled = False  # whether this process got SIGTERM
        self._folder = ""
        self._saved_at = 0.0  # clock at the last save
        self._step = -1  # global step of the newest file of this callback
        self._any_step = -1  # global step of the newest file of any callback
        self._exchanged_at = 0.0
        self._batches = self._wait = 0  # since the last exchange, and until the next

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the trainer write files atomically; raise an error for what would write none."""
        if stage != "fit":
            return
        if not pl_module.automatic_optimization:
            refuse_time_interval(trainer)
        root = str(trainer.log_dir or trainer.default_root_dir)  # a path, or a remote address
        self._folder = f"{root.rstrip('/')}/checkpoints"
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to listen for SIGTERM."""
        self._listen()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._listen()
        self._saved_at = self._exchanged_at = monotonic()
        self._step = self._any_step = -1
        self._batches, self._wait = 0, 1

    def _listen(self) -> None:
        """Replace Lightning's handler, which hangs unless only rank zero is signalled.

        Lightning restores the original handler when `fit` ends.
        """
        if threading.current_thread() is not threading.main_thread():
            return  # Python delivers signals to the main thread only
        if signal.getsignal(signal.SIGTERM) != self._note:
            self.signalled = False
            signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: Any) -> None:
        self.signalled = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time, and stop after SIGTERM; Lightning calls checkpoint callbacks last."""
        stop, due = self._decide(trainer)
        if stop or due:
            path = self._save(trainer)
        if stop:
            rank_zero_info(
                f"\nstopped by SIGTERM at step {trainer.global_step}; "
                f"resume with --ckpt_path {path}"
            )
            raise SIGTERMException(_exit_code(trainer))

    def _decide(self, trainer: Trainer) -> tuple[bool, bool]:
        """Return whether to stop and whether a save is due, the same on every rank."""
        now = monotonic()
        due = self.minutes is not None and now - self._saved_at >= 60 * self.minutes
        if trainer.world_size == 1:
            return self.signalled, due
        self._batches += 1
        if self._batches < self._wait:
            return False, False
        pace = self._batches / max(now - self._exchanged_at, 1e-6)  # batches a second
        mine = [self.signalled, *([due, pace] if trainer.is_global_zero else [0, 0])]
        votes = torch.tensor(mine, dtype=torch.float32, device=trainer.strategy.root_device)
        stop, save, pace = trainer.strategy.reduce(votes, reduce_op="max").tolist()
        self._exchanged_at, self._batches = monotonic(), 0
        self._wait = max(1, min(int(INTERVAL * pace), 1000))
        return bool(stop), bool(save)

    def _save(self, trainer: Trainer) -> str:
        """Save on all ranks together, and return the path of the file."""
        callbacks = trainer.checkpoint_callbacks
        others = [c for c in callbacks if isinstance(c, ModelCheckpoint) and c.dirpath]
        folder = str(others[0].dirpath) if others else self._folder
        path = f"{folder.rstrip('/')}/last.ckpt"
        for other in others:
            if other.save_last and str(other.dirpath) == folder:
                other.last_model_path = path  # so that it replaces this file
        if not others:
            self.best_model_path = path
        if trainer.is_global_zero and os.path.islink(path):
            os.unlink(path)  # a sharded checkpoint would be written through it
        trainer.strategy.barrier()
        trainer.save_checkpoint(path)
        self._saved_at, self._step = monotonic(), trainer.global_step
        return path

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note the step of every checkpoint, whoever saves it."""
        self._any_step = trainer.global_step

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save `last.ckpt` if it is older than the end."""
        others = [c for c in trainer.checkpoint_callbacks if c is not self]
        kept = any(getattr(other, "save_last", None) for other in others)
        newest = self._any_step if kept else self._step
        wanted = self.minutes is not None or not others
        if wanted and newest < trainer.global_step and not getattr(trainer, "fast_dev_run", False):
            self._save(trainer)


def _exit_code(trainer: Trainer) -> int:
    """Return 143, or 0 for a process that Lightning started: it kills rank zero for other codes."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    started = isinstance(environment, LightningEnvironment) and trainer.local_rank > 0
    return 0 if started else STOPPED
