"""Find a network's output head, and run the network up to it.

Between the last hidden states and the logits most causal language models have one linear layer and
perhaps a scaling. `output_head` finds both and checks them on a few tokens, once a network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tandem_pl.modes import evaluating

from .head_losses import OutputHead, Scaling
from .packed_forward import logits_of

LEAST_VOCABULARY = 4096  # with fewer tokens all logits are small beside the other activations

LARGE = 50.0  # logits by which `_fits` compares

_FOUND: WeakKeyDictionary[nn.Module, tuple[nn.Module, OutputHead | None]] = WeakKeyDictionary()
_WARNED: set[type] = set()
_HIDDEN: list[Tensor] = []  # what a head was called with, until its network returns
_LOSSES: list[Callable[[Tensor], Tensor]] = []  # of a sharded network's hidden states


def output_head(network: Any) -> OutputHead | None:
    """Return the network's head; None if logits are small, or not what the head gives.

    The answer depends on the network alone: ranks that share one network get the same.
    """
    find = getattr(network, "get_output_embeddings", None)
    module = find() if isinstance(network, nn.Module) and callable(find) else None
    if module is None or getattr(module, "out_features", 0) < LEAST_VOCABULARY:
        return None
    hooked = [module] if is_sharded(network) else [module, network]
    if any(m._forward_hooks for m in hooked) or module._forward_pre_hooks:
        return None  # somebody looks at the logits
    if is_sharded(network) and "forward" in vars(network):
        return None  # somebody replaced what would be replaced here
    known = _FOUND.get(network)
    if known is None or known[0] is not module:
        scalings = dict.fromkeys([_scaling(network), Scaling()])
        heads = (OutputHead(module, module.forward, scaling) for scaling in scalings)
        known = module, next((head for head in heads if _fits(network, head)), None)
        _FOUND[network] = known
    return known[1]


def losses_at_head(
    network: nn.Module,
    head: OutputHead,
    inputs: dict[str, Tensor],
    losses_of: Callable[[Tensor], Tensor],
) -> Tensor:
    """Return `losses_of(hidden)` for the last hidden states of `network(**inputs)`.

    A sharded network has its parameters in its forward only, and gathers them for the backward of
    what the forward returns: there the losses are computed inside, and returned.
    """
    try:
        if not is_sharded(network):
            with _replaced(head.module, _capture):
                network(**inputs)
            return losses_of(_HIDDEN.pop())
        _LOSSES.append(losses_of)
        whole = MethodType(_losses_of_network, network)
        with _replaced(head.module, _losses_inside), _replaced(network, whole):
            return network(**inputs)
    finally:
        _HIDDEN.clear()
        _LOSSES.clear()


def warn_of_logits(network: Any, logits: Tensor) -> None:
    """Warn, once a class, of a network whose large logits are all in memory at once."""
    if logits.shape[-1] >= LEAST_VOCABULARY and type(network) not in _WARNED:
        _WARNED.add(type(network))
        rank_zero_warn(
            f"{type(network).__name__}'s logits are all in memory at once, because its last step "
            "is not a linear output head, or hooks read its outputs: expect a larger peak."
        )


def is_sharded(network: nn.Module) -> bool:
    """Return whether its parameters are shards (FSDP2)."""
    return isinstance(next(network.parameters(), None), DTensor)


# One function of each kind for all networks, so that twins share compiled code.


def _capture(hidden: Tensor) -> Tensor:
    """Keep what the head is called with; return a small stand-in for its logits."""
    _HIDDEN.append(hidden)
    return hidden.detach()[..., :1]


@torch.compiler.disable
def _losses_inside(hidden: Tensor) -> Tensor:
    """Keep the losses of what the head is called with; return a small stand-in for its logits."""
    _HIDDEN.append(_LOSSES[0](hidden))
    return hidden.detach()[..., :1]


def _losses_of_network(network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
    """Run the network's own forward, and return what its head kept."""
    type(network).forward(network, *args, **kwargs)
    return _HIDDEN.pop()


@contextmanager
def _replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before


def _scaling(network: nn.Module) -> Scaling:
    """Return the scaling that the configuration names, as Cohere, Granite or Gemma do."""
    config: Any = getattr(network, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config

    def named(*names: str) -> list[float]:
        values = [getattr(config, name, None) for name in names]
        return [float(value) for value in values if isinstance(value, int | float) and value]

    divisor = math.prod(named("logits_scaling"))
    factor = math.prod(named("logit_scale", "lm_head_multiplier")) / divisor
    return Scaling(factor, *named("final_logit_softcapping", "logits_soft_cap")[:1])


@torch.no_grad()
def _fits(network: nn.Module, head: OutputHead) -> bool:
    """Return whether the head with its scaling gives the network's logits, each row by itself.

    Hidden states are made so large that logits reach LARGE: a scaling or cap that is missing shows.
    """
    module, forward, scaling = head
    if any(isinstance(part, nn.Dropout) and part.p > 0 for part in module.modules()):
        return False  # chunks would draw other masks
    expected: list[Tensor] = []
    precision = []

    def enlarged(hidden: Tensor) -> Tensor:
        hidden = hidden * (LARGE / forward(hidden).abs().max().clamp(min=1e-6)).to(hidden.dtype)
        rows = forward(hidden.flatten(0, -2).flip(0))
        precision.append(torch.finfo(rows.dtype).eps)
        expected.append(scaling(rows).flip(0).unflatten(0, hidden.shape[:-1]))
        return forward(hidden)

    device = next(network.parameters()).device
    tokens = torch.arange(8, device=device).view(2, 4)
    try:
        eager = torch.compiler.set_stance("force_eager")  # compile for the shapes of batches only
        with eager, evaluating(network), _replaced(module, enlarged):
            logits = logits_of(network(input_ids=tokens))
    except Exception:  # whatever a network raises for these tokens, its own path may still run
        return False
    if len(expected) != 1 or expected[0].shape != logits.shape:
        return False
    gap = (expected[0].double() - logits.double()).abs().max()
    return bool(gap <= LARGE * max(8 * precision[0], 1e-5))
