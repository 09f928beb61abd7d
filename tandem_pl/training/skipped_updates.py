"""Optimizer steps that are skipped because a loss is not finite, and their count."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer


def skips_on_device(optimizer: Optimizer) -> bool:
    """Return whether the optimizer's kernels can skip an update themselves, as fused ones do.

    The host then does not wait for the losses before the next batch. Not SGD, which creates its
    momentum in the first step and leaves it unset if that step is skipped.

    >>> parameters = [torch.nn.Parameter(torch.zeros(2))]
    >>> [skips_on_device(torch.optim.AdamW(parameters, fused=fused)) for fused in (True, False)]
    [True, False]
    """
    return (
        bool(optimizer.defaults.get("fused"))
        and getattr(optimizer, "_step_supports_amp_scaling", False)
        and not isinstance(optimizer, torch.optim.SGD)
        and not isinstance(optimizer.param_groups[0]["params"][0], DTensor)
    )


def step_unless(bad: Tensor, optimizer: Any, scaler: Any | None) -> Tensor | bool:
    """Step Lightning's `optimizer`, but leave parameters unchanged if `bad`; the step is counted.

    Args:
        bad: scalar on the device, the same on every rank: whether a loss is not finite.
        optimizer: as `LightningModule.optimizers()` returns it.
        scaler: of 16-bit mixed precision, or None.

    Returns:
        Whether the update was skipped: a tensor on the device if the host did not wait for it.
    """
    raw: Any = optimizer.optimizer
    if scaler is None and skips_on_device(raw):
        raw.found_inf = bad.float()  # what a gradient scaler sets, and the kernels read
        try:
            optimizer.step()
        finally:
            del raw.found_inf
        return bad
    skipped = bool(bad)
    if skipped and scaler is None:
        optimizer.zero_grad()  # no gradient, no change
    elif skipped:
        for group in raw.param_groups:  # the scaler skips a step with such gradients
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.fill_(torch.inf)
    optimizer.step()
    return skipped


class SkippedUpdates:
    """Count skipped updates, in all and in a row; the counts stay on the device until read."""

    def __init__(self) -> None:
        self._total: Tensor | int = 0
        self._in_a_row: Tensor | int = 0

    def count(self, bad: Tensor | bool) -> None:
        """Count one more update, which was skipped if `bad`."""
        one = bad.long() if isinstance(bad, Tensor) else int(bad)
        self._total = self._total + one
        self._in_a_row = (self._in_a_row + 1) * one

    def read(self) -> tuple[int, int]:
        """Return the counts in all and in a row; syncs with the device."""
        return int(self._total), int(self._in_a_row)

    def restore(self, total: int, in_a_row: int) -> None:
        """Set the counts to what `read` returned."""
        self._total, self._in_a_row = total, in_a_row

    @property
    def on_device(self) -> bool:
        """Whether reading the counts syncs with a device."""
        return isinstance(self._in_a_row, Tensor) and self._in_a_row.is_cuda
