"""The speed of planning and of many domains, and the wait for data where an episode starts.

`python tests/benchmarks/speed.py` prints these sections, about 10 min, or those that are named:

- planning: milliseconds to plan a batch of 256;
- domains: an episode with the monitor and TensorBoard, by the number of domains;
- stall: how much longer training waits for the data of an episode's first batch than for that of
  another one, as a share of a step; and "boundary", the same of all time between two batches.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from common import fit, medians, random_data, tandem, text_data, wait
from lightning.pytorch import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from record import Record, Row, arguments, at_most, finish, parse, plot, run_arguments, show
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _BaseDataLoaderIter

from tandem_pl.callbacks import MixtureMonitor
from tandem_pl.episode import TRAIN, Segment

NAME = "speed"
PLANNED = 256  # samples in a planned batch
PLOTS = (
    plot("Milliseconds to plan a batch", "domains", "ms", by=("samples", "weights")),
    plot("An episode over one of the fewest domains", "domains", "ratio"),
)
Section = Iterator[tuple[Row, list[Row]]]  # rows, each with the goals that it is judged by


# ---- planning and many domains ----


def planning(options: argparse.Namespace) -> Section:
    """Plan batches as the data loader does, for equal weights and for weights 1 / rank."""
    for size in (20, 100_000):
        for kind in ("uniform", "1/rank"):
            for count in options.domains:
                runs = [plan(count, size, kind, options.batches) for _ in range(options.repeats)]
                row = sorted(runs, key=lambda row: row["ms"])[len(runs) // 2]
                what = f"ms to plan {PLANNED} samples of {count} domains of {size}, {kind}"
                judged = count == max(options.domains)
                yield row, [at_most(what, row["ms"], 1.0)] if judged else []


def plan(domains: int, size: int, kind: str, batches: int) -> Row:
    """Return the time of the first batch and the median of the others."""
    data = random_data(domains, 1, PLANNED, size=size)
    data.setup("fit")
    weights = 1 / np.random.default_rng(0).permutation(np.arange(1.0, domains + 1))
    weights = np.ones(domains) if kind == "uniform" else weights
    data.begin_episode([Segment(TRAIN, batches, tuple((weights / weights.sum()).tolist()))])
    times, start = [], time.perf_counter()
    for planned in data.sampler:
        times.append(1e3 * (time.perf_counter() - start))
        data.sampler.consume(planned.step)  # as training does
        start = time.perf_counter()
    row = {"domains": domains, "samples": size, "weights": kind, "batches": len(times)}
    return row | {"first_ms": times[0], "ms": statistics.median(times[1:])}


def domains(options: argparse.Namespace) -> Section:
    """Run the same episode, batch and network with more and more domains."""

    def run(count: int) -> list[float]:
        data = random_data(count, options.block, options.batch)
        module, method = tandem(options)
        settings = {"max_epochs": 1 + options.episodes, "logger": TensorBoardLogger}
        return fit(module, data, [method, MixtureMonitor()], options.device, **settings)

    runs = {count: lambda count=count: run(count) for count in options.domains}
    times = medians(runs, options.repeats)
    for count, seconds in times.items():
        row = {"domains": count, "seconds": seconds, "ratio": seconds / times[options.domains[0]]}
        judged = (options.domains[0], count) == (7, 1000)
        goal = at_most("an episode of 1000 domains over one of 7", row["ratio"], 1.10)
        yield row, [goal] if judged else []


# ---- data ----


class Steps(Callback):
    """Times every batch: waiting for its data, between it and the one before, its step.

    Put it first: what other callbacks do after a batch then counts as between batches.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.rows: list[Row] = []
        self._last = time.perf_counter()
        self._waited = 0.0

    def time(self, function: Callable) -> Callable:
        """Return the function, whose time counts as waiting for data."""

        def timed(*args: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args)
            finally:
                self._waited += time.perf_counter() - start

        return timed

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        """Add a row: the data is there."""
        now = time.perf_counter()
        row = {"epoch": trainer.current_epoch, "batch": batch_idx, "phase": batch.phase}
        self.rows.append(row | {"data": self._waited, "between": now - self._last})
        self._last, self._waited = now, 0.0

    def on_train_batch_end(self, *_: Any) -> None:
        """Complete the row: the step is done."""
        wait(self.device)
        now = time.perf_counter()
        self.rows[-1]["step"], self._last = now - self._last, now


def stalls(rows: Sequence[Row]) -> Row:
    """Return medians over all episodes but the first, whose first batch sets everything up."""
    rows = [row for row in rows if row["epoch"] > 0]
    first = [row for row in rows if row["batch"] == 0]
    others = [row for row in rows if row["batch"] > 0 and row["phase"] == TRAIN]

    def median(key: str, among: Sequence[Row]) -> float:
        return statistics.median(row[key] for row in among)

    step = median("step", others)
    row = {"step_ms": 1e3 * step}
    for name, key in (("stall", "data"), ("boundary", "between")):
        row[name] = (median(key, first) - median(key, others)) / step
    return row


def time_steps(options: argparse.Namespace, workers: int) -> list[Row]:
    """Return the times of one run on text, batch by batch."""
    data = text_data(options.block, options.batch, options.quick, num_workers=workers)
    module, method = tandem(options)
    steps = Steps(options.device)
    settings = {"max_epochs": 1 + options.episodes, "logger": TensorBoardLogger}
    with (
        patch.object(DataLoader, "__iter__", steps.time(DataLoader.__iter__)),
        patch.object(_BaseDataLoaderIter, "__next__", steps.time(_BaseDataLoaderIter.__next__)),
    ):
        fit(module, data, [steps, method, MixtureMonitor()], options.device, **settings)
    return steps.rows


def stall(options: argparse.Namespace) -> Section:
    """Run episodes on text, without workers and with them."""
    for workers in options.workers:
        rows = [row for _ in range(options.repeats) for row in time_steps(options, workers)]
        row = {"workers": workers, **stalls(rows)}
        what = f"stall where an episode starts, in steps, {workers} workers"
        yield row, [at_most(what, row["stall"], 0.10)]


SECTIONS = {"planning": planning, "domains": domains, "stall": stall}


def main(argv: Sequence[str] | None = None) -> Record:
    """Run the sections."""
    parser = arguments(__doc__, repeats=3)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; default: all")
    parser.add_argument("--domains", type=int, nargs="+", default=[7, 100, 1000, 10_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--batches", type=int, default=200, help="that are planned")
    parser.add_argument("--episodes", type=int, default=5, help="that are timed, of each run")
    run_arguments(parser, 45)
    few = {"domains": [7, 100], "workers": [0], "batches": 5, "episodes": 1}
    least = {"free": 2, "probe": 1, "measure": 1, "size": "tiny", "block": 16, "batch": 4}
    options = parse(parser, argv, **few, **least)
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"{unknown.pop()!r} is no section: give some of {', '.join(SECTIONS)}.")
    rows, goals = [], []
    for name in options.sections or SECTIONS:
        print(f"-- {name}: {(SECTIONS[name].__doc__ or '').strip()}", flush=True)
        for row, judged in SECTIONS[name](options):
            rows.append(show(row))
            goals += judged
    keys = {key for row in rows for key in row}
    plots = [spec for spec in PLOTS if {spec["x"], *spec["y"], *spec["by"]} <= keys]
    return finish(NAME, options, rows, goals, plots)


if __name__ == "__main__":
    main()
