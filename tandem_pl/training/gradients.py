"""Gradients of groups of samples, for methods that compare them; no optimizer sees them.

All are of sums of losses over the ranks' samples, in float32 at least, of the parameters that
train. Of a sharded network (FSDP2) they are shards, and their products and norms are of the whole.

One gradient costs the memory of one set of gradients, and a domain's is made anew for every
domain, so that M domains need two sets (the running one and what it is multiplied with), not M.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from tandem_pl.objectives.losses import at_least_float32

from .optimizer_settings import trainable
from .sharding import is_sharded, local_shards, sum_over_shards

if TYPE_CHECKING:
    from .mixture_module import MixtureModule

Gradient = list[Tensor]


def summed_gradient(
    module: MixtureModule, samples: Any, size: int, step: int, *salt: int, rows: int | None = None
) -> tuple[Gradient, Tensor]:
    """Gradient of the sum of this rank's losses, and the losses [size].

    Of a sharded network it is the sum over all ranks, and all ranks must call this with as many
    rows, since each forward gathers the parameters.

    Args:
        module: gives the network, the objective and the micro-batches.
        samples: collated; every tensor has `rows` rows, which may be 0.
        size: number of samples that count, the first ones.
        step: of the batch; with `salt` it decides dropout.
        salt: more numbers that decide dropout.
        rows: where there are more than `size`.
    """
    rows = size if rows is None else rows
    parameters = trainable(module.network)
    total = [torch.zeros_like(at_least_float32(p.detach())) for p in parameters]
    collected, left = [], size
    for index, (part, count) in enumerate(module.micro_batches(samples, rows) if rows else []):
        losses = module.losses(module.network, part, count, step, *salt, index)[: max(left, 0)]
        scale = _scale(module, count)
        gradients = _gradients(module, scale * losses.sum(), parameters)
        pairs = [(t, g) for t, g in zip(total, gradients, strict=True) if g is not None]
        more = [g.to(t.dtype) for t, g in pairs]
        torch._foreach_add_([t for t, _ in pairs], more, alpha=1 / scale)
        collected.append(losses.detach())
        left -= count
    return total, torch.cat(collected) if collected else torch.zeros(0, device=module.device)


def _scale(module: MixtureModule, count: int) -> float:
    """1, or what 16-bit mixed precision multiplies losses with, lest gradients underflow."""
    scaler = getattr(module.trainer.precision_plugin, "scaler", None)
    return float(scaler.get_scale()) / max(count, 1) if scaler is not None else 1.0


def _gradients(
    module: MixtureModule, loss: Tensor, parameters: list[nn.Parameter]
) -> Sequence[Tensor | None]:
    """Gradient of this rank's loss; of a sharded network, of the sum of all ranks' losses."""
    if not is_sharded(module.network):
        return torch.autograd.grad(loss, parameters, allow_unused=True)
    before = [p.grad for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    loss.backward()  # only this makes the hooks run that reduce, to the mean over ranks
    found = [p.grad for p in parameters]
    for parameter, gradient in zip(parameters, before, strict=True):
        parameter.grad = gradient
    return [None if g is None else g * module.trainer.world_size for g in found]


def mean_gradient(
    module: MixtureModule, samples: Any, size: int, step: int, *salt: int
) -> tuple[Gradient, Tensor]:
    """Gradient of the mean loss over all ranks' samples, and this rank's losses."""
    gradient, losses = summed_gradient(module, samples, size, step, *salt)
    count = torch.tensor(float(size), device=module.device)
    _all_reduce(module, [*gradient, count])
    torch._foreach_div_(gradient, count.clamp(min=1).item())
    return gradient, losses


def domain_gradients(
    module: MixtureModule, domains: Tensor, samples: Any, size: int, step: int, *salt: int
) -> Iterator[tuple[int, Gradient, Tensor, float]]:
    """One domain after the other: its number, mean gradient, this rank's losses, samples in all.

    A domain without a sample on any rank has a gradient of zeros and 0 samples. Every rank must
    go through all of them.

    Args:
        module: as in `summed_gradient`, like `step` and `salt`.
        domains: [B] domain of each sample.
        samples: collated; every tensor has B rows.
        size: number of domains, M.
        step: of the batch.
        salt: more numbers that decide dropout.
    """
    for domain in range(size):
        rows = (domains == domain).nonzero().flatten()
        number = len(rows)
        if is_sharded(module.network):  # all ranks run as many rows
            most = module.trainer.strategy.reduce(
                torch.tensor(number, device=module.device), reduce_op="max"
            )
            rows = torch.cat([rows, rows.new_zeros(int(most) - number)])
        mine = tree_map_only(Tensor, partial(torch.index_select, dim=0, index=rows), samples)
        gradient, losses = summed_gradient(
            module, mine, number, step, *salt, domain, rows=len(rows)
        )
        count = torch.tensor(float(number), device=module.device)
        _all_reduce(module, [*gradient, count])
        torch._foreach_div_(gradient, count.clamp(min=1).item())
        yield domain, gradient, losses, float(count)


def dot(first: Gradient, second: Gradient) -> float:
    """Inner product, summed in float64; over the ranks too where gradients are sharded.

    >>> dot([torch.tensor([1.0, 2.0]), torch.tensor([3.0])], [torch.ones(2), torch.ones(1)])
    6.0
    """
    pairs = zip(local_shards(first), local_shards(second), strict=True)
    parts = [(a.double() * b.double()).sum() for a, b in pairs]
    return float(sum_over_shards(torch.stack(parts).sum(), first))


def norm(gradient: Gradient) -> float:
    """Euclidean norm."""
    return dot(gradient, gradient) ** 0.5


def _all_reduce(module: MixtureModule, tensors: Sequence[Tensor]) -> None:
    """Sums over ranks, in place; one collective for all tensors of a type. Shards are sums."""
    if module.trainer.world_size == 1:
        return
    tensors = [tensor for tensor in tensors if not hasattr(tensor, "to_local")]
    for dtype in sorted({tensor.dtype for tensor in tensors}, key=str):
        alike = [tensor for tensor in tensors if tensor.dtype == dtype]
        flat = torch.cat([tensor.flatten() for tensor in alike])
        torch.distributed.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in alike])
        torch._foreach_copy_(alike, [p.view_as(t) for p, t in zip(parts, alike, strict=True)])
