"""What happens to the episode in which a run ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from tandem_pl.episode import WITHOUT_STEP
from tandem_pl.training.trainer_flags import is_dry_run

if TYPE_CHECKING:
    from .reweighting import ReweightingCallback


def finish_episode(
    callback: ReweightingCallback, trainer: Trainer, module: LightningModule
) -> None:
    """Measure and update if only batches without a step are left of the episode; else say so.

    Lightning ends a run at `max_steps`, before the batches that the last episode would measure on.
    They are run here, so that the last episode's update is not lost.
    """
    plan, left = callback.data.planned, callback.data.rest_of_plan()
    if not left or list(left) == list(plan) or callback.frozen_at is not None:
        return
    if any(segment.phase not in WITHOUT_STEP for segment in left):
        steps, missing = (
            sum(segment.batches for segment in part if segment.phase not in WITHOUT_STEP)
            for part in (plan, left)
        )
        if callback.signal_name is not None and not is_dry_run(trainer):  # a method that measures
            rank_zero_info(
                f"the run ended {steps - missing} of {steps} steps into an episode, whose update "
                f"of the weights was not made: let max_steps be a multiple of {steps}."
            )
        return
    precision = trainer.precision_plugin
    for index, batch in enumerate(callback.data.rest_of_episode()):
        batch = trainer.strategy.batch_to_device(precision.convert_input(batch))
        with precision.train_step_context():
            outputs = module.training_step(batch, index)
        callback.on_train_batch_end(trainer, module, outputs, batch, index)
