"""`LastCheckpoint`: `last.ckpt` at every end of a run, and by the clock."""

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

from .checkpoint_io import AtomicCheckpointIO, refuse_time_interval
from .connection import find_data
from .run_folder import run_address
from .trainer_flags import is_dry_run

NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}
INTERVAL = 1.0  # seconds of training between two exchanges among ranks


class LastCheckpoint(Checkpoint):
    """Save `checkpoints/last.ckpt` at the end of a run, whatever ends it, and by the clock.

    - `max_steps`, `max_epochs`, `max_time`, a stop from a callback: saved at the last step.
    - Ctrl-C or SIGTERM (which clusters send before they take a machine back): the current batch is
      finished, the checkpoint is saved, `fit` raises SystemExit with code 130 or 143, and rank zero
      prints how to resume. The resumed run equals the uninterrupted one. A second Ctrl-C ends the
      process at once. A signal before the first batch ends it at once too; a signal during
      validation waits for its end.
    - An error: saved at the last batch that was completed, in runs of one process.

    With several ranks a signal to any of them stops the run, and the clock is that of rank zero.
    The ranks exchange both about once a second, or every batch if a batch takes longer.

    `last.ckpt` is in the folder of `ModelCheckpoint` if there is one, and replaces its
    `last.ckpt`. `MixtureModule` adds this callback unless checkpoints are switched off.

    Args:
        minutes: minutes of training between two saves; None to save at ends only.

    Raises:
        InputError: `minutes` is not positive, or a ModelCheckpoint would save nothing.
    """

    def __init__(self, minutes: float | None = None) -> None:
        super().__init__()
        if minutes is not None and not minutes > 0:
            raise InputError(f"minutes={minutes} must be positive, or null to save at ends only.")
        self.minutes = minutes
        self.best_model_path = ""  # Lightning reads it from its first checkpoint callback
        self.signalled = 0  # the signal that this process got
        self._folder = ""
        self._saved_at = 0.0  # clock at the last save
        self._newest = -1  # position of the newest `last.ckpt`
        self._ended = False  # while the end of the run is saved
        self._step = 0  # global step after the last completed batch
        self._phase = ""  # of the batch at hand
        self._save_last: dict[ModelCheckpoint, Any] = {}  # settings that a dry run changes
        self._start = 0  # position at which this run started
        self._offset = 0  # batches consumed before this run, as far as Lightning counts
        self._exchanged_at = 0.0
        self._batches = self._wait = 0  # since the last exchange, and until the next

    # ---- start ----

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the trainer write files atomically; raise an error for what would write none."""
        if stage != "fit":
            return
        if not pl_module.automatic_optimization:
            refuse_time_interval(trainer)
        root = run_address(trainer)
        self._folder = f"{root.rstrip('/')}/checkpoints"
        self._newest = -1
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        if is_dry_run(trainer):  # in which Lightning's callback saves `last.ckpt`
            others = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
            self._save_last = {callback: callback.save_last for callback in others}
            for callback in others:
                callback.save_last = False

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Undo what a dry run changed."""
        for callback, value in self._save_last.items():
            callback.save_last = value
        self._save_last = {}

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to listen for signals."""
        self._listen()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._listen()
        self._saved_at = self._exchanged_at = monotonic()
        self._batches, self._wait = 0, 1
        self._step = trainer.global_step
        self._start = _position(trainer)
        self._offset = self._start - _processed(trainer)

    def _listen(self) -> None:
        """Replace Lightning's handler of SIGTERM, which hangs unless only rank zero is signalled.

        Lightning restores the original handlers when `fit` ends.
        """
        if threading.current_thread() is not threading.main_thread():
            return  # Python delivers signals to the main thread only
        if signal.getsignal(signal.SIGTERM) != self._note:
            self.signalled = 0
            for number in NAMES:
                signal.signal(number, self._note)

    def _note(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT:
            if self.signalled == number:  # for the second time
                signal.signal(number, signal.default_int_handler)
                raise KeyboardInterrupt
            rank_zero_info("\nfinishing the batch and saving; press Ctrl-C again to end at once")
        self.signalled = number

    # ---- batches ----

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note what the module does with the batch."""
        self._phase = getattr(batch, "phase", "")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time, and stop after a signal; checkpoint callbacks are called last."""
        self._step = trainer.global_step
        number, due = self._decide(trainer)
        how = ""
        if (number or due) and not is_dry_run(trainer):
            how = f"; resume with --ckpt_path {self._save(trainer)}"
        if number:
            name = NAMES[signal.Signals(number)]
            rank_zero_info(f"\nstopped by {name} at step {trainer.global_step}{how}")
            raise SIGTERMException(_exit_code(trainer, number))

    def _decide(self, trainer: Trainer) -> tuple[int, bool]:
        """Return the signal to stop for or 0, and whether a save is due, the same on every rank."""
        now = monotonic()
        due = self.minutes is not None and now - self._saved_at >= 60 * self.minutes
        if trainer.world_size == 1:
            return self.signalled, due
        self._batches += 1
        if self._batches < self._wait:
            return 0, False
        pace = self._batches / max(now - self._exchanged_at, 1e-6)  # batches a second
        mine = [self.signalled, *([due, pace] if trainer.is_global_zero else [0, 0])]
        votes = torch.tensor(mine, dtype=torch.float32, device=trainer.strategy.root_device)
        number, save, pace = trainer.strategy.reduce(votes, reduce_op="max").tolist()
        self._exchanged_at, self._batches = monotonic(), 0
        self._wait = max(1, min(int(INTERVAL * pace), 1000))
        return int(number), bool(save)

    # ---- ends ----

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save `last.ckpt` if it is older than the end."""
        if self._newest < _position(trainer) and not is_dry_run(trainer):
            self._ended = True
            self._save(trainer)
            self._ended = False

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Save after an error at the last completed batch, unless other ranks train on."""
        stopped = isinstance(exception, KeyboardInterrupt | SIGTERMException)
        if stopped or trainer.world_size > 1 or not trainer.training or not self._saved_at:
            return
        if is_dry_run(trainer):
            return
        from .mixture_module import MixtureModule  # which imports this file

        data = find_data(trainer)
        if data is not None and data.consumed - _processed(trainer) > self._offset:
            # the batch at hand was not completed
            if not isinstance(pl_module, MixtureModule) or self._phase in pl_module.handlers:
                return  # part of its effect may be in the state: keep the last checkpoint
            if trainer.global_step != self._step:
                return
            data.rewind()
            pl_module.restore_statistics()
        # a resumed run that did nothing has its checkpoint already
        if trainer.global_step > 0 and max(self._newest, self._start) < _position(trainer):
            path = self._save(trainer)
            rank_zero_info(
                f"\nan error ended the run at step {trainer.global_step}; "
                f"resume with --ckpt_path {path}"
            )

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
        self._saved_at, self._newest = monotonic(), _position(trainer)
        return path

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note the position of a checkpoint that another callback saves as `last.ckpt` too."""
        callbacks = trainer.checkpoint_callbacks
        if any(isinstance(c, ModelCheckpoint) and c.save_last for c in callbacks):
            self._newest = _position(trainer)
        data = find_data(trainer)
        if self._ended and data is not None and data.rest_of_plan() != data.planned:
            _reopen_epoch(checkpoint)


def _position(trainer: Trainer) -> int:
    """Return the batches trained on and measured; steps for data without domains."""
    data = find_data(trainer)
    return trainer.global_step if data is None else data.consumed


def _reopen_epoch(checkpoint: dict[str, Any]) -> None:
    """Make a resumed run continue the epoch, which Lightning counts as completed.

    A run that is stopped inside an episode ends its epoch, so that `max_epochs` would count the
    episode twice.
    """
    progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
    for counts in (progress["total"], progress["current"]):
        counts["processed"] -= 1
        counts["completed"] -= 1


def _processed(trainer: Trainer) -> int:
    """Return the batches that Lightning counts as trained on, in all epochs."""
    return getattr(trainer.fit_loop.epoch_loop.batch_progress.total, "processed", 0)


def _exit_code(trainer: Trainer, number: int) -> int:
    """Return 128 + number, or 0 for a process of Lightning's: it kills rank zero for others."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    started = isinstance(environment, LightningEnvironment) and trainer.local_rank > 0
    return 0 if started else 128 + number
