"""BatchNorm's running statistics: compute them again, and undo a batch with a bad loss."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def has_batch_norm(network: nn.Module) -> bool:
    """Return whether the network has a BatchNorm layer of any dimension."""
    return any(isinstance(module, _BatchNorm) for module in network.modules())


def tracking_norms(network: nn.Module) -> list[_BatchNorm]:
    """Return the BatchNorm layers whose running statistics training changes.

    Layers in eval mode are left out, because somebody froze their statistics.

    >>> layers = nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False), nn.LayerNorm(2)
    >>> len(tracking_norms(nn.Sequential(*layers, nn.BatchNorm1d(2).eval())))
    1
    """
    norms = (module for module in network.modules() if isinstance(module, _BatchNorm))
    return [n for n in norms if n.training and n.track_running_stats and n.running_mean is not None]


def running_statistics(networks: Iterable[nn.Module]) -> list[Tensor]:
    """Return the running means and variances of `tracking_norms`, not copies."""
    norms = [norm for network in networks for norm in tracking_norms(network)]
    return [t for n in norms for t in (n.running_mean, n.running_var) if t is not None]


@torch.no_grad()
def write_statistics(statistics: list[Tensor], values: Tensor) -> None:
    """Set the statistics to `values`, which holds all of them in one row."""
    parts = values.split([t.numel() for t in statistics])
    views = [part.view_as(t) for part, t in zip(parts, statistics, strict=True)]
    torch._foreach_copy_(statistics, views)


class StatisticsSnapshot:
    """Running statistics before a batch, to restore if its loss is not finite.

    A loss that is not finite comes with statistics that are not finite, and no later batch would
    correct them: like the update, they are skipped.

    >>> norm = nn.BatchNorm1d(1)
    >>> before = StatisticsSnapshot([norm])
    >>> _ = norm(torch.tensor([[1.0], [float("nan")]]))
    >>> before.restore_if(torch.tensor(True))
    >>> norm.running_mean
    tensor([0.])
    """

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        self.statistics = running_statistics(networks)
        self.values = concatenate(self.statistics) if self.statistics else None

    @torch.no_grad()
    def restore_if(self, bad: Tensor) -> None:
        """Restore them if `bad`, a scalar on the device, is true; without waiting for it."""
        if self.values is not None:
            now = concatenate(self.statistics)
            write_statistics(self.statistics, torch.where(bad, self.values, now))


def concatenate(statistics: list[Tensor]) -> Tensor:
    """Return a copy of all in one row."""
    return torch.cat([t.detach().flatten() for t in statistics])


@contextmanager
def accumulating_statistics(network: nn.Module, first: bool) -> Iterator[None]:
    """Make forwards inside set the running statistics to the plain mean over all batches.

    The mean is over the batches since `first` was True, which resets the statistics. Training
    continues from them with each layer's own momentum. A compiled network runs without its compiled
    code, because batch counts would break its graphs.

    >>> norm, batches = nn.BatchNorm1d(1, momentum=0.1), torch.randn(3, 8, 1)
    >>> for number, batch in enumerate(batches):
    ...     with accumulating_statistics(norm, number == 0):
    ...         _ = norm(batch)
    >>> torch.allclose(norm.running_mean, batches.mean()), norm.momentum
    (True, 0.1)
    """
    norms = tracking_norms(network)
    momenta = [norm.momentum for norm in norms]
    compiled, network._compiled_call_impl = network._compiled_call_impl, None
    try:
        for norm in norms:
            if first:
                norm.reset_running_stats()
            norm.momentum = None  # torch: a cumulative mean over `num_batches_tracked` batches
        yield
    finally:
        network._compiled_call_impl = compiled
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
