"""What one step of the optimizer would do, without taking it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tandem_pl.episode import MixtureBatch
from tandem_pl.modes import evaluating
from tandem_pl.training.gradients import Gradient, domain_gradients
from tandem_pl.training.micro_batches import map_rows, split_batch
from tandem_pl.training.optimizer_settings import trainable

from .alignment import clip

if TYPE_CHECKING:
    from tandem_pl.training.mixture_module import MixtureModule


@contextmanager
def virtual_step(module: MixtureModule, gradient: Gradient) -> Iterator[None]:
    """Take the optimizer's step on a gradient, and undo it on exit, to the bit.

    The step has the present learning rate, moments and clipping. `global_step` does not count it.
    It needs the memory of one more copy of the parameters that train, and of the optimizer's state.
    """
    optimizer, parameters = module.trainer.optimizers[0], trainable(module.network)
    saved = [p.detach().clone() for p in parameters]
    state = copy.deepcopy(optimizer.state_dict())
    clip(gradient, module.gradient_clip_val)
    optimizer.zero_grad()
    for parameter, part in zip(parameters, gradient, strict=True):
        parameter.grad = part.to(parameter.dtype)
    try:
        optimizer.step()
        yield
    finally:
        optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_copy_(list[Tensor](parameters), saved)
        optimizer.load_state_dict(state)


def look_ahead_losses(
    module: MixtureModule, batch: MixtureBatch, size: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield for each domain in a batch: its number, losses before and after a step on it.

    The losses are of this rank's samples of the domain, in eval mode; the step is on the mean loss
    of all ranks' samples of it. All ranks must consume the whole iterator.

    Args:
        module: of the network and optimizer; not sharded.
        batch: of any phase.
        size: number of domains, M.
    """
    with evaluating(module.network):
        for domain, gradient, before, count in domain_gradients(
            module, batch.domains, batch.samples, size, batch.step
        ):
            if not count:
                continue
            rows = (batch.domains == domain).nonzero().flatten()
            mine = map_rows(partial(torch.index_select, dim=0, index=rows), batch.samples)
            parts = split_batch(mine, len(rows), module.micro_batch_size) if len(rows) else []
            with virtual_step(module, gradient), torch.no_grad():
                after = [
                    module.losses(module.network, part, number, batch.step, domain, index)
                    for index, (part, number) in enumerate(parts)
                ]
            yield domain, before, torch.cat(after) if after else before
