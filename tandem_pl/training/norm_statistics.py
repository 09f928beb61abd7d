"""BatchNorm's running statistics: computing them anew, and undoing a batch that was no good."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def tracking_norms(network: nn.Module) -> list[_BatchNorm]:
    """The BatchNorm layers whose running statistics training changes.

    Not those in eval mode, whose statistics somebody froze.

    >>> layers = nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False), nn.LayerNorm(2)
    >>> len(tracking_norms(nn.Sequential(*layers, nn.BatchNorm1d(2).eval())))
    1
    """
    norms = (module for module in network.modules() if isinstance(module, _BatchNorm))
    return [n for n in norms if n.training and n.track_running_stats and n.running_mean is not None]


def running_statistics(networks: Iterable[nn.Module]) -> list[Tensor]:
    """Running means and variances of `tracking_norms`, themselves."""
    norms = [norm for network in networks for norm in tracking_norms(network)]
    return [t for n in norms for t in (n.running_mean, n.running_var) if t is not None]


@torch.no_grad()
def write_statistics(statistics: list[Tensor], values: Tensor) -> None:
    """Sets the statistics to `values`, which has all of them in one row."""
    parts = values.split([t.numel() for t in statistics])
    views = [part.view_as(t) for part, t in zip(parts, statistics, strict=True)]
    torch._foreach_copy_(statistics, views)


class BeforeBatch:
    """Keeps the running statistics of before a batch, for the case that it has a bad loss.

    A loss that is not finite comes with statistics that are not, which no later batch would mend:
    the update is skipped, and so are they.

    >>> norm = nn.BatchNorm1d(1)
    >>> before = BeforeBatch([norm])
    >>> _ = norm(torch.tensor([[1.0], [float("nan")]]))
    >>> before.put_back(torch.tensor(True))
    >>> norm.running_mean
    tensor([0.])
    """

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        self.statistics = running_statistics(networks)
        self.values = flat(self.statistics) if self.statistics else None

    @torch.no_grad()
    def put_back(self, bad: Tensor) -> None:
        """Where `bad`, a scalar on the device, is true; without waiting for it."""
        if self.values is not None:
            now = flat(self.statistics)
            write_statistics(self.statistics, torch.where(bad, self.values, now))


def flat(statistics: list[Tensor]) -> Tensor:
    """A copy of all in one row."""
    return torch.cat([t.detach().flatten() for t in statistics])


@contextmanager
def accumulating_statistics(network: nn.Module, first: bool) -> Iterator[None]:
    """Forwards inside, in train mode, make the running statistics the plain mean of all batches'.

    That is of all since `first` was True, which forgets what was before. Training goes on from
    these statistics with each layer's own momentum. A compiled network runs as it was written,
    since counts of batches would break its graphs.

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
