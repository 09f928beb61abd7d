"""Sharded training by FSDP2, through Lightning's `ModelParallelStrategy`.

Every rank holds 1/N of the parameters, gradients and optimizer state of both twins. The twins are
copied, and gradients added, shard by shard, without gathering.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
)
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _BatchNorm

from tandem_pl.errors import InputError

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch.distributed.device_mesh import DeviceMesh

USE = (
    "use strategy=ddp, or shard with ModelParallelStrategy(data_parallel_size=DEVICES, "
    "tensor_parallel_size=1), as configs/strategy_fsdp2.yaml does."
)


def check_strategy_name(strategy: Any) -> None:
    """Raise an error, before a trainer is made, for the name of a strategy that cannot train twins.

    Raises:
        InputError: FSDP1 or DeepSpeed.

    >>> check_strategy_name("ddp")
    >>> check_strategy_name("fsdp_cpu_offload")
    Traceback (most recent call last):
    tandem_pl.errors.InputError: strategy='fsdp_cpu_offload' cannot train by manual ...
    """
    strategy = getattr(strategy, "class_path", strategy)  # of a parsed configuration
    name = strategy if isinstance(strategy, str) else type(strategy).__name__
    if name.rsplit(".", 1)[-1].lower().startswith(("fsdp", "deepspeed")):
        raise InputError(
            f"strategy={name!r} cannot train by manual optimization, as networks do here: {USE}"
        )


def check_strategy(trainer: Trainer) -> None:
    """Raise an error for strategies that would fail later or train wrongly; warn of a slow one.

    Raises:
        InputError: FSDP1, DeepSpeed, a `ModelParallelStrategy` that leaves devices without a shard
            of their own, or DDP with a static graph.
    """
    strategy = trainer.strategy
    if isinstance(strategy, FSDPStrategy | DeepSpeedStrategy):
        check_strategy_name(strategy)
    if isinstance(strategy, ModelParallelStrategy):
        shards, copies = (strategy.device_mesh[f"{kind}_parallel"].size() for kind in MESH)
        if shards != trainer.world_size:
            raise InputError(
                f"ModelParallelStrategy has data_parallel_size={shards} and tensor_parallel_size="
                f"{copies} ('auto' puts all devices of a node into the latter), but networks are "
                f"sharded over data: set data_parallel_size={trainer.world_size} and "
                "tensor_parallel_size=1."
            )
    if isinstance(strategy, DDPStrategy):
        options = strategy._ddp_kwargs
        if options.get("static_graph"):
            raise InputError(
                "static_graph=True does not allow batches of several kinds, which an episode has: "
                "use plain strategy=ddp."
            )
        if options.get("find_unused_parameters"):
            rank_zero_warn(
                "find_unused_parameters=True costs a walk over the graph in every batch and is not "
                "needed for the twins: use plain strategy=ddp."
            )


MESH = ("data", "tensor")


def data_mesh(trainer: Trainer) -> DeviceMesh | None:
    """Return the devices that networks are sharded over; None if the strategy shards nothing."""
    strategy = trainer.strategy
    if not isinstance(strategy, ModelParallelStrategy):
        return None
    return strategy.device_mesh["data_parallel"]


def blocks(network: nn.Module) -> list[nn.Module]:
    """Return the layers of the network's largest `nn.ModuleList`, by number of parameters.

    Empty for a network without such a list, or with a layer that shares parameters with others.

    >>> network = nn.Module()
    >>> network.embedding = nn.Embedding(10, 4)
    >>> network.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    >>> blocks(network) == list(network.layers)
    True
    """
    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    largest = max(lists, key=_size, default=nn.ModuleList())
    layers = list(largest)
    inside = {id(module): n for n, layer in enumerate(layers) for module in layer.modules()}
    owners: dict[int, set[int]] = {}
    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(inside.get(id(module), -1))
    shared = any(len(places) > 1 for places in owners.values())
    return [] if shared or len(set(layers)) < len(layers) else layers


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def shard(network: nn.Module, mesh: DeviceMesh | None) -> None:
    """Shard each of the network's `blocks`, then the rest, in place; do nothing without a mesh.

    Parameters are gathered for a forward and a backward, and are shards again after each, so that
    `network.parameters()` are otherwise the tensors that the optimizer holds.
    """
    if mesh is None or is_sharded(network):
        return
    for module in [*blocks(network), network]:
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    if any(isinstance(module, _BatchNorm) for module in network.modules()):
        rank_zero_warn(
            "sharded networks keep BatchNorm's running statistics by rank, and a checkpoint holds "
            "those of one rank: use strategy=ddp, or another normalization, for exact resumes."
        )


def is_sharded(network: nn.Module) -> bool:
    """Return whether its parameters are shards: all are, or none."""
    return isinstance(next(network.parameters(), None), DTensor)


@contextmanager
def reducing(module: nn.Module, now: bool) -> Iterator[None]:
    """Make backwards inside reduce the sharded gradients over ranks, or keep them unreduced."""
    parts = [m for m in module.modules() if isinstance(m, FSDPModule)]
    for part in parts:
        part.set_requires_gradient_sync(now, recurse=False)
    try:
        yield
    finally:
        for part in parts:
            part.set_requires_gradient_sync(True, recurse=False)


def loaded_states(module: LightningModule, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint whose optimizer state is what the module's optimizer has loaded.

    `keep_settings` needs it: a sharded run loads its optimizer before the module sees the
    checkpoint, other runs load it after. For these it is the checkpoint itself.
    """
    trainer = module._trainer
    if trainer is None or data_mesh(trainer) is None or not trainer.optimizers:
        return checkpoint
    groups = trainer.optimizers[0].param_groups
    return checkpoint | {"optimizer_states": [{"param_groups": groups}]}


@torch.no_grad()
def local_shards(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return this rank's part of each tensor, not copied; all of a tensor that is not sharded.

    >>> tensor = torch.ones(2)
    >>> local_shards([tensor])[0] is tensor
    True
    """
    return [t.to_local() if isinstance(t, DTensor) else t for t in tensors]
