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
from tandem_pl.datamodules.planning.loading import PlannedSamples
from tandem_pl.datamodules.planning.sampler import MixtureBatchSampler, PlannedBatch
from tandem_pl.datamodules.planning.sizes import tokens_per_sample
from tandem_pl.datamodules.planning.stream import make_streams
from tandem_pl.datamodules.text.packed_blocks import PackedBlocks
from tandem_pl.episode import TRAIN, Segment
from tandem_pl.simplex import Array

MOST_TABLE_BYTES = 2**31  # of blocks that are held on the device


class StackedBatches:
    """Yields the samples [R, B, ...] of each step, on a device.

    Args:
        data: after its `setup`.
        mixtures: [R, M] weights.
        steps: batches.
        device: of the samples.
    """

    def __init__(
        self, data: MixtureDataModule, mixtures: Array, steps: int, device: torch.device
    ) -> None:
        self.data, self.device = data, device
        self.samplers = [_sampler(data, weights, steps) for weights in mixtures]
        self.table = _blocks(data, device)
        sizes = list(data.domain_sizes().values())
        self.starts = np.cumsum([0, *sizes[:-1]])  # each domain's first row of the table

    def __iter__(self) -> Iterator[Any]:
        fetch = PlannedSamples(self.data.train_sets, {}, self.data.collate_fn, self.data.seed)
        for planned in zip(*self.samplers, strict=True):
            for sampler in self.samplers:
                sampler.consume(planned[0].step)
            if self.table is not None:
                rows = np.stack([self.starts[one.domains] + one.indices for one in planned])
                yield {"input_ids": self.table[torch.from_numpy(rows).to(self.device)].long()}
            else:
                yield self._collated(fetch, planned)

    def seen(self) -> list[dict[str, Array]]:
        """Return what each network was trained on, see `MixtureBatchSampler.seen`."""
        tokens = tokens_per_sample(self.data.train_sets)
        return [sampler.seen(tokens) for sampler in self.samplers]

    def _collated(self, fetch: PlannedSamples, planned: tuple[PlannedBatch, ...]) -> Any:
        batches = [move_data_to_device(fetch[one], self.device) for one in planned]
        samples = [self.data.transform_on_device(batch).samples for batch in batches]
        return tree_map(lambda *parts: torch.stack(parts), *samples)


def _sampler(data: MixtureDataModule, weights: Array, steps: int) -> MixtureBatchSampler:
    streams = make_streams(data.domain_sizes(), {}, data.seed, data.allocation)
    sampler = MixtureBatchSampler(streams, None, data.batch_size)
    sampler.draw_from(data.pools.sizes())
    sampler.begin([Segment(TRAIN, steps, tuple(weights.tolist()))])
    return sampler


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
