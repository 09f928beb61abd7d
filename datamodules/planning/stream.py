"""`Stream`: the samples of a set of domains, each in a new order on every pass."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tandem_pl.episode import WITHOUT_STEP

from .allocation import Floats, Ints, allocate, draw
from .pool import samples_of_pools
from .shuffling import key_of, shuffled


class Stream:
    """Draws from a set of domains, each in a new order on every pass.

    It draws from all samples, or from a fixed pool of each domain if `pools` are made smaller. The
    pools of a size are the same for all streams of a seed.

    Args:
        name: part of the key of the orders, so that streams differ.
        sizes: domain -> number of samples.
        seed: of the orders.
        allocation: "debt" or "multinomial".

    Attributes:
        pools: [M] sizes of the pools; at first those of the domains.
    """

    def __init__(self, name: str, sizes: Mapping[str, int], seed: int, allocation: str) -> None:
        self.name = name
        self.names = tuple(sizes)
        self.sizes = np.array(list(sizes.values()), np.int64)
        self.pools = self.sizes
        self.seed = seed
        self.allocation = allocation
        self._keys = np.array([key_of(seed, name, domain) for domain in sizes], np.uint64)
        self._pool_keys = np.array([key_of(seed, "pool", domain) for domain in sizes], np.uint64)

    def start(self) -> tuple[Floats, Ints]:
        """Return the cursors before the first batch: debts [M] and samples drawn [M]."""
        return np.zeros(len(self.sizes)), np.zeros(len(self.sizes), np.int64)

    def take(
        self, cursors: tuple[Floats, Ints], weights: Floats, slots: int, step: int
    ) -> tuple[Ints, Ints, tuple[Floats, Ints]]:
        """Plan one batch: return domains [slots] (ascending), indices [slots] and new cursors."""
        debts, drawn = cursors
        if self.allocation == "multinomial":
            counts, debts = draw(debts, weights, slots, [key_of(self.seed, self.name), step])
        else:
            counts, debts = allocate(debts, weights, slots)
        domains = np.repeat(np.arange(len(counts)), counts)
        first = np.cumsum(counts) - counts  # row of each domain's first sample
        number = drawn[domains] + np.arange(slots) - first[domains]
        return domains, self.order(domains, number), (debts, drawn + counts)

    def order(self, domains: Ints, number: Ints) -> Ints:
        """Return indices [N] in the data sets for draw numbers [N] of domains [N]."""
        pools = self.pools[domains]
        passes, places = np.divmod(number, pools)
        places = shuffled(self._keys[domains], passes, places, pools)
        return samples_of_pools(self._pool_keys[domains], places, pools, self.sizes[domains])


def make_streams(
    train: Mapping[str, int], target: Mapping[str, int], seed: int, allocation: str
) -> dict[str, Stream]:
    """Return the streams of a run by name: "train", each phase without a step, and "target".

    Args:
        train: training domain -> number of samples.
        target: target domain -> number of samples; empty for no such stream.
        seed: of the orders.
        allocation: of training and target batches; measured ones are by debt.
    """
    streams = {"train": Stream("train", train, seed, allocation)}
    streams |= {phase: Stream(phase, train, seed, "debt") for phase in WITHOUT_STEP}
    return streams | ({"target": Stream("target", target, seed, allocation)} if target else {})
