"""Checkpoints without frozen parameters: only the adapters of a large backbone."""

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from tandem_pl.errors import InputError

KEY, DTYPE = "frozen", "frozen_dtype"


def frozen_names(module: nn.Module) -> list[str]:
    """Return names of the parameters that do not train, in the order of the module."""
    named = module.named_parameters(remove_duplicate=False)
    return [name for name, parameter in named if not parameter.requires_grad]


def frozen_dtype(module: nn.Module) -> torch.dtype | None:
    """Return the floating-point dtype of the frozen parameters; None for several, or none."""
    frozen = (p for p in module.parameters() if not p.requires_grad)
    kinds = {p.dtype for p in frozen if p.is_floating_point()}
    return kinds.pop() if len(kinds) == 1 else None


def fingerprint(module: nn.Module, dtype: torch.dtype | None = None) -> str:
    """Return a digest of the frozen parameters' names, shapes and first 64 values each.

    With `dtype`, of the values converted to it.

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
        first = converted(values.flatten()[:64], dtype)
        digest.update(first.cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def converted(values: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Convert floating-point values to `dtype`; return other values unchanged."""
    return values.to(dtype) if dtype is not None and values.is_floating_point() else values


def drop_frozen(module: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Remove the frozen parameters from a checkpoint, and add a digest of them."""
    names = frozen_names(module)
    if names:
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {key: state[key] for key in state if key not in set(names)}
        checkpoint[KEY] = fingerprint(module)
        dtype = frozen_dtype(module)
        checkpoint[DTYPE] = None if dtype is None else str(dtype).removeprefix("torch.")


def restore_frozen(module: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Add the module's own frozen parameters to a checkpoint that left them out.

    They get the dtype that they had in the run, because a checkpoint is read before a `precision`
    such as bf16-true converts the module.

    Raises:
        InputError: they differ from those of the run that made the checkpoint.
    """
    if KEY not in checkpoint:
        return
    name_of_dtype = checkpoint.get(DTYPE)
    dtype = None if name_of_dtype is None else getattr(torch, name_of_dtype)
    if checkpoint[KEY] != fingerprint(module, dtype):
        raise InputError(
            "the checkpoint leaves out the frozen parameters (checkpoint_frozen=false), and this "
            "network's differ from them: use the pretrained folder and settings of the run that "
            "made it."
        )
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for name in frozen_names(module):
        values = converted(parameters[name].detach(), dtype)
        checkpoint["state_dict"].setdefault(name, values)
