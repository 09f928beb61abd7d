"""What of a checkpoint does not fit the run that loads it, in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from tandem_pl.errors import InputError

from .run_folder import run_folder
from .trainer_flags import is_dry_run

ADVICE = "use the configuration of the run that made it, RUN/config.yaml."


def name_difference(module: nn.Module, state: Mapping[str, Any]) -> str | None:
    """Return how a checkpoint's parameters and buffers differ from a module's; None if they fit.

    >>> name_difference(nn.Linear(2, 1), nn.Linear(3, 1).state_dict())
    'weight has shape [1, 3] there and [1, 2] here'
    >>> name_difference(nn.Linear(2, 1), {"w": 0, "bias": nn.Linear(2, 1).bias})
    "it lacks 1 of the network's 2 tensors, such as weight, and has 1 others, such as w"
    >>> name_difference(nn.Linear(2, 1), nn.Linear(2, 1).state_dict())
    """
    mine = {key: value for key, value in module.state_dict().items() if isinstance(value, Tensor)}
    for key, value in mine.items():
        there = state.get(key)
        if isinstance(there, Tensor) and there.shape != value.shape:
            return f"{key} has shape {list(there.shape)} there and {list(value.shape)} here"
    missing, unexpected = ([k for k in a if k not in b] for a, b in ((mine, state), (state, mine)))
    parts = []
    if missing:
        parts.append(f"lacks {len(missing)} of the network's {len(mine)} tensors, such as ")
        parts[-1] += missing[0]
    if unexpected:
        parts.append(f"has {len(unexpected)} others, such as {unexpected[0]}")
    return f"it {', and '.join(parts)}" if parts else None


def load_state(module: nn.Module, load: Any, state: Mapping[str, Any]) -> Any:
    """Return `load()`, PyTorch's loading of `state`.

    Raises:
        InputError: the tensors are those of another network.
    """
    try:
        return load()
    except RuntimeError as error:  # hooks of modules rename keys, so PyTorch decides what fits
        difference = name_difference(module, state)
        if difference is None:
            raise
        raise InputError(f"the checkpoint is of another network: {difference}; {ADVICE}") from error


def check_steps_left(trainer: Trainer | None, checkpoint: Mapping[str, Any]) -> None:
    """Raise an error for a checkpoint that a fit cannot continue, since `max_steps` is not later.

    A finished run that is started again in its own folder, as a queued job is, is no error.

    Raises:
        InputError: the run would end before its first step.
    """
    if trainer is None or trainer.state.fn != "fit" or is_dry_run(trainer):
        return
    step, end = checkpoint.get("global_step", 0), trainer.max_steps
    if not 0 <= end <= step:
        return
    here = Path(str(trainer.ckpt_path)).resolve().parent.parent == run_folder(trainer).resolve()
    if end == step and here:
        rank_zero_info(f"the run is finished: it is at step {step}, which is max_steps.")
        return
    how = "ends before it" if end < step else "is reached, so the run is finished"
    raise InputError(
        f"ckpt_path is at step {step} and max_steps={end} {how}: raise max_steps, or leave "
        "ckpt_path out."
    )
