"""Updates that are left out, since a loss was not finite: how, and how many."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer


def skips_on_device(optimizer: Optimizer) -> bool:
    """Whether the optimizer's kernels can leave an update out themselves: the fused ones do.

    The host then need not wait for the losses before it goes on to the next batch. Not SGD, which
    makes its momentum in the first step and leaves it unset where that one is left out.

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
    """A step of Lightning's `optimizer` that counts, and changes nothing where a loss was bad.

    Args:
        bad: scalar on the device, the same on every rank: whether a loss is not finite.
        optimizer: as `LightningModule.optimizers()` gives it.
        scaler: of 16-bit mixed precision, or None.

    Returns:
        whether the update was left out: on the device where nothing had to wait for it.
    """
    raw: Any = optimizer.optimizer
    if scaler is None and skips_on_device(raw):
        raw.found_inf = bad.float()  # what a gradient scaler sets, and the kernels heed
        try:
            optimizer.step()
        finally:
            del raw.found_inf
        return bad
    skipped = bool(bad)
    if skipped and scaler is None:
        optimizer.zero_grad()  # no gradient, no change
    elif skipped:
        for group in raw.param_groups:  # the scaler skips for what it finds in the gradients
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.fill_(torch.inf)
    optimizer.step()
    return skipped


class SkippedUpdates:
    """Skipped updates so far, and in a row up to now; kept on the device until they are read."""

    def __init__(self) -> None:
        self._total: Tensor | int = 0
        self._in_a_row: Tensor | int = 0

    def note(self, bad: Tensor | bool) -> None:
        """One more update, skipped or not."""
        one = bad.long() if isinstance(bad, Tensor) else int(bad)
        self._total = self._total + one
        self._in_a_row = (self._in_a_row + 1) * one

    def read(self) -> tuple[int, int]:
        """In all, and in a row; waits for the device."""
        return int(self._total), int(self._in_a_row)

    def restore(self, total: int, in_a_row: int) -> None:
        """The inverse of `read`."""
        self._total, self._in_a_row = total, in_a_row

    @property
    def at_hand(self) -> bool:
        """Whether reading need not wait."""
        return not (isinstance(self._in_a_row, Tensor) and self._in_a_row.is_cuda)
