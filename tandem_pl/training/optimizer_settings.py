"""The parameters of an optimizer, and the settings that a resumed run keeps."""

from typing import Any

from torch import nn
from torch.optim import Optimizer

from tandem_pl.errors import InputError


def trainable(network: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that train.

    Raises:
        InputError: there is none.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    if not parameters:
        raise InputError(
            f"network={type(network).__name__} has no parameter that trains: set requires_grad of "
            "some, or add adapters."
        )
    return parameters


def keep_settings(optimizer: Optimizer, checkpoint: dict[str, Any]) -> None:
    """Write a new optimizer's settings into a checkpoint before it is loaded.

    Without this a resumed run would keep the checkpoint's learning rate, whatever the configuration
    says now. A scheduled rate keeps its place in the schedule: it is multiplied by new base rate
    over old base rate, which is exactly 1 if nothing changed.

    Raises:
        InputError: the checkpoint is of another kind of module.
    """
    bases = []
    saved_groups = checkpoint["optimizer_states"][0]["param_groups"]
    if len(saved_groups) != len(optimizer.param_groups):
        raise InputError(
            f"the checkpoint's optimizer has {len(saved_groups)} parameter groups and this run's "
            f"has {len(optimizer.param_groups)}: resume with the module that it was made with, "
            "of one network or of twins."
        )
    for fresh, saved in zip(optimizer.param_groups, saved_groups, strict=True):
        base = saved.get("initial_lr", saved["lr"])
        rate = saved["lr"] * (fresh["lr"] / base) if base else fresh["lr"]
        saved.update({key: value for key, value in fresh.items() if key != "params"})
        saved["lr"] = rate
        if "initial_lr" in saved:
            saved["initial_lr"] = fresh["lr"]
        bases.append(fresh["lr"])
    for state in checkpoint.get("lr_schedulers", []):
        if "base_lrs" in state:
            state["base_lrs"] = bases
