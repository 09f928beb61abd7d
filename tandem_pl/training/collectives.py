"""Sums over ranks."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


def sum_over_ranks(tensors: Sequence[Tensor]) -> None:
    """Sum each tensor over ranks, in place, with one collective a dtype.

    Shards are left out: their reduction has summed them already. Every rank must call this with
    tensors of the same shapes.
    """
    whole = [tensor for tensor in tensors if not isinstance(tensor, DTensor)]
    for dtype in sorted({tensor.dtype for tensor in whole}, key=str):
        same = [tensor for tensor in whole if tensor.dtype == dtype]
        flat = torch.cat([tensor.flatten() for tensor in same])
        torch.distributed.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in same])
        torch._foreach_copy_(same, [p.view_as(t) for p, t in zip(parts, same, strict=True)])


def sum_over_shards(values: Tensor, tensors: Iterable[Tensor]) -> Tensor:
    """Sum over ranks, in place, values that each computed from its shards; all ranks call it."""
    for tensor in tensors:
        if isinstance(tensor, DTensor):
            torch.distributed.all_reduce(values, group=tensor.device_mesh.get_group())
            break
    return values
