"""The speed of planning, of many domains, of other episodes, and of the data.

`python tests/benchmarks/speed.py` prints these sections, about 15 min, or those that are named:

- planning: milliseconds to plan a batch of 256;
- domains: an episode with the monitor and TensorBoard, by the number of domains;
- cost: TANDEM over plain Lightning for other E, K and V, beside its bound;
- stall: how much longer training waits for the data of an episode's first batch than for that of
  another one, as a share of a step; "boundary", the same of the whole time between two batches;
  and the loader's speed over the network's.
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
from overhead import Contest, compare
from record import Record, Row, arguments, at_most, finish, parse, plot, run_arguments, show
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _BaseDataLoaderIter

from tandem_pl.callbacks import MixtureMonitor
from tandem_pl.episode import TRAIN, Segment

NAME = "speed"
PLANNED = 256  # samples in a planned batch
#: (E, K, V): one of them changes at a time.
SETTINGS = (
    *((45, probe, 4) for probe in (1, 2, 5, 10, 20)),
    *((free, 5, 4) for free in (5, 15, 95)),
    *((45, 5, measure) for measure in (1, 16)),
)
PLOTS = (
    plot("Milliseconds to plan a batch", "domains", "ms", by=("samples", "weights")),
    plot("An episode over one of the fewest domains", "domains", "ratio"),
    plot("Cost over plain training", "setting", "ratio", "bound"),
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
    """Return the time of the first batch, setting up included, and the median of the others."""
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


def cost(options: argparse.Namespace) -> Section:
    """Change E, K and V one at a time."""
    data = text_data(options.block, options.batch, options.quick)
    contest = Contest(data, options.size, options.device)
    for free, probe, measure in ((2, 1, 1), (2, 2, 1)) if options.quick else SETTINGS:
        steps = options.episodes * (free + probe)
        row = compare(contest, free, probe, measure, steps, options.repeats)
        yield {"setting": f"E={free} K={probe} V={measure}"} | row, []


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


def loader_speed(options: argparse.Namespace, workers: int) -> float:
    """Return the tokens a second of the training loader alone."""
    epoch = {"epoch_batches": options.batches + 1, "num_workers": workers}
    data = text_data(options.block, options.batch, options.quick, **epoch)
    batches = iter(data.train_dataloader())
    next(batches)  # workers start, files are opened
    start = time.perf_counter()
    tokens = sum(batch.samples["input_ids"].numel() for batch in batches)
    return tokens / (time.perf_counter() - start)


def stall(options: argparse.Namespace) -> Section:
    """Run episodes on text, without workers and with them, and the loader alone."""
    for workers in options.workers:
        rows = [row for _ in range(options.repeats) for row in time_steps(options, workers)]
        found = stalls(rows)
        used = options.batch * options.block / (1e-3 * found["step_ms"])
        speed = statistics.median(loader_speed(options, workers) for _ in range(options.repeats))
        what = f"stall where an episode starts, in steps, {workers} workers"
        row = {"workers": workers, "loader_over_network": speed / used}
        yield row | found, [at_most(what, found["stall"], 0.10)]


SECTIONS = {"planning": planning, "domains": domains, "cost": cost, "stall": stall}


def main(argv: Sequence[str] | None = None) -> Record:
    """Run the sections."""
    parser = arguments(__doc__, repeats=3)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; default: all")
    parser.add_argument("--domains", type=int, nargs="+", default=[7, 100, 1000, 10_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--batches", type=int, default=200, help="planned, and loaded alone")
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
