"""Splitting a batch into parts that fit into one forward."""

from collections import UserDict
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map_only


def map_rows(function: Callable[[Tensor], Tensor], samples: Any) -> Any:
    """Return samples with every tensor replaced by `function` of it.

    Torch's trees end at a `UserDict`, which transformers' `BatchEncoding` is.

    >>> import torch
    >>> map_rows(lambda tensor: tensor[1:], UserDict(x=torch.arange(3)))
    {'x': tensor([1, 2])}
    """
    if isinstance(samples, UserDict):
        return type(samples)(map_rows(function, samples.data))
    return tree_map_only(Tensor, function, samples)


def split_batch(samples: Any, size: int, largest: int | None) -> list[tuple[Any, int]]:
    """Return the samples in parts of at most `largest`, with the size of each.

    Args:
        samples: collated; every tensor has `size` rows.
        size: samples in the batch.
        largest: samples in one part; None for the whole batch.

    >>> import torch
    >>> [(part.tolist(), size) for part, size in split_batch(torch.arange(5), 5, 3)]
    [([0, 1, 2], 3), ([3, 4], 2)]
    """
    step = largest or size
    if step >= size:
        return [(samples, size)]

    def rows_from(start: int) -> tuple[Any, int]:
        rows = slice(start, start + step)
        return map_rows(lambda tensor: tensor[rows], samples), min(step, size - start)

    return [rows_from(start) for start in range(0, size, step)]
