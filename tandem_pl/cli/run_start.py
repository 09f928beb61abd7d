"""What a run says before its first step."""

from __future__ import annotations

import math
from typing import NamedTuple

from lightning.pytorch import Trainer

from tandem_pl.callbacks.episode_lengths import ENOUGH_SAMPLES
from tandem_pl.callbacks.methods.method import Length
from tandem_pl.callbacks.monitoring.trainer_parts import reweighting_of
from tandem_pl.domain_names import first_names
from tandem_pl.episode import MEASURE, WITHOUT_STEP
from tandem_pl.steadiness import LEAST_JUDGED
from tandem_pl.text_tables import counted
from tandem_pl.training.connection import mixture_data
from tandem_pl.training.trainer_flags import total_steps

ENOUGH_UPDATES = 2 * LEAST_JUDGED - 2  # fewer are too short to judge, see `stability`
MOST_PASSES = 100  # over a domain
MOST_NAMES = 8  # domains in a line


class Start(NamedTuple):
    """A run that is about to start.

    `step` is 0, or that of the checkpoint; `steps` are those of the whole run, None without a
    limit; `episode` are the steps between updates; `measured` are the samples of a domain that an
    update measures, None for a method that measures otherwise; `cost` is in plain runs, None if the
    method does not state it; `passes` are those over each domain in the whole run, at the weights
    of the start; `frozen` is the share of the steps after which no update is made, 1 for none.
    """

    method: str
    learned: bool
    domains: int
    batch_size: int
    step: int
    steps: int | None
    episode: int
    measured: float | None
    cost: float | None
    passes: dict[str, float]
    frozen: float = 1.0

    @property
    def updates(self) -> int | None:
        """Updates of the weights in the whole run."""
        if self.steps is None:
            return None
        most = self.steps // self.episode
        return min(most, math.ceil(self.frozen * self.steps / self.episode))


def read_start(trainer: Trainer) -> Start:
    """Return the run that the trainer is about to start; its data must be a mixture."""
    data, planner = mixture_data(trainer, "the summary counts domains"), reweighting_of(trainer)
    sizes = data.record.get("pool") or data.domain_sizes()  # that the run draws from
    batch_size, steps = data.batch_size, total_steps(trainer)
    episode = sum(part.batches for part in data.planned if part.phase not in WITHOUT_STEP)
    measured = sum(part.batches for part in data.planned if part.phase == MEASURE)
    weights = data.mixture.array if planner is None else planner.weights
    works = [row.work for row in getattr(planner, "rows", ()) if row.work is not None]
    cost = None
    if planner is not None and works:
        length = Length(len(sizes), steps or episode, batch_size)
        cost = works[0](planner.settings(), length) / length.steps
    drawn = (steps or 0) * batch_size
    return Start(
        method="" if planner is None else planner.method,
        learned=planner is not None and planner.learns,
        domains=len(sizes),
        batch_size=batch_size,
        step=trainer.global_step,
        steps=steps,
        episode=episode,
        measured=measured * batch_size / len(sizes) if measured else None,
        cost=None if cost is None or math.isnan(cost) else cost,
        passes={
            name: drawn * float(share) / size
            for (name, size), share in zip(sizes.items(), weights, strict=True)
        },
        frozen=getattr(planner, "freeze_after", None) or 1.0,
    )


def start_lines(start: Start) -> list[str]:
    """Return what the run will do, what it costs, and what of it is too little to learn from."""
    steps, episode = start.steps, start.episode
    head = "training at given weights"
    if start.learned:
        head = f"learning the weights of {counted(start.domains, 'domain')} by {start.method}"
    length = "no limit of steps" if steps is None else counted(steps, "step")
    length += f" of {counted(start.batch_size, 'sample')}"
    if start.step:
        length += f", from step {start.step} on"
    if steps is not None and start.learned:
        length += f"; {counted(-(-steps // episode), 'episode')} of {counted(episode, 'step')}"
        length += f", {counted(start.updates or 0, 'update')}"
    lines = [f"{head}: {length}"]
    parts = []
    if start.learned and start.measured is not None:
        parts.append(
            f"an update measures {counted(short(start.measured), 'sample')} of each domain"
        )
    if start.cost is not None:
        times = "" if short(start.cost) == "1" else f"{short(start.cost)} times "
        parts.append(
            f"the run costs {times}as much as plain training (forward and backward passes)"
        )
    if parts:
        lines.append("; ".join(parts))
    if steps is not None:
        lines.append(f"passes over each domain at these weights: {listed(start.passes)}")
        without = [name for name, passes in start.passes.items() if not passes]
        if without and start.steps:
            names = first_names(without, MOST_NAMES)
            lines.append(f"{len(without)} of {start.domains} domains begin without weight: {names}")
    return lines + warnings_of(start) if start.learned else lines


def warnings_of(start: Start) -> list[str]:
    """Return a sentence for each number that is too small to learn from."""
    lines = []
    updates, steps = start.updates, start.steps
    if updates is not None and steps is not None and updates < ENOUGH_UPDATES:
        enough = math.ceil(ENOUGH_UPDATES * start.episode / start.frozen)
        lines.append(
            f"{counted(updates, 'update')} in {counted(steps, 'step')} "
            f"{'is' if updates == 1 else 'are'} too few to learn weights "
            f"from: raise max_steps to {enough} "
            f"({ENOUGH_UPDATES} updates) or more."
        )
    if start.measured is not None and start.measured < ENOUGH_SAMPLES:
        lines.append(
            f"{counted(short(start.measured), 'measured sample')} of each domain "
            f"{'makes' if short(start.measured) == '1' else 'make'} noisy updates: raise "
            f"measure_batches for {ENOUGH_SAMPLES} or more."
        )
    if start.steps is not None and max(start.passes.values()) > MOST_PASSES:
        most = max(start.passes, key=start.passes.__getitem__)
        lines.append(
            f"domain {most!r} is passed over {short(start.passes[most])} times at these weights: "
            "lower max_steps or batch_size, or give it more data."
        )
    return lines


def listed(passes: dict[str, float]) -> str:
    """Write the passes over each domain; of more than 8 domains the fewest and the most.

    >>> listed({"web": 0.314, "books": 22.9})
    'web 0.31, books 23'
    """
    if len(passes) <= MOST_NAMES:
        return ", ".join(f"{name} {short(value)}" for name, value in passes.items())
    least, most = min(passes, key=passes.__getitem__), max(passes, key=passes.__getitem__)
    return f"{short(passes[least])} ({least}) to {short(passes[most])} ({most})"


def short(value: float) -> str:
    """Write two digits, or all digits of a larger whole number.

    >>> short(0.0314), short(1.0), short(1.97), short(128.4)
    ('0.031', '1', '2', '128')
    """
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
