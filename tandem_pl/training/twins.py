"""Make a network's twin, and copy parameters and optimizer state to it, in place."""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .collectives import sum_over_shards
from .optimizer_settings import trainable
from .sharding import local_shards


def make_twin(network: nn.Module) -> nn.Module:
    """Return a deep copy that shares the frozen parameters (those with `requires_grad` False).

    Buffers are copied. The twin of adapters on a frozen backbone costs one more set of adapters.

    >>> network = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 1))
    >>> twin = make_twin(network)
    >>> twin[0].weight is network[0].weight, twin[1].weight is network[1].weight
    (True, False)
    """
    shared = {id(p): p for p in network.parameters() if not p.requires_grad}
    return copy.deepcopy(network, shared)  # deepcopy does not copy what is in its memo


def separate_parameters(first: nn.Module, second: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Return pairs of the twins' parameters, without those that both share."""
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return [(mine, theirs) for mine, theirs in pairs if mine is not theirs]


@torch.no_grad()
def copy_tensors(sources: Iterable[Tensor], destinations: Iterable[Tensor]) -> None:
    """Copy sources to destinations, one fused call a device and dtype, shard by shard."""
    groups: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
    for source, destination in zip(local_shards(sources), local_shards(destinations), strict=True):
        pair = groups.setdefault((source.device, source.dtype), ([], []))
        pair[0].append(source)
        pair[1].append(destination)
    for source_list, destination_list in groups.values():
        torch._foreach_copy_(destination_list, source_list)


def copy_network(source: nn.Module, destination: nn.Module) -> None:
    """Copy parameters and buffers, BatchNorm's running statistics among them."""
    pairs = separate_parameters(source, destination)
    copy_tensors((mine for mine, _ in pairs), (theirs for _, theirs in pairs))
    copy_buffers(source, destination)


def copy_buffers(source: nn.Module, destination: nn.Module) -> None:
    """Copy buffers only."""
    copy_tensors(source.buffers(), destination.buffers())


def copy_optimizer_state(
    optimizer: Optimizer, sources: Sequence[Tensor], destinations: Sequence[Tensor]
) -> None:
    """Copy each source parameter's moments and step count to its destination parameter.

    Works for any optimizer that keeps its state per parameter in tensors and plain values.
    """
    old, new = [], []
    for source, destination in zip(sources, destinations, strict=True):
        state = optimizer.state.get(source)
        if not state:
            optimizer.state.pop(destination, None)
            continue
        mine = optimizer.state[destination]
        for key in mine.keys() - state.keys():
            del mine[key]
        for key, value in state.items():
            if not isinstance(value, Tensor):
                mine[key] = value
            elif not isinstance(mine.get(key), Tensor) or mine[key].shape != value.shape:
                mine[key] = value.clone()
            else:
                old.append(value)
                new.append(mine[key])
    copy_tensors(old, new)


@torch.no_grad()
def distance(first: nn.Module, second: nn.Module) -> Tensor:
    """Return ||w - u|| / ||u|| over the parameters that train, a scalar on the device.

    If the twins are sharded, all ranks must call this together.
    """
    mine, theirs = trainable(first), trainable(second)
    shards = list(zip(local_shards(mine), local_shards(theirs), strict=True))
    gap = torch.stack([(b - a).float().norm() for a, b in shards]).norm()
    size = torch.stack([a.float().norm() for a, _ in shards]).norm()
    squares = sum_over_shards(torch.stack([gap, size]).square(), mine)
    gap, size = squares.sqrt()
    return gap / size.clamp(min=1e-30)
