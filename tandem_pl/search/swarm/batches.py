"""The batches of many mixtures at once, planned as a run on each of them plans its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import default_collate

from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.datamodules.planning.allocation import Ints
from tandem_pl.datamodules.planning.loading import PlannedSamples
from tandem_pl.datamodules.planning.sampler import PlannedBatch
from tandem_pl.datamodules.planning.stream import Stream
from tandem_pl.datamodules.text.packed_blocks import PackedBlocks
from tandem_pl.episode import TRAIN, MixtureBatch
from tandem_pl.simplex import Array

MOST_TABLE_BYTES = 2**31  # of blocks that are held on the device


class StackedBatches:
    """Yields the samples [R, B, ...] of each step, on a device.

    Network r gets the batches of a run on mixture r: its shares are drawn by the same `Stream`, and
    only the order within the domains is looked up for all networks in one call.

    Args:
        data: after its `setup`.
        mixtures: [R, M] weights.
        steps: batches.
        device: of the samples.
    """

    def __init__(
        self, data: MixtureDataModule, mixtures: Array, steps: int, device: torch.device
    ) -> None:
        self.data, self.mixtures, self.steps, self.device = data, mixtures, steps, device
        sizes = data.domain_sizes()
        self._draws = _Draws("train", sizes, data.seed, data.allocation)
        self._stream = Stream("train", sizes, data.seed, data.allocation)
        self._stream.pools = np.array(list(data.pools.sizes().values()), np.int64)
        self._cursors = [self._stream.start() for _ in mixtures]
        self._table = _blocks(data, device)
        self._starts = np.cumsum([0, *list(sizes.values())[:-1]])  # each domain's rows in it

    def __iter__(self) -> Iterator[Any]:
        fetch = PlannedSamples(self.data.train_sets, {}, self.data.collate_fn, self.data.seed)
        for step in range(self.steps):
            domains, indices = self._plan(step)
            if self._table is None:
                parts = zip(domains, indices, strict=True)
                yield self._collated([fetch[self._planned(step, *part)] for part in parts])
            else:
                rows = torch.from_numpy(self._starts[domains] + indices).to(self.device)
                yield {"input_ids": self._table[rows].long()}

    @property
    def drawn(self) -> Ints:
        """[R, M] samples that each network was trained on."""
        return np.stack([drawn for _, drawn in self._cursors])

    def _plan(self, step: int) -> tuple[Ints, Ints]:
        """Return domains and indices [R, B] of the next step."""
        taken = []
        for row, weights in enumerate(self.mixtures):
            *part, self._cursors[row] = self._draws.take(
                self._cursors[row], weights, self.data.batch_size, step
            )
            taken.append(part)
        domains, numbers = np.array(taken).swapaxes(0, 1)
        indices = self._stream.order(domains.ravel(), numbers.ravel())
        return domains, indices.reshape(domains.shape)

    def _planned(self, step: int, domains: Ints, indices: Ints) -> PlannedBatch:
        return PlannedBatch(TRAIN, step, step == 0, step == self.steps - 1, domains, indices)

    def _collated(self, batches: list[MixtureBatch]) -> Any:
        on_device = [move_data_to_device(batch, self.device) for batch in batches]
        samples = [self.data.transform_on_device(batch).samples for batch in on_device]
        return tree_map(lambda *parts: torch.stack(parts), *samples)


class _Draws(Stream):
    """A stream that gives the numbers of the draws, and leaves their order to the caller."""

    def order(self, domains: Ints, number: Ints) -> Ints:
        return number


def _blocks(data: MixtureDataModule, device: torch.device) -> Tensor | None:
    """Return all training blocks [N, L] on the device; None for other data, or too many.

    Fetching single samples for hundreds of networks would take longer than training them.
    """
    sets = list(data.train_sets.values())
    blocks = [one for one in sets if type(one) is PackedBlocks]
    plain = data.collate_fn is default_collate
    plain &= type(data).transform_on_device is MixtureDataModule.transform_on_device
    if len(blocks) < len(sets) or not plain or len({one.block_size for one in blocks}) > 1:
        return None
    if 4 * sum(len(one) * one.block_size for one in blocks) > MOST_TABLE_BYTES:
        return None
    rows = [sample["input_ids"].int() for one in blocks for sample in _all_of(one)]
    return torch.stack(rows).to(device)


def _all_of(blocks: PackedBlocks) -> list[dict[str, Tensor]]:
    return blocks.__getitems__(list(range(len(blocks))))
