"""How a run goes on once its mixture is learned: it stops when settled, or trains on frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info

from tandem_pl.episode import TRAIN, WITHOUT_STEP, Plan, Segment
from tandem_pl.errors import InputError
from tandem_pl.steadiness import is_judged, is_settled, update_settled_since
from tandem_pl.training.trainer_flags import total_steps

if TYPE_CHECKING:
    from .reweighting import ReweightingCallback


def check_freezing(stop_when_settled: bool, freeze_after: float | None) -> None:
    """Raise an error for a share outside 0 to 1, or if both options are given."""
    if freeze_after is not None and not 0 < freeze_after < 1:
        raise InputError(
            f"freeze_after={freeze_after} must be above 0 and below 1: the share of the run in "
            "which weights are learned."
        )
    if freeze_after is not None and stop_when_settled:
        raise InputError(
            "stop_when_settled ends the run and freeze_after goes on with its average: keep one."
        )


def check_length(freeze_after: float | None, trainer: Trainer) -> None:
    """Raise an error if weights are to be frozen in a run of unknown length."""
    if freeze_after is not None and not (trainer.max_steps > 0 or (trainer.max_epochs or 0) > 0):
        raise InputError(
            f"freeze_after={freeze_after} is a share of the run, whose length is unknown: set "
            "max_steps of the trainer."
        )


def next_plan(callback: ReweightingCallback, trainer: Trainer) -> Plan:
    """Return the plan after an update, which may stop the run, or freeze the weights."""
    _stop_if_settled(callback, trainer)
    _freeze_if_due(callback, trainer)
    return callback.plan() if callback.frozen_at is None else frozen_plan(callback)


def frozen_plan(callback: ReweightingCallback) -> Plan:
    """Return training batches drawn with the average, as many as the present episode's steps."""
    parts = callback.data.planned
    steps = sum(part.batches for part in parts if part.phase not in WITHOUT_STEP)
    return [Segment(TRAIN, steps, tuple(callback.averaged().tolist()))]


def _freeze_if_due(callback: ReweightingCallback, trainer: Trainer) -> None:
    """Freeze the weights at the first update in or after the given share of the run."""
    steps = total_steps(trainer)
    if callback.freeze_after is None or steps is None:
        return
    if trainer.global_step >= callback.freeze_after * steps:
        callback.frozen_at = trainer.global_step
        rank_zero_info(
            f"step {trainer.global_step} of {steps}: the weights are frozen "
            f"(freeze_after={callback.freeze_after}); the run goes on with their average, without "
            "measuring."
        )


def _stop_if_settled(callback: ReweightingCallback, trainer: Trainer) -> None:
    """Stop the run after this episode if its average has stayed for a third of the updates.

    Every rank comes to the same decision, from the same weights.
    """
    updates, steadiness = callback.episodes, callback.steadiness
    if not callback.stop_when_settled or steadiness is None or not is_judged(updates):
        return
    since = update_settled_since(callback.settled_since, updates, steadiness)
    callback.settled_since = since
    if is_settled(since, updates):
        trainer.should_stop = True
        rank_zero_info(
            f"step {trainer.global_step}: the run stops because its weights are settled: in the "
            f"updates {since} to {updates} the average over the second half stayed within "
            f"2 % of the data, {steadiness.distance:.1%} of it away from the start."
        )
