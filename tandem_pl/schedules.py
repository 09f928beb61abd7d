"""A learning-rate schedule whose clock is the batch."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from .errors import InputError


class WarmupCosine(LambdaLR):
    """Linear warm-up from 0, then a cosine to `final` times the base rate, then constant.

    Args:
        optimizer: the optimizer to schedule.
        total_steps: optimizer steps (proxy batches) until the end of the cosine.
        warmup_steps: steps of warm-up, counted in `total_steps`.
        final: last rate over base rate.

    Raises:
        InputError: `total_steps` is below 1, as `trainer.max_steps` is if only `max_epochs` is set.
    """

    def __init__(
        self, optimizer: Optimizer, total_steps: int, warmup_steps: int = 0, final: float = 0.0
    ) -> None:
        if total_steps < 1:
            raise InputError(
                f"total_steps={total_steps} of WarmupCosine must be at least 1: set max_steps of "
                "the trainer, which it follows in the shipped configurations, or total_steps."
            )

        def factor(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / warmup_steps
            done = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
            return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done))

        super().__init__(optimizer, factor)
