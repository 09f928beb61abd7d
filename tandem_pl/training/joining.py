"""The reference's training and target samples in one forward."""

from collections import UserDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from tandem_pl.errors import InputError

from .norm_statistics import has_batch_norm


def join_samples(first: Any, second: Any) -> Any | None:
    """Return the samples of two batches as one batch; None if their shapes differ.

    Args:
        first: collated samples; every tensor has a row for each sample.
        second: the same of the other batch.

    >>> joined = join_samples({"x": torch.zeros(2, 3)}, {"x": torch.ones(4, 3)})
    >>> joined["x"].shape
    torch.Size([6, 3])
    >>> join_samples({"x": torch.zeros(2, 3)}, {"x": torch.ones(4, 5)}) is None
    True
    """
    if isinstance(first, UserDict) and type(first) is type(second):  # torch's trees end there
        joined = join_samples(first.data, second.data)
        return None if joined is None else type(first)(joined)
    (ones, structure), (others, other_structure) = tree_flatten(first), tree_flatten(second)
    if structure != other_structure:
        return None
    rows = []
    for one, other in zip(ones, others, strict=True):
        if not isinstance(one, Tensor) or not isinstance(other, Tensor):
            return None  # not known to have rows
        if (one.shape[1:], one.dtype) != (other.shape[1:], other.dtype):
            return None
        rows.append(torch.cat([one, other]))
    return tree_unflatten(rows, structure)


def check_joinable(network: nn.Module) -> None:
    """Raise an error if a sample's loss depends on the samples beside it in training.

    BatchNorm would mix the statistics of training and target samples. Dropout would draw other
    masks for the training samples than the proxy's forward does, and the hyper-gradient would
    measure the masks.

    >>> check_joinable(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.0)))
    """
    if has_batch_norm(network):
        raise InputError(
            "join_probe=True needs a network without BatchNorm, whose statistics would be those of "
            "training and target samples together: leave join_probe out."
        )
    for name, module in network.named_modules():
        for key, rate in drop_rates(module).items():
            raise InputError(
                "join_probe=True needs a network without dropout, and "
                f"{f'{name}.{key}' if name else key} is {rate}: "
                "set the rate to 0, or leave join_probe out."
            )


def drop_rates(module: nn.Module) -> dict[str, float]:
    """Return the positive rates of dropout that a module holds itself, by attribute.

    >>> drop_rates(nn.MultiheadAttention(4, 2, dropout=0.5)), drop_rates(nn.Linear(2, 2))
    ({'dropout': 0.5}, {})
    """
    is_layer = isinstance(module, nn.modules.dropout._DropoutNd)
    return {
        key: value
        for key, value in vars(module).items()
        if ("drop" in key or (is_layer and key == "p")) and isinstance(value, float) and value > 0
    }
