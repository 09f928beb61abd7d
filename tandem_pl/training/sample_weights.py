"""Weights of single samples by their losses: Sow et al. 2025, arXiv 2502.06733.

They act within a batch, whatever draws the domains, and need no further pass over the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tandem_pl.errors import InputError

STRATEGIES: dict[str, Callable[[Tensor], Tensor]] = {
    "linupper": lambda h: (h + 1).clamp(max=1),
    "quadratic": lambda h: 1 - h.square(),
    "extremes": torch.abs,
}
LEAST_RANGE = 1e-6  # nats; closer losses count as equal


def sample_weights(losses: Tensor, strategy: str = "linupper", temperature: float = 1.0) -> Tensor:
    """Return weights [N] of a whole batch, with mean 1; no gradient goes through them.

    h_i = (2 l_i - l_max - l_min) / (l_max - l_min) is in [-1, 1], and the weight is proportional to
    exp(f(h_i) / temperature) with

    - "linupper": f = min(h + 1, 1), which lowers the weight of losses below the middle;
    - "quadratic": f = 1 - h^2, which lowers it at both ends;
    - "extremes": f = |h|, which lowers it in the middle.

    A loss that is not finite makes all weights 1; the module then skips the step.

    Args:
        losses: [N] of all ranks' samples.
        strategy: f.
        temperature: r, of the KL term that keeps weights near uniform; the paper has 1.0 and 0.4.

    >>> sample_weights(torch.tensor([0.0, 1.0, 2.0]), "extremes", 1.0).round(decimals=3).tolist()
    [1.267, 0.466, 1.267]
    """
    losses = losses.detach().double()
    low, high = losses.min(), losses.max()
    h = (2 * losses - high - low) / (high - low).clamp(min=LEAST_RANGE)
    weights = torch.softmax(STRATEGIES[strategy](h) / temperature, dim=0) * len(losses)
    return torch.where(losses.isfinite().all(), weights, torch.ones_like(weights))


def weighted_sum(losses: Tensor, weights: Tensor | None) -> Tensor:
    """Return sum_i w_i l_i, or the plain sum without weights.

    >>> weighted_sum(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 1.5]))
    tensor(3.5000)
    """
    return (losses if weights is None else losses * weights).sum()


class LossBasedWeights:
    """Apply `sample_weights` with these settings in a module's training steps.

    Args:
        strategy: "linupper" (the authors' best), "quadratic" or "extremes".
        temperature: r; large is uniform.
        burn_in: batches of any phase with equal weights first; theirs is 1000.

    Raises:
        InputError: for settings out of range.

    >>> LossBasedWeights("linupper", burn_in=10)(torch.tensor([1.0, 2.0]), step=3).tolist()
    [1.0, 1.0]
    """

    def __init__(
        self, strategy: str = "linupper", temperature: float = 1.0, burn_in: int = 1000
    ) -> None:
        if strategy not in STRATEGIES:
            raise InputError(f"strategy={strategy!r} must be one of {sorted(STRATEGIES)}.")
        if not (math.isfinite(temperature) and temperature > 0):
            raise InputError(f"temperature={temperature} must be a positive number.")
        if not (math.isfinite(burn_in) and burn_in >= 0):
            raise InputError(f"burn_in={burn_in} must be 0 or more.")
        self.strategy = strategy
        self.temperature = temperature
        self.burn_in = burn_in

    def __call__(
        self, losses: Tensor, step: int, gather: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Return weights [B] of this rank's samples, in the losses' dtype; mean 1 over all ranks.

        The loss of a rank is then sum_i w_i l_i / B, which DDP averages over the ranks.

        Args:
            losses: [B] of this rank.
            step: number of the batch.
            gather: losses [B] -> [ranks, B], such as `trainer.strategy.all_gather`; all ranks call
                it together. None for one rank.
        """
        if step < self.burn_in:
            return torch.ones_like(losses)
        all_losses = losses.detach() if gather is None else gather(losses.detach()).flatten()
        weights = sample_weights(all_losses, self.strategy, self.temperature)
        if gather is not None:
            rank = torch.distributed.get_rank()
            weights = weights[rank * len(losses) : (rank + 1) * len(losses)]
        return weights.to(losses)
