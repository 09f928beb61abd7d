"""BatchNorm's running statistics: which networks have some, and computing them anew."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _NormBase


def tracking_norms(network: nn.Module) -> list[_NormBase]:
    """The layers that normalise by running statistics in eval mode.

    >>> layers = nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False), nn.LayerNorm(2)
    >>> len(tracking_norms(nn.Sequential(*layers)))
    1
    """
    norms = (module for module in network.modules() if isinstance(module, _NormBase))
    return [norm for norm in norms if norm.track_running_stats and norm.running_mean is not None]


@contextmanager
def accumulating_statistics(network: nn.Module, first: bool) -> Iterator[None]:
    """Forwards inside, in train mode, make the running statistics the plain mean of all batches'.

    That is of all since `first` was True, which forgets what was before. Training goes on from
    these statistics with each layer's own momentum.

    >>> import torch
    >>> norm, batches = nn.BatchNorm1d(1, momentum=0.1), torch.randn(3, 8, 1)
    >>> for number, batch in enumerate(batches):
    ...     with accumulating_statistics(norm, number == 0):
    ...         _ = norm(batch)
    >>> torch.allclose(norm.running_mean, batches.mean()), norm.momentum
    (True, 0.1)
    """
    norms = tracking_norms(network)
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            if first:
                norm.reset_running_stats()
            norm.momentum = None  # torch: a cumulative mean over `num_batches_tracked` batches
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
