"""Checkpoints without frozen parameters: of adapters on a large backbone, only the adapters."""

import hashlib
from typing import Any

import torch
from torch import nn

from .errors import InputError

KEY = "frozen"


def frozen_names(module: nn.Module) -> list[str]:
    """Names of the parameters that do not train, in the order of the module."""
    named = module.named_parameters(remove_duplicate=False)
    return [name for name, parameter in named if not parameter.requires_grad]


def fingerprint(module: nn.Module) -> str:
    """A digest of the frozen parameters' names, shapes and first 64 values each.

    >>> layer = nn.Linear(2, 2).requires_grad_(False)
    >>> before = fingerprint(layer)
    >>> before == fingerprint(layer), before == fingerprint(nn.Linear(2, 2).requires_grad_(False))
    (True, False)
    """
    digest = hashlib.blake2b(digest_size=16)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for name in frozen_names(module):
        values = parameters[name].detach()
        digest.update(f"{name}{tuple(values.shape)}".encode())
        digest.update(values.flatten()[:64].cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def drop_frozen(module: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Takes the frozen parameters out of a checkpoint, and notes which they were."""
    names = frozen_names(module)
    if names:
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {key: state[key] for key in state if key not in set(names)}
        checkpoint[KEY] = fingerprint(module)


def restore_frozen(module: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Puts the module's own frozen parameters where the checkpoint left them out.

    Raises:
        InputError: they are others than those that the checkpoint was made with.
    """
    if KEY not in checkpoint:
        return
    if checkpoint[KEY] != fingerprint(module):
        raise InputError(
            "the checkpoint leaves out the frozen parameters (checkpoint_frozen=false) and those "
            "of this network are others: use the pretrained folder and settings that it was made "
            "with."
        )
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for name in frozen_names(module):
        checkpoint["state_dict"].setdefault(name, parameters[name].detach())
