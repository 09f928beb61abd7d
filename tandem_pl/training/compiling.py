"""`torch.compile` for the networks of a module, in place, with a fallback if it fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from tandem_pl.errors import InputError

Result = TypeVar("Result")


def compile_in_place(network: nn.Module, options: bool | Mapping[str, Any]) -> None:
    """Compile calls of `network`; its parameters, names and class do not change.

    Nothing is compiled before the first call. Twins of one class share the compiled code.

    Args:
        network: its `forward` is compiled.
        options: True, or arguments of `torch.compile`, and `fallback` (see `with_fallback`).

    Raises:
        InputError: torch does not know an argument, mode or backend.
    """
    arguments = dict(options) if isinstance(options, Mapping) else {}
    arguments.pop("fallback", None)
    try:
        network.compile(**arguments)
    except (TypeError, RuntimeError) as error:  # also for a backend that does not exist
        reason = str(error).splitlines()[0]
        raise InputError(f"compile={arguments} is not for torch.compile: {reason}") from None


def is_compiled(network: nn.Module) -> bool:
    """Return whether calls of `network` are compiled."""
    return network._compiled_call_impl is not None


def with_fallback(
    networks: Sequence[nn.Module], options: bool | Mapping[str, Any], call: Callable[[], Result]
) -> Result:
    """Return `call()`, which runs one of `networks`; if compiling fails, run all uncompiled.

    An error of the network itself is raised unchanged.

    Raises:
        InputError: compiling failed, and `options` has `fallback: false`.
    """
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException  # slow to import

    try:
        return call()
    except (TorchDynamoException, FailOnRecompileLimitHit) as error:
        why = " ".join(str(error).split("\n\n")[0].split())  # a page of hints follows
        name = type(networks[0]).__name__
        if isinstance(options, Mapping) and not options.get("fallback", True):
            raise InputError(
                f"compile={dict(options)}: {name} cannot be compiled here ({why}); set compile to "
                "false, or fallback to true."
            ) from error
        rank_zero_warn(f"{name} cannot be compiled here ({why}); training continues without.")
        for network in networks:
            network._compiled_call_impl = None
        return call()
