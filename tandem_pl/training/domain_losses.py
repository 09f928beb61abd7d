"""Means of per-sample values by domain, summed over ranks before dividing."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def mean_over_domains(values: NDArray, seen: NDArray, shares: NDArray | None = None) -> float:
    """Return the mean of values [M] over the domains that are `seen` [M].

    It is weighed by shares [M], or equally if there are none or all that were seen have 0.

    >>> values, seen = np.array([2.0, 4.0, np.nan]), np.array([True, True, False])
    >>> mean_over_domains(values, seen)
    3.0
    >>> mean_over_domains(values, seen, np.array([0.75, 0.25, 0.0]))
    2.5
    """
    if shares is None or not shares[seen].any():
        shares = np.ones(len(values))
    chosen = seen & (shares > 0)
    if np.ptp(shares[chosen]) == 0:
        return float(values[chosen].mean())
    return float(np.average(values[chosen], weights=shares[chosen]))


class DomainLosses:
    """Collect per-sample losses on their device, and average them by domain on demand.

    Adding keeps references to device tensors and needs neither a kernel nor a host sync; `reduce`
    does all the work, in float64 on the CPU.

    >>> losses = DomainLosses()
    >>> losses.add(torch.tensor([0, 1, 1]), torch.tensor([2.0, 3.0, 5.0]))
    >>> mean, count = losses.reduce(3)
    >>> mean.tolist(), count.tolist()
    ([2.0, 4.0, nan], [1.0, 2.0, 0.0])
    """

    def __init__(self) -> None:
        self._domains: list[Tensor] = []
        self._losses: list[Tensor] = []

    def add(self, domains: Tensor, losses: Tensor) -> None:
        """Add losses [B] of samples of the domains [B], int64."""
        self._domains.append(domains)
        self._losses.append(losses.detach())

    def reduce(self, size: int, strategy: Any = None) -> tuple[NDArray, NDArray]:
        """Return means [size] (NaN for a domain without a sample) and counts [size]; then empty.

        Args:
            size: number of domains.
            strategy: Lightning's, to sum over its ranks, which must all call this; or None.
        """
        sums = np.zeros((2, size))
        if self._domains:
            domains = torch.cat(self._domains).cpu().numpy()
            losses = torch.cat(self._losses).cpu().double().numpy()
            sums[0] = np.bincount(domains, losses, size)
            sums[1] = np.bincount(domains, minlength=size)
        self._domains, self._losses = [], []
        if strategy is not None and getattr(strategy, "world_size", 1) > 1:
            both = torch.from_numpy(sums).to(strategy.root_device)
            sums = strategy.reduce(both, reduce_op="sum").cpu().numpy()
        with np.errstate(invalid="ignore", divide="ignore"):
            return sums[0] / sums[1], sums[1]

    def __len__(self) -> int:
        return len(self._domains)
