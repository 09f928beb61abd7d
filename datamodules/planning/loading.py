"""From planned batches to the module's batches: the sampler and data set of the loaders."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from tandem_pl.episode import EVALUATE, MixtureBatch, Plan
from tandem_pl.errors import InputError
from tandem_pl.randomness import seeded_everywhere

from .sampler import Ints, MixtureBatchSampler, PlannedBatch
from .shuffling import key_of


class Episodes:
    """The loader's sampler: one pass is one episode.

    If no callback has planned the next episode, it has the static plan again.
    """

    def __init__(self, sampler: MixtureBatchSampler, plan: Callable[[], Plan]) -> None:
        self.sampler = sampler
        self.plan = plan

    def __iter__(self) -> Iterator[PlannedBatch]:
        if self.sampler.position == len(self.sampler):
            self.sampler.begin(self.plan())
        return iter(self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)


class PlannedSamples(Dataset):
    """Fetches planned batches from the domains' data sets: an index is a `PlannedBatch`.

    What data sets draw from the global generators of Python, NumPy and torch, as augmentations do,
    is a function of (seed, phase, step, rank): the same for any number of workers and after a
    resume.
    """

    def __init__(
        self,
        train: Mapping[str, Dataset],
        target: Mapping[str, Dataset],
        collate: Callable[[list], Any],
        seed: int = 0,
        rank: int = 0,
    ) -> None:
        self.train, self.target = list(train.values()), list(target.values())
        self.collate = collate
        self.seed, self.rank = seed, rank

    def __getitem__(self, planned: PlannedBatch) -> MixtureBatch:
        with seeded_everywhere(self.seed, key_of(planned.phase), planned.step, self.rank):
            target_domains, target_samples = None, None
            if planned.target_domains is not None and planned.target_indices is not None:
                target_domains = torch.from_numpy(planned.target_domains)
                target_samples = self._fetch(
                    self.target, planned.target_domains, planned.target_indices
                )
            return MixtureBatch(
                planned.phase,
                planned.step,
                planned.first,
                planned.last,
                torch.from_numpy(planned.domains),
                self._fetch(self.train, planned.domains, planned.indices),
                target_domains,
                target_samples,
            )

    def _fetch(self, sets: Sequence[Dataset], domains: np.ndarray, indices: np.ndarray) -> Any:
        samples: list[Any] = []
        starts = np.flatnonzero(np.diff(domains, prepend=-1))  # rows are sorted by domain
        for start, stop in zip(starts, [*starts[1:], len(domains)], strict=True):
            data, rows = sets[domains[start]], indices[start:stop].tolist()
            fetch = getattr(data, "__getitems__", None)  # torch's protocol for several at once
            samples.extend(fetch(rows) if fetch else [data[row] for row in rows])
        return self.collate(samples)


def evaluation_plan(
    indices: Sequence[Ints], size: int, rank: int = 0, ranks: int = 1
) -> list[PlannedBatch]:
    """Return this rank's batches of given samples, domain after domain.

    All ranks get equally many batches, because sharded networks run every forward together. Some
    batches may therefore have a row less than others, or one more than `size`.

    Args:
        indices: for each domain, the samples of its data set to evaluate, in this order.
        size: samples in a batch of one rank.
        rank: it gets every `ranks`-th row.
        ranks: their number.

    Raises:
        InputError: fewer samples than ranks.

    >>> [batch.indices.tolist() for batch in evaluation_plan([np.arange(5)], 2, rank=1, ranks=2)]
    [[1], [3]]
    """
    domains = np.repeat(np.arange(len(indices)), [len(rows) for rows in indices])
    everything = np.concatenate(indices)
    count = len(domains)
    mine = np.arange(rank, count, ranks)
    if ranks == 1:
        parts = [mine[start : start + size] for start in range(0, count, size)]
    elif count < ranks:
        raise InputError(
            f"there are {count} samples to evaluate on {ranks} devices: use fewer devices."
        )
    else:
        batches = min(math.ceil(math.ceil(count / ranks) / size), count // ranks)
        parts = np.array_split(mine, batches)
    return [
        PlannedBatch(
            phase=EVALUATE,
            step=number,
            first=False,
            last=False,
            domains=domains[rows],
            indices=everything[rows],
        )
        for number, rows in enumerate(parts)
    ]
