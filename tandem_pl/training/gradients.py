"""Gradients of groups of samples, for methods that compare them; no optimizer sees them.

They are gradients of losses over all ranks' samples, in float32 or higher precision, with respect
to the parameters that train. For a sharded network (FSDP2) they are shards; products and norms are
of the whole.

The domains' gradients are computed one after the other, so that M domains need the memory of two
sets of gradients (the present one and the one it is multiplied with), not M.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tandem_pl.objectives.samples import at_least_float32

from .collectives import sum_over_ranks, sum_over_shards
from .micro_batches import map_rows, split_batch
from .optimizer_settings import trainable
from .sharding import is_sharded, local_shards

if TYPE_CHECKING:
    from .mixture_module import MixtureModule

Gradient = list[Tensor]


def summed_gradient(
    module: MixtureModule, samples: Any, size: int, step: int, *salt: int, rows: int | None = None
) -> tuple[Gradient, Tensor]:
    """Return the gradient of the sum of this rank's losses, and the losses [size].

    For a sharded network it is the sum over all ranks, and all ranks must call this with equally
    many rows, because each forward gathers the parameters.

    Args:
        module: has the network, the objective and the size of micro-batches.
        samples: collated; every tensor has `rows` rows, which may be 0.
        size: number of samples that count: the first ones.
        step: of the batch; with `salt` it decides dropout.
        salt: more numbers that decide dropout.
        rows: number of rows, if it is larger than `size`.
    """
    rows = size if rows is None else rows
    parameters = trainable(module.network)
    total = [torch.zeros_like(at_least_float32(p.detach())) for p in parameters]
    collected, left = [], size
    for index, (part, count) in enumerate(
        split_batch(samples, rows, module.micro_batch_size) if rows else []
    ):
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
    """Return 1, or the factor that keeps gradients of 16-bit mixed precision from underflow."""
    scaler = getattr(module.trainer.precision_plugin, "scaler", None)
    return float(scaler.get_scale()) / max(count, 1) if scaler is not None else 1.0


def _gradients(
    module: MixtureModule, loss: Tensor, parameters: list[nn.Parameter]
) -> Sequence[Tensor | None]:
    """Return the gradient of this rank's loss; if sharded, of the sum of all ranks' losses."""
    if not is_sharded(module.network):
        return torch.autograd.grad(loss, parameters, allow_unused=True)
    before = [p.grad for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    loss.backward()  # only this runs the hooks that reduce, to the mean over ranks
    mean = [p.grad for p in parameters]
    for parameter, gradient in zip(parameters, before, strict=True):
        parameter.grad = gradient
    return [None if g is None else g * module.trainer.world_size for g in mean]


def mean_gradient(
    module: MixtureModule, samples: Any, size: int, step: int, *salt: int
) -> tuple[Gradient, Tensor]:
    """Return the gradient of the mean loss over all ranks' samples, and this rank's losses."""
    gradient, losses = summed_gradient(module, samples, size, step, *salt)
    count = torch.tensor(float(size), device=module.device)
    if module.trainer.world_size > 1:
        sum_over_ranks([*gradient, count])
    torch._foreach_div_(gradient, count.clamp(min=1).item())
    return gradient, losses


def domain_gradients(
    module: MixtureModule, domains: Tensor, samples: Any, size: int, step: int, *salt: int
) -> Iterator[tuple[int, Gradient, Tensor, float]]:
    """Yield for each domain: its number, mean gradient, this rank's losses, samples of all ranks.

    A domain without a sample on any rank has a gradient of zeros and 0 samples. Every rank must
    consume the whole iterator.

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
        if is_sharded(module.network):  # all ranks must run equally many rows
            most = module.trainer.strategy.reduce(
                torch.tensor(number, device=module.device), reduce_op="max"
            )
            rows = torch.cat([rows, rows.new_zeros(int(most) - number)])
        mine = map_rows(partial(torch.index_select, dim=0, index=rows), samples)
        gradient, losses = summed_gradient(
            module, mine, number, step, *salt, domain, rows=len(rows)
        )
        count = torch.tensor(float(number), device=module.device)
        if module.trainer.world_size > 1:
            sum_over_ranks([*gradient, count])
        torch._foreach_div_(gradient, count.clamp(min=1).item())
        yield domain, gradient, losses, float(count)


def dot(first: Gradient, second: Gradient) -> float:
    """Return the inner product, summed in float64; over the ranks too if gradients are sharded.

    >>> dot([torch.tensor([1.0, 2.0]), torch.tensor([3.0])], [torch.ones(2), torch.ones(1)])
    6.0
    """
    pairs = zip(local_shards(first), local_shards(second), strict=True)
    parts = [(a.double() * b.double()).sum() for a, b in pairs]
    return float(sum_over_shards(torch.stack(parts).sum(), first))


def norm(gradient: Gradient) -> float:
    """Return the Euclidean norm."""
    return dot(gradient, gradient) ** 0.5
