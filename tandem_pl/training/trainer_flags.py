"""Flags of `lightning.Trainer` that do nothing, or something unexpected, in runs on a mixture.

`README.md` of this folder has a table of all flags.
"""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_warn

from tandem_pl.episode import WITHOUT_STEP, Plan
from tandem_pl.errors import InputError

from .connection import find_data, find_planner

EVALUATION_LIMITS = {  # verb -> flag
    "fit": "limit_val_batches",
    "validate": "limit_val_batches",
    "test": "limit_test_batches",
    "predict": "limit_predict_batches",
}


def is_dry_run(trainer: Trainer) -> bool:
    """Return whether the run must write nothing: `fast_dev_run` is set."""
    return bool(getattr(trainer, "fast_dev_run", False))


def check_optimization(trainer: Trainer) -> None:
    """Raise an error for flags of automatic optimization, which our modules do not use.

    Lightning's own errors advise automatic optimization, or do not come.

    Raises:
        InputError: `accumulate_grad_batches`, `gradient_clip_val` or `gradient_clip_algorithm`.
    """
    if trainer.accumulate_grad_batches != 1:
        raise InputError(
            f"accumulate_grad_batches={trainer.accumulate_grad_batches} of the trainer cannot be "
            "used: set batch_size of the data module to the samples of one step, and "
            "micro_batch_size of the module to the samples of one forward."
        )
    if trainer.gradient_clip_val:
        raise InputError(
            f"gradient_clip_val={trainer.gradient_clip_val} of the trainer cannot be used: set "
            "gradient_clip_val of the module, which clips each network's gradient by its norm."
        )
    layers = getattr(trainer.strategy, "_layer_sync", None)  # only some strategies have it
    if layers is not None and not isinstance(trainer.strategy, DDPStrategy):
        rank_zero_warn(
            f"sync_batchnorm=True has no effect with {type(trainer.strategy).__name__}: use "
            "strategy=ddp, or leave it out."
        )
    elif layers is not None and trainer.strategy.root_device.type == "cpu":
        raise InputError("sync_batchnorm=True needs GPUs: leave it out on CPUs.")
    algorithm = trainer.gradient_clip_algorithm
    if algorithm is not None and algorithm.value != "norm":
        raise InputError(
            f"gradient_clip_algorithm={algorithm.value!r} of the trainer cannot be used: "
            "gradient_clip_val of the module clips by norm."
        )


def check_loading(trainer: object) -> None:
    """Raise an error or warn about flags of data loading that do not fit a planned mixture.

    Args:
        trainer: of the fit; anything else than a Trainer is not checked.

    Raises:
        InputError: `overfit_batches`.
    """
    if not isinstance(trainer, Trainer):
        return
    # two attributes that Lightning does not declare
    overfit = getattr(trainer, "overfit_batches", 0)
    every = getattr(trainer, "reload_dataloaders_every_n_epochs", 0)
    if overfit:
        raise InputError(
            f"overfit_batches={overfit} cannot be used, since batches are drawn by "
            "the mixture: give the data module a few samples of each domain, such as "
            "torch.utils.data.Subset(data, range(8)), and train on these for many steps."
        )
    if trainer.limit_train_batches == 0:
        rank_zero_warn("limit_train_batches=0: nothing is trained and no mixture is written.")
    if every:
        rank_zero_warn(
            f"reload_dataloaders_every_n_epochs={every} is not needed, since the loader follows "
            "the weights without a reload: leave it out, or workers start again each time."
        )


def planned_steps(trainer: object, plan: Plan) -> int | None:
    """Return the training batches of a run: `max_steps`, or those of `max_epochs` episodes.

    Args:
        trainer: of the fit; anything without these attributes has no limit.
        plan: of an episode.

    Returns:
        the number, the smaller one if both are set; None without a limit.
    """
    steps, episodes = getattr(trainer, "max_steps", -1), getattr(trainer, "max_epochs", None)
    limits = [steps] if steps > 0 else []
    if episodes is not None and episodes > 0 and plan:
        limits.append(episodes * sum(s.batches for s in plan if s.phase not in WITHOUT_STEP))
    return min(limits) if limits else None


def check_episode(trainer: object, plan: Plan) -> None:
    """Raise an error or warn about flags that count batches of an epoch, which is an episode.

    Args:
        trainer: of the fit; anything else than a Trainer is not checked.
        plan: of the episode.

    Raises:
        InputError: `val_check_interval` is longer than the episode.
    """
    if not isinstance(trainer, Trainer) or is_dry_run(trainer):
        return
    batches = sum(segment.batches for segment in plan)
    limit = trainer.limit_train_batches
    interval = getattr(trainer, "val_check_interval", None)  # Lightning sets none if it is a time
    kept = limit if isinstance(limit, int) else int(limit * batches)
    if kept < batches:
        planner = find_planner(trainer)
        own = f"the arguments of {type(planner).__name__}" if planner else "epoch_batches"
        late = ", which delays the update of the weights" if planner else ""
        rank_zero_warn(
            f"limit_train_batches={limit} ends an epoch after {kept} of the {batches} batches of "
            f"an episode, and the next epoch continues the episode{late}: leave it out, and set "
            f"the length of an episode by {own}."
        )
    by_epoch = trainer.check_val_every_n_epoch is not None and trainer.limit_val_batches > 0
    if isinstance(interval, int) and by_epoch and interval > min(kept, batches):
        raise InputError(
            f"val_check_interval={interval} counts batches of one episode, which has "
            f"{min(kept, batches)}: set check_val_every_n_epoch to null to count batches of the "
            "whole run, or to a number of episodes instead of val_check_interval."
        )


def check_evaluation(trainer: object, batches: int, domains: int) -> None:
    """Warn if an evaluation leaves out batches, which are in the order of the domains.

    Args:
        trainer: of the run; anything else than a Trainer is not checked.
        batches: in the whole evaluation.
        domains: in the data.
    """
    if not isinstance(trainer, Trainer) or is_dry_run(trainer) or trainer.state.fn is None:
        return
    name = EVALUATION_LIMITS[trainer.state.fn]
    limit = getattr(trainer, name)
    kept = limit if isinstance(limit, int) else int(limit * batches)
    if 0 < kept < batches and domains > 1:
        rank_zero_warn(
            f"{name}={limit} evaluates {kept} of {batches} batches, which are in the order of the "
            f"{domains} domains, so the last domains have few samples or none: leave it out, and "
            "give the data module smaller data sets."
        )


def total_steps(trainer: Trainer) -> int | None:
    """Return the number of proxy batches: `max_steps`, or episodes times steps per episode."""
    data = find_data(trainer)
    return planned_steps(trainer, () if data is None else data.planned)
