"""The planned batch sampler: which samples of which domains make up each batch.

Batches are planned, not drawn: the samples of a batch are a pure function of the seed, the
cursors and the plan, the same on every rank, for any number of workers, and after a resume.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tandem_pl.episode import WITHOUT_STEP, Plan, Segment

from .shuffling import key_of, shuffled

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class PlannedBatch(NamedTuple):
    """One rank's rows of a batch, before the data is fetched.

    `domains` and `indices` are [B] int64: domain number and index within the domain's data set.
    """

    phase: str
    step: int
    first: bool
    last: bool
    domains: Ints
    indices: Ints
    target_domains: Ints | None = None
    target_indices: Ints | None = None


def allocate(debts: Floats, weights: Floats, slots: int) -> tuple[Ints, Floats]:
    """How many samples each domain gets in a batch, by debt.

    A batch adds `slots` times the weights to the debts; then each slot goes to the largest debt
    (ties to the lowest number), of which one unit is repaid. Debts carry over batches and weight
    changes, so a debt is exactly what a domain was asked for less what it got. Under one mixture
    no domain is ever a whole sample ahead, and one behind by more is rare; whatever the weights
    do between positive values, it is behind by at most 1/2 + ... + 1/M. Domains of weight 0 are
    never picked; they keep their debt until they have a weight again.

    Args:
        debts: [M] asked for less drawn so far, in samples.
        weights: [M] shares, summing to 1.
        slots: samples in the batch.

    Returns:
        counts [M] and the new debts [M].

    >>> allocate(np.zeros(2), np.array([0.75, 0.25]), 4)[0].tolist()
    [3, 1]
    """
    active = np.flatnonzero(weights > 0)
    owed = debts[active] + slots * weights[active]
    # Repaying in real numbers would bring all debts above some level down to it. In whole ones,
    # each gets all but the last of its units above it, and the largest rests get one more.
    got = np.maximum(np.ceil(owed - _level(owed, slots)) - 1.0, 0.0)
    rest, left = owed - got, slots - int(got.sum())
    if left:
        least = np.partition(rest, -left)[-left]
        above, ties = rest > least, np.flatnonzero(rest == least)
        got[above] += 1.0
        got[ties[: left - np.count_nonzero(above)]] += 1.0
    debts, counts = debts.copy(), np.zeros(len(weights), np.int64)
    debts[active], counts[active] = owed - got, got.astype(np.int64)
    return counts, debts


def _level(owed: Floats, slots: int) -> float:
    """The level above which `owed` sums to `slots`."""
    level = (owed.sum() - slots) / len(owed)  # too low: as if none were below
    while True:
        above = owed[owed > level]
        higher = (above.sum() - slots) / len(above)
        if higher <= level:
            return float(level)
        level = higher


def draw(debts: Floats, weights: Floats, slots: int, key: list[int]) -> tuple[Ints, Floats]:
    """As `allocate`, but multinomial: independent draws seeded by `key`, as published."""
    counts = np.random.default_rng(key).multinomial(slots, weights)
    return counts, debts + slots * weights - counts


class Stream:
    """Draws from a set of domains, each in a fresh order on every pass.

    Args:
        name: keeps the orders of different streams apart.
        sizes: domain -> number of samples.
        seed: of the orders.
        allocation: "debt" or "multinomial".
    """

    def __init__(self, name: str, sizes: Mapping[str, int], seed: int, allocation: str) -> None:
        self.name = name
        self.names = tuple(sizes)
        self.sizes = np.array(list(sizes.values()), np.int64)
        self.seed = seed
        self.allocation = allocation
        self._keys = np.array([key_of(seed, name, domain) for domain in sizes], np.uint64)

    def start(self) -> tuple[Floats, Ints]:
        """The cursors before the first batch: debts [M] and samples drawn [M]."""
        return np.zeros(len(self.sizes)), np.zeros(len(self.sizes), np.int64)

    def take(
        self, cursors: tuple[Floats, Ints], weights: Floats, slots: int, step: int
    ) -> tuple[Ints, Ints, tuple[Floats, Ints]]:
        """Plans one batch: domains [slots] (ascending), indices [slots], and the new cursors."""
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
        """Indices [N] of the draws number 0, 1, ... [N] of domains [N]."""
        sizes = self.sizes[domains]
        passes, places = np.divmod(number, sizes)
        return shuffled(self._keys[domains], passes, places, sizes)


class MixtureBatchSampler:
    """Yields this rank's `PlannedBatch`es of one episode, from where training stands.

    What was *trained on* is the state, not what workers have fetched: the datamodule calls
    `consume` with each batch that reaches the module.

    Args:
        streams: by name: "train"; one for each of the phases that train nothing, so that passes
            over the training data stay complete; and perhaps "target".
        target_weights: [M'] of the target domains.
        batch_size: of the global batch, over all ranks.

    Rank `rank` of `world_size` (attributes) takes every `world_size`-th row of the batch.
    """

    def __init__(
        self,
        streams: Mapping[str, Stream],
        target_weights: Floats | None,
        batch_size: int,
    ) -> None:
        self.streams = dict(streams)
        self.target_weights = target_weights
        self.batch_size = batch_size
        self.rank, self.world_size = 0, 1
        self.cursors = {name: stream.start() for name, stream in self.streams.items()}
        self.plan: list[Segment] = []
        self.position = 0  # batches of the plan that were consumed
        self.step = 0  # batches consumed since the start
        self._ahead: dict[int, dict[str, tuple[Floats, Ints]]] = {}  # step -> cursors after it

    def begin(self, plan: Plan) -> None:
        """Starts the next episode."""
        self.plan, self.position = list(plan), 0

    def consume(self, step: int) -> None:
        """Marks batch `step` and all before it as trained on."""
        self.cursors = self._ahead[step]
        self._ahead = {at: cursors for at, cursors in self._ahead.items() if at > step}
        self.position += step + 1 - self.step
        self.step = step + 1

    def __len__(self) -> int:
        return sum(segment.batches for segment in self.plan)

    def __iter__(self) -> Iterator[PlannedBatch]:
        cursors, position, first_step = dict(self.cursors), self.position, self.step - self.position
        self._ahead = {}
        place, last = -1, len(self) - 1
        for segment in self.plan:
            stream = segment.phase if segment.phase in WITHOUT_STEP else "train"
            weights = np.asarray(segment.weights)
            for number in range(segment.batches):
                place += 1
                if place < position:
                    continue  # consumed before a resume
                step = first_step + place
                domains, indices, cursors[stream] = self.streams[stream].take(
                    cursors[stream], weights, self.batch_size, step
                )
                target: tuple[Ints, Ints] | tuple[()] = ()
                if segment.target:
                    assert self.target_weights is not None
                    *rows, cursors["target"] = self.streams["target"].take(
                        cursors["target"], self.target_weights, self.batch_size, step
                    )
                    target = (self._mine(rows[0]), self._mine(rows[1]))
                self._ahead[step] = dict(cursors)
                yield PlannedBatch(
                    segment.phase,
                    step,
                    number == 0,
                    place == last,
                    self._mine(domains),
                    self._mine(indices),
                    *target,
                )

    def _mine(self, rows: Ints) -> Ints:
        return rows[self.rank :: self.world_size]

    def state_dict(self) -> dict[str, Any]:
        """Plain Python."""
        return {
            "cursors": {
                name: {"debts": debts.tolist(), "drawn": drawn.tolist()}
                for name, (debts, drawn) in self.cursors.items()
            },
            "plan": [segment.as_dict() for segment in self.plan],
            "position": self.position,
            "step": self.step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        for name, cursor in state["cursors"].items():
            if name in self.streams:
                debts = np.array(cursor["debts"], np.float64)
                self.cursors[name] = debts, np.array(cursor["drawn"], np.int64)
        self.plan = [Segment.from_dict(segment) for segment in state["plan"]]
        self.position, self.step = state["position"], state["step"]
