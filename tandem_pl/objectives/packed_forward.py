"""Run a padded batch of sequences with less padding, without changing any token's loss.

A padded batch is B rows of L tokens, each row a sample with padding at its end. Most of it may be
padding. `pack` puts several samples into a row, separated by position ids that start again at 0;
`buckets` sorts samples by length and cuts each group to its longest sample.
"""

import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor, nn

from tandem_pl.errors import InputError
from tandem_pl.modes import evaluating

_KEEPS_APART: "WeakSet[Any]" = WeakSet()  # networks that passed `check_keeps_apart`


class Packing(NamedTuple):
    """The places of a padded batch's tokens [B, L] in packed rows [R, W], and back.

    Args:
        taken: [R, W] int64, flat index in [B, L] of each place's token; 0 for an empty place.
        filled: [R, W] bool, whether a place holds a token.
        positions: [R, W] int64, position within the sample; empty places count from 0 too.
        places: [B, L] int64, flat index in [R, W] of each token; 0 at padding.
    """

    taken: Tensor
    filled: Tensor
    positions: Tensor
    places: Tensor


def first_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Return the samples of each row, at most `capacity` tokens a row, by first-fit decreasing.

    Samples are placed from the longest on (ties in the order given), each in the first row with
    room.

    Example:
        >>> first_fit([2, 5, 3, 1], capacity=5)
        [[1], [2, 0], [3]]
    """
    rows: list[list[int]] = []
    left: list[int] = []
    for sample in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[sample]
        row = next((i for i, room in enumerate(left) if room >= length), len(rows))
        if row == len(rows):
            rows.append([])
            left.append(capacity)
        rows[row].append(sample)
        left[row] -= length
    return rows


def pack(lengths: Sequence[int], width: int) -> Packing:
    """Pack the samples of a padded batch of `width` columns into rows of the longest's length.

    Example:
        >>> packing = pack([1, 3, 2], width=4)
        >>> packing.taken.tolist(), packing.positions.tolist()
        ([[4, 5, 6], [8, 9, 0]], [[0, 1, 2], [0, 1, 0]])
    """
    rows = first_fit(lengths, max(lengths))
    used = max(sum(lengths[sample] for sample in row) for row in rows)
    taken = torch.zeros(len(rows), used, dtype=torch.long)
    filled = torch.zeros(len(rows), used, dtype=torch.bool)
    positions = torch.zeros(len(rows), used, dtype=torch.long)
    places = torch.zeros(len(lengths), width, dtype=torch.long)
    for number, row in enumerate(rows):
        start = 0
        for sample in row:
            stop = start + lengths[sample]
            own = torch.arange(lengths[sample])
            taken[number, start:stop] = sample * width + own
            filled[number, start:stop] = True
            positions[number, start:stop] = own
            places[sample, : len(own)] = number * used + start + own
            start = stop
        positions[number, start:] = torch.arange(used - start)
    return Packing(taken, filled, positions, places)


def buckets(lengths: Sequence[int]) -> list[list[int]]:
    """Group samples by length: a group's shortest is more than half as long as its longest.

    Example:
        >>> buckets([3, 10, 7, 2, 4])
        [[1, 2], [4, 0], [3]]
    """
    groups: list[list[int]] = []
    for sample in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not groups or 2 * lengths[sample] <= lengths[groups[-1][0]]:
            groups.append([])
        groups[-1].append(sample)
    return groups


def check_keeps_apart(network: Callable[..., Any], device: torch.device) -> None:
    """Raise an error for a network that does not separate packed samples; check each network once.

    Four packed tokens of one sample and four of another are run in eval mode: the second sample's
    logits must not change with the first sample's tokens, and must equal those of the second sample
    alone.

    Args:
        network: what the objective is called with.
        device: of its inputs.

    Raises:
        InputError: it takes no `position_ids`, or the samples of a row see one another.
    """
    if network in _KEEPS_APART:
        return
    name = type(network).__name__
    forward = network.forward if isinstance(network, nn.Module) else network
    parameters = inspect.signature(forward).parameters.values()
    if not any(p.name == "position_ids" or p.kind is p.VAR_KEYWORD for p in parameters):
        raise InputError(
            f'layout="packed" needs a network that takes position_ids, and {name} does not; set '
            'the objective\'s layout to "bucketed" or "padded".'
        )
    tokens = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 0], [1, 1, 1, 1, 0, 1, 1, 0]], device=device)
    positions = torch.arange(4, device=device).repeat(2, 2)
    mode = evaluating(network) if isinstance(network, nn.Module) else nullcontext()
    with mode, torch.no_grad():
        packed = logits_of(network(input_ids=tokens, position_ids=positions))[:, 4:]
        alone = logits_of(network(input_ids=tokens[:, 4:], position_ids=positions[:, :4]))
    scale = float(alone.abs().max())
    moved = float((packed[0] - packed[1]).abs().max())
    differs = float((packed - alone).abs().max())
    if not (moved <= 1e-5 * scale and differs <= torch.finfo(alone.dtype).eps ** 0.5 * scale):
        raise InputError(
            f'layout="packed" would let the samples of a row see one another in {name} (a logit '
            f'moved by {max(moved, differs):.2g}); set the objective\'s layout to "bucketed" or '
            '"padded", or use_cache to false and attention to "sdpa" or "eager" in the network\'s '
            "configuration."
        )
    _KEEPS_APART.add(network)


def logits_of(output: Any) -> Tensor:
    """Return the logits [B, L, V] of a network's output: the output itself, or its `.logits`."""
    return getattr(output, "logits", output)
