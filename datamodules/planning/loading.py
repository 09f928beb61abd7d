"""Between the sampler's plans and the module's batches: what the data loaders are made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from tandem_pl.episode import MixtureBatch, Plan
from tandem_pl.errors import InputError
from tandem_pl.randomness import seeded_everywhere

from .sampler import Ints, MixtureBatchSampler, PlannedBatch
from .shuffling import key_of


class Episodes:
    """The batch sampler that the loader sees: repeats the static plan where no callback plans."""

    def __init__(self, sampler: MixtureBatchSampler, plan: Callable[[], Plan]) -> None:
        self.sampler = sampler
        self.plan = plan

    def __iter__(self) -> Iterator[PlannedBatch]:
        if self.sampler.position == len(self.sampler):
            self.sampler.begin(self.plan())
        return iter(self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)


class ResumableLoader(DataLoader):
    """Tells Lightning that a resume inside an epoch is exact; the state is the datamodule's."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""


class Rows(Dataset):
    """Fetches planned batches from the domains' data sets.

    What data sets draw from the global generators of Python, NumPy and torch, as augmentations do,
    is a function of (seed, phase, step, rank): the same for any number of workers and after a
    resume.
    """

    def __init__(
        self,
        train: dict[str, Dataset],
        target: dict[str, Dataset],
        collate: Callable[[list], Any],
        seed: int = 0,
        rank: int = 0,
    ) -> None:
        self.train, self.target = list(train.values()), list(target.values())
        self.collate = collate
        self.seed, self.rank = seed, rank

    def __getitem__(self, index: int) -> Any:
        raise TypeError("rows are fetched a planned batch at a time.")

    def __getitems__(self, planned: PlannedBatch) -> MixtureBatch:
        with seeded_everywhere(self.seed, key_of(planned.phase), planned.step, self.rank):
            return self._batch(planned)

    def _batch(self, planned: PlannedBatch) -> MixtureBatch:
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

    def _fetch(self, sets: list[Dataset], domains: np.ndarray, indices: np.ndarray) -> Any:
        samples: list[Any] = []
        starts = np.flatnonzero(np.diff(domains, prepend=-1))  # rows are sorted by domain
        for start, stop in zip(starts, [*starts[1:], len(domains)], strict=True):
            data, rows = sets[domains[start]], indices[start:stop].tolist()
            fetch = getattr(data, "__getitems__", None)
            samples.extend(fetch(rows) if fetch else [data[row] for row in rows])
        return self.collate(samples)


def evaluation_rows(count: int, size: int, rank: int = 0, ranks: int = 1) -> list[Ints]:
    """Numbers of the rows in each of this rank's batches: every `ranks`-th row, in order.

    All ranks get equally many batches, since sharded networks make every forward together; so that
    some batches may have a row less than others, or one more than `size`.

    Raises:
        InputError: fewer rows than ranks.

    >>> [rows.tolist() for rows in evaluation_rows(5, 2, rank=1, ranks=2)]
    [[1], [3]]
    """
    mine = np.arange(rank, count, ranks)
    if ranks == 1:
        return [mine[start : start + size] for start in range(0, count, size)]
    if count < ranks:
        raise InputError(
            f"there are {count} samples to evaluate on {ranks} devices: use fewer devices."
        )
    return np.array_split(mine, min(math.ceil(math.ceil(count / ranks) / size), count // ranks))


class Batches(Dataset):
    """Evaluation batches by number."""

    def __init__(self, rows: Rows, batches: list[PlannedBatch]) -> None:
        self.rows, self.batches = rows, batches

    def __getitem__(self, number: int) -> MixtureBatch:
        return self.rows.__getitems__(self.batches[number])

    def __len__(self) -> int:
        return len(self.batches)


def as_is(batch: Any) -> Any:
    """Batches come whole from the data set."""
    return batch
