"""`ManualUpdates`: one optimizer step a batch, skipped on all ranks if a loss is not finite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from tandem_pl.errors import InputError

from .evaluation import EvaluationByDomain
from .loading import check_steps_left, load_state
from .norm_statistics import StatisticsSnapshot
from .run_folder import run_folder
from .skipped_updates import SkippedUpdates, step_unless
from .trainer_flags import is_dry_run


class ManualUpdates(EvaluationByDomain):
    """What a module does after its backward: clip, step, count what was skipped, stop in time.

    Args:
        gradient_clip_val: largest norm of each parameter group's gradient; None for no clipping.
        max_skipped_updates: skipped updates in a row that stop the run.
    """

    def __init__(self, gradient_clip_val: float | None, max_skipped_updates: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.gradient_clip_val = gradient_clip_val
        self.max_skipped_updates = max_skipped_updates
        self.skips = SkippedUpdates()
        self._snapshot = StatisticsSnapshot([])  # BatchNorm's, before the present batch
        self._has_batch_norm = True  # until `on_fit_start` has looked

    def keep_statistics(self, networks: list[nn.Module]) -> None:
        """Copy BatchNorm's statistics, so that a batch that is not finite can be undone."""
        self._snapshot = StatisticsSnapshot(networks if self._has_batch_norm else [])

    def restore_statistics(self) -> None:
        """Undo what the batch at hand did to BatchNorm's statistics."""
        self._snapshot.restore_if(torch.tensor(True, device=self.device))

    def apply_update(self, *losses: Tensor) -> None:
        """Step optimizer and scheduler, or skip the update if a loss is not finite on any rank."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        bad = self._not_finite(losses)
        self._snapshot.restore_if(bad)
        self.skips.count(step_unless(bad, self._optimizer(), scaler))
        for config in self.trainer.strategy.lr_scheduler_configs:  # a subclass may bring its own
            if self.global_step % config.frequency == 0:
                assert not isinstance(
                    config.scheduler, ReduceLROnPlateau
                )  # refused by on_fit_start
                config.scheduler.step()

    def _not_finite(self, losses: Iterable[Tensor]) -> Tensor:
        """Return whether a loss is not finite on any rank, a scalar on the device."""
        bad = ~torch.stack([loss.isfinite().all() for loss in losses]).all()
        if self.trainer.world_size > 1:  # every rank must decide the same, or the others would wait
            bad = self.trainer.strategy.reduce(bad.float(), reduce_op="sum") > 0
        return bad

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip each parameter group by itself, after gradients of 16-bit losses are unscaled."""
        if self.gradient_clip_val is not None:
            scaler = getattr(self.trainer.precision_plugin, "scaler", None)
            if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
                scaler.unscale_(optimizer)  # a fused optimizer would do so in its step, too late
            for group in optimizer.param_groups:
                torch.nn.utils.clip_grad_norm_(group["params"], self.gradient_clip_val)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop after too many skipped updates; poll rarely if reading them syncs with a device."""
        self._snapshot = StatisticsSnapshot([])  # the batch is complete
        every = max(getattr(self.trainer, "log_every_n_steps", 1), 1)
        if self.skips.on_device and self.global_step % every:
            return
        in_a_row = self.skips.read()[1]
        if in_a_row < self.max_skipped_updates:
            return
        saved = ""
        if not is_dry_run(self.trainer):
            folder = run_folder(self.trainer) / "checkpoints"
            path = folder / f"stopped-step={self.global_step}.ckpt"
            self.trainer.save_checkpoint(path)
            saved = f"; the state is in {path}"
        raise InputError(
            f"the loss was not finite in {in_a_row} batches in a row (max_skipped_updates), up to "
            f"step {self.global_step}: lower the learning rate or set gradient_clip_val{saved}."
        )

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load as PyTorch does; say in one sentence what does not fit."""
        load = partial(super().load_state_dict, state_dict, strict, assign)
        return load_state(self, load, state_dict)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the skip counters."""
        checkpoint["skipped_updates"] = list(self.skips.read())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the skip counters; raise an error if no step is left."""
        check_steps_left(self._trainer, checkpoint)
        self.skips.restore(*checkpoint.get("skipped_updates", [0, 0]))

    @property
    def skipped_updates(self) -> int:
        """How many updates were skipped so far; reading it syncs with the device."""
        return self.skips.read()[0]

    @property
    def skipped_in_a_row(self) -> int:
        """How many updates were skipped since the last that was not; syncs with the device."""
        return self.skips.read()[1]

    def _optimizer(self) -> Any:
        return self.optimizers()
