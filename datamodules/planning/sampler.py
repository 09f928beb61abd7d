"""The planned batch sampler: the domains and samples of each batch.

Batches are planned, not drawn: the samples of a batch are a pure function of the seed, the
cursors and the plan, the same on every rank, for any number of workers, and after a resume.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from tandem_pl.episode import WITHOUT_STEP, Plan, Segment
from tandem_pl.errors import InputError

from .allocation import Floats, Ints
from .stream import Stream


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


class MixtureBatchSampler:
    """Yields this rank's `PlannedBatch`es of one episode, from the first not yet trained on.

    The state is what was *trained on*, not what workers have fetched: the data module calls
    `consume` for each batch that reaches the module. A stream's cursor is the pair (debts of its
    domains, samples drawn of each), see `Stream`.

    Args:
        streams: by name: "train"; one for each phase without a step, which uses up no training
            samples; and perhaps "target".
        target_weights: [M'] of the target domains.
        batch_size: of the global batch, over all ranks.

    Rank `rank` of `world_size`, set by `share`, takes every `world_size`-th row of the batch.
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
        self._undo = self.cursors, self.position, self.step  # the last `consume`
        self._cursors_after: dict[int, dict[str, tuple[Floats, Ints]]] = {}  # by step

    def share(self, rank: int, world_size: int) -> None:
        """Yield the rows of this rank only, from the next pass on.

        Raises:
            InputError: the batch cannot be shared equally.
        """
        if self.batch_size % world_size:
            raise InputError(
                f"batch_size={self.batch_size} is the batch over all ranks and must be a multiple "
                f"of their number, {world_size}."
            )
        self.rank, self.world_size = rank, world_size

    def draw_from(self, pools: Mapping[str, int]) -> None:
        """Draw training data, measured data too, from pools of these sizes, domain by domain."""
        for name, stream in self.streams.items():
            if name != "target":
                stream.pools = np.array([pools[domain] for domain in stream.names], np.int64)

    def begin(self, plan: Plan) -> None:
        """Start the next episode.

        Raises:
            InputError: the plan asks for target data, and there is none.
        """
        for segment in plan:
            if segment.target and "target" not in self.streams:
                raise InputError(
                    f"{segment.phase!r} batches need target data: give the datamodule target=..."
                )
        self.plan, self.position = list(plan), 0

    def consume(self, step: int) -> None:
        """Mark batch `step` and all before it as trained on."""
        self._undo = self.cursors, self.position, self.step
        self.cursors = self._cursors_after[step]
        self._cursors_after = {
            at: cursors for at, cursors in self._cursors_after.items() if at > step
        }
        self.position += step + 1 - self.step
        self.step = step + 1

    def rewind(self) -> None:
        """Undo the last `consume`."""
        self.cursors, self.position, self.step = self._undo

    def rest_of_plan(self) -> list[Segment]:
        """Return the segments with batches that were not consumed, and how many of them."""
        rest, done = [], self.position
        for segment in self.plan:
            if segment.batches > done:
                rest.append(replace(segment, batches=segment.batches - done))
            done = max(done - segment.batches, 0)
        return rest

    def __len__(self) -> int:
        return sum(segment.batches for segment in self.plan)

    def __iter__(self) -> Iterator[PlannedBatch]:
        cursors = dict(self.cursors)
        consumed, first_step = self.position, self.step - self.position
        self._cursors_after = {}
        place, last = -1, len(self) - 1  # in the plan
        for segment in self.plan:
            stream = segment.phase if segment.phase in WITHOUT_STEP else "train"
            weights = np.asarray(segment.weights)
            for number in range(segment.batches):
                place += 1
                if place < consumed:
                    continue
                step = first_step + place
                domains, indices, cursors[stream] = self.streams[stream].take(
                    cursors[stream], weights, self.batch_size, step
                )
                target_domains = target_indices = None
                if segment.target:
                    assert self.target_weights is not None
                    *rows, cursors["target"] = self.streams["target"].take(
                        cursors["target"], self.target_weights, self.batch_size, step
                    )
                    target_domains, target_indices = map(self._rows_of_rank, rows)
                self._cursors_after[step] = dict(cursors)
                yield PlannedBatch(
                    phase=segment.phase,
                    step=step,
                    first=number == 0,
                    last=place == last,
                    domains=self._rows_of_rank(domains),
                    indices=self._rows_of_rank(indices),
                    target_domains=target_domains,
                    target_indices=target_indices,
                )

    def _rows_of_rank(self, rows: Ints) -> Ints:
        return rows[self.rank :: self.world_size]

    def seen(self, tokens_per_sample: Floats | None = None) -> dict[str, Floats]:
        """Return what was trained on so far, as arrays [M].

        `samples` drawn, `epochs` (passes over the domain, or over its pool), `share` drawn and
        `requested` share; given tokens a sample [M], `tokens`, and `token_share` if they are known
        of all domains.
        """
        debts, drawn = self.cursors["train"]
        total = max(float(drawn.sum()), 1.0)
        columns: dict[str, Any] = {
            "samples": drawn,
            "epochs": drawn / self.streams["train"].pools,
            "share": drawn / total,
            "requested": (drawn + debts) / total,
        }
        if tokens_per_sample is not None:
            columns["tokens"] = drawn * tokens_per_sample
            if not np.isnan(columns["tokens"]).any():
                columns["token_share"] = columns["tokens"] / max(columns["tokens"].sum(), 1)
        return columns

    def state_dict(self) -> dict[str, Any]:
        """Return plain Python."""
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
        """Restore what `state_dict` returned."""
        for name, cursor in state["cursors"].items():
            if name in self.streams:
                debts = np.array(cursor["debts"], np.float64)
                self.cursors[name] = debts, np.array(cursor["drawn"], np.int64)
        self.plan = [Segment.from_dict(segment) for segment in state["plan"]]
        self.position, self.step = state["position"], state["step"]


def known_numbers(
    domains: Iterable[str], columns: Mapping[str, Floats]
) -> dict[str, dict[str, float]]:
    """Return domain -> name of the column -> value, without NaN, from columns [M].

    >>> known_numbers(["a", "b"], {"tokens": np.array([2.0, np.nan])})
    {'a': {'tokens': 2.0}, 'b': {}}
    """
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    return {
        name: {key: value for key, value in zip(columns, row, strict=True) if value == value}
        for name, row in zip(domains, rows, strict=True)
    }
