"""Inner products of each domain's gradient with a target gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tandem_pl.episode import MixtureBatch
from tandem_pl.modes import evaluating
from tandem_pl.simplex import Array
from tandem_pl.training.gradients import Gradient, domain_gradients, dot, mean_gradient, norm

from .gathering import from_first_rank

if TYPE_CHECKING:
    from tandem_pl.training.mixture_module import MixtureModule

TARGET_SALT = 1  # of the target's forward; it matters if something is random in eval mode


class Alignment(NamedTuple):
    """What `align` measures, over all ranks' samples.

    `products` [M] are <g_m, g_target>, `norms` [M] are ||g_m||, `counts` [M] the samples; a domain
    without a sample has zeros. `losses` [B] are this rank's; `target_norm` is ||g_target||.
    """

    products: Array
    norms: Array
    counts: Array
    losses: Tensor
    target_norm: float = 0.0


def align(
    module: MixtureModule,
    batch: MixtureBatch,
    size: int,
    max_norm: float | None = None,
    own: str | None = None,
) -> Alignment:
    """Return inner products of the domains' mean gradients with the target's, in eval mode.

    It needs the memory of two sets of gradients for any number of domains, and the time of a
    forward and a backward over the batch and over the target samples (with `own`, twice over the
    batch).

    Args:
        module: of the network; all ranks must call this together.
        batch: with target samples, unless `own` is given.
        size: number of domains, M.
        max_norm: longer gradients are first scaled down to this norm; None for no clipping.
        own: None for the target samples' mean gradient as target; "sum" for the sum of the
            training domains' gradients; "others" for that sum without the domain itself.
    """
    products, norms, counts = np.zeros((3, size))
    losses = torch.zeros(0)
    domains = module, batch.domains, batch.samples, size, batch.step
    with evaluating(module.network):
        if own is None:
            assert batch.target_domains is not None
            target, _ = mean_gradient(
                module, batch.target_samples, len(batch.target_domains), batch.step, TARGET_SALT
            )
            clip(target, max_norm)
        else:
            target = []
            for _, gradient, *_ in domain_gradients(*domains):
                clip(gradient, max_norm)
                if target:
                    torch._foreach_add_(target, gradient)
                else:
                    target = gradient
        for domain, gradient, mine, count in domain_gradients(*domains):
            norms[domain] = clip(gradient, max_norm)
            products[domain] = dot(gradient, target)
            counts[domain] = count
            if len(mine):
                losses = losses if len(losses) else mine.new_zeros(len(batch.domains))
                losses[batch.domains == domain] = mine
    if own == "others":
        products -= norms**2
    length = np.full(size, norm(target))
    numbers = from_first_rank(module.trainer, np.stack([products, norms, counts, length]))
    return Alignment(numbers[0], numbers[1], numbers[2], losses, float(numbers[3, 0]))


def clip(gradient: Gradient, max_norm: float | None) -> float:
    """Scale a gradient down to a norm of at most `max_norm`, in place; return its norm then."""
    length = norm(gradient)
    if max_norm is None or not length > max_norm:
        return length
    torch._foreach_mul_(gradient, max_norm / length)
    return max_norm
