"""Connects the three parts of a run at the start of a fit: module, data, reweighting callback."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tandem_pl.episode import WITHOUT_STEP, EpisodePlanner, MixtureData
from tandem_pl.errors import InputError

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer

    from .mixture_module import MixtureModule


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """Return the trainer's callbacks, an attribute that Lightning does not declare."""
    return getattr(trainer, "callbacks", [])


def find_planner(trainer: Trainer) -> EpisodePlanner | None:
    """Return the callback that sets the weights, if there is one."""
    return next((c for c in callbacks_of(trainer) if isinstance(c, EpisodePlanner)), None)


def find_data(trainer: Trainer) -> MixtureData | None:
    """Return the trainer's data module if it is one of domains."""
    data = getattr(trainer, "datamodule", None)
    return data if isinstance(data, MixtureData) else None


def mixture_data(trainer: Trainer, purpose: str) -> MixtureData:
    """Return the trainer's data module of domains.

    Args:
        trainer: of the run.
        purpose: a sentence's start that says what it is needed for, such as "MixtureMonitor names
            curves after the domains of a MixtureDataModule".

    Raises:
        InputError: there is none.
    """
    data = find_data(trainer)
    if data is None:
        raise InputError(f"{purpose}: pass one as datamodule to the trainer.")
    return data


def check_parts(
    trainer: Trainer, module: LightningModule, planner: EpisodePlanner
) -> tuple[MixtureModule, MixtureData]:
    """Return module and data of a run in which `planner` sets the weights.

    Raises:
        InputError: the module cannot act on phases, the data has no domains, or several callbacks
            set the weights.
    """
    from .mixture_module import MixtureModule

    name = type(planner).__name__
    if not isinstance(module, MixtureModule):
        raise InputError(
            f"{name} needs a MixtureModule or a TandemModule, and {type(module).__name__} is "
            "neither: wrap your network in one, or set the datamodule's weights instead."
        )
    data = mixture_data(trainer, f"{name} sets the shares of a MixtureDataModule")
    planners = [c for c in callbacks_of(trainer) if isinstance(c, EpisodePlanner)]
    if len(planners) > 1:
        names = ", ".join(type(callback).__name__ for callback in planners)
        raise InputError(f"callbacks has {names}, which all set the weights: keep one.")
    return module, data


def connect(module: MixtureModule, data: MixtureData, planner: EpisodePlanner) -> None:
    """Give the method's handlers to the module, and its first plan to the data."""
    module.handlers = dict(planner.handlers())
    data.begin_episode(planner.plan())


def total_steps(trainer: Trainer) -> int | None:
    """Return the number of proxy batches: `max_steps`, or episodes times steps per episode."""
    limits = [trainer.max_steps] if trainer.max_steps > 0 else []
    data = find_data(trainer)
    if trainer.max_epochs is not None and trainer.max_epochs > 0 and data is not None:
        steps = [part.batches for part in data.planned if part.phase not in WITHOUT_STEP]
        limits.append(trainer.max_epochs * sum(steps))
    return min(limits) if limits else None
