"""`torch.compile` for the networks of a module, in place, and what happens where it cannot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from tandem_pl.errors import InputError

Result = TypeVar("Result")


def compile_in_place(network: nn.Module, options: bool | Mapping[str, Any]) -> None:
    """Compiles calls of `network`; its parameters, names and class stay as they are.

    Nothing is compiled before the first call. Twins of one class share the compiled code.

    Args:
        network: whose `forward` is to be compiled.
        options: True, or arguments of `torch.compile`; `fallback` is not for `torch.compile`.

    Raises:
        InputError: torch knows no such argument, mode or backend.
    """
    arguments = dict(options) if isinstance(options, Mapping) else {}
    arguments.pop("fallback", None)
    try:
        network.compile(**arguments)
    except (TypeError, RuntimeError) as error:  # of a backend that there is not, too
        reason = str(error).splitlines()[0]
        raise InputError(f"compile={arguments} is not for torch.compile: {reason}") from None


def is_compiled(network: nn.Module) -> bool:
    """Whether calls of `network` are compiled."""
    return network._compiled_call_impl is not None


def with_fallback(
    networks: Sequence[nn.Module], options: bool | Mapping[str, Any], call: Callable[[], Result]
) -> Result:
    """The result of `call`, which runs one of `networks`; none is compiled where that fails.

    An error of the network itself is raised as it is.

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
        rank_zero_warn(f"{name} cannot be compiled here ({why}); it goes on without.")
        for network in networks:
            network._compiled_call_impl = None
        return call()
