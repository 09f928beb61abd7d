"""Weights of single samples by their losses: Sow et al. 2025, arXiv 2502.06733.

They act within a batch, whatever draws the domains, and need no further pass over the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from tandem_pl.checks import check_choice
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

    The authors' code also weighs a sample by its share of the batch's tokens (`per="token"`), so
    that its loss is sum_i w_i n_i l_i / sum_i n_i for samples of n_i labelled tokens, and in the
    burn-in the mean over tokens. It takes the shares on each device by itself, here they are of all
    ranks' samples. If samples are equally long, as blocks of text are, both are the same.

    Args:
        strategy: "linupper" (the authors' best), "quadratic" or "extremes".
        temperature: r; large is uniform.
        burn_in: batches of any phase with equal weights first; theirs is 1000.
        per: "sample", or "token" for the share of tokens too. "token" needs an objective with
            `token_counts(samples) -> Tensor[B]`, as `CausalLanguageModeling` has.

    Raises:
        InputError: for settings out of range, and from `check`.

    >>> LossBasedWeights("linupper", burn_in=10)(torch.tensor([1.0, 2.0]), step=3).tolist()
    [1.0, 1.0]
    """

    def __init__(
        self,
        strategy: str = "linupper",
        temperature: float = 1.0,
        burn_in: int = 1000,
        per: Literal["sample", "token"] = "sample",
    ) -> None:
        if strategy not in STRATEGIES:
            raise InputError(f"strategy={strategy!r} must be one of {sorted(STRATEGIES)}.")
        if not (math.isfinite(temperature) and temperature > 0):
            raise InputError(f"temperature={temperature} must be a positive number.")
        if not (math.isfinite(burn_in) and burn_in >= 0):
            raise InputError(f"burn_in={burn_in} must be 0 or more.")
        check_choice("per", per, ("sample", "token"))
        self.strategy = strategy
        self.temperature = temperature
        self.burn_in = burn_in
        self.per = per

    def check(self, objective: Any) -> None:
        """Raise an error for an objective that does not count tokens, if they are to count."""
        if self.per == "token" and not callable(getattr(objective, "token_counts", None)):
            raise InputError(
                f"per='token' of sample_weights needs the objective's token_counts(samples), which "
                f"{type(objective).__name__} does not have: set per=sample."
            )

    def is_even(self, step: int) -> bool:
        """Return whether all samples of that batch weigh the same, whatever their losses are."""
        return step < self.burn_in and self.per == "sample"

    def __call__(
        self,
        losses: Tensor,
        step: int,
        gather: Callable[[Tensor], Tensor] | None = None,
        tokens: Tensor | None = None,
    ) -> Tensor:
        """Return weights [B] of this rank's samples, in the losses' dtype.

        The loss of a rank is then sum_i w_i l_i / B, which DDP averages over the ranks. The mean of
        the weights over all ranks is 1, or with `tokens` the mean weighted by tokens is.

        Args:
            losses: [B] of this rank.
            step: number of the batch.
            gather: losses [B] -> [ranks, B], such as `trainer.strategy.all_gather`; all ranks call
                it together. None for one rank.
            tokens: [B] labelled tokens of each sample, for per="token".
        """
        if self.is_even(step):
            return torch.ones_like(losses)

        def of_all_ranks(values: Tensor) -> Tensor:
            return values.detach() if gather is None else gather(values.detach()).flatten()

        all_losses = of_all_ranks(losses)
        weights = torch.ones_like(all_losses, dtype=torch.float64)
        if step >= self.burn_in:
            weights = sample_weights(all_losses, self.strategy, self.temperature)
        if self.per == "token":
            assert tokens is not None
            counts = of_all_ranks(tokens).to(weights)
            weights = weights * counts / counts.mean().clamp(min=1 / len(counts))
        if gather is not None:
            rank = torch.distributed.get_rank()
            weights = weights[rank * len(losses) : (rank + 1) * len(losses)]
        return weights.to(losses)
