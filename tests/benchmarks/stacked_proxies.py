"""Proxies of `tandem search run` that are trained together, over those that are trained alone.

`python tests/benchmarks/stacked_proxies.py` trains byte transformers of 0.3 M parameters: one as
`MixtureModule` does, in Lightning, and stacks of them, each on a mixture of its own. `speedup` is
how many more batches a second all networks of a stack get together than the one gets. `--device
cuda` takes larger stacks.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

import numpy as np
import torch
from common import adamw, network, text_data, wait
from overhead import Contest
from record import Record, Row, arguments, at_most, finish, parse, plot, run_arguments, show

from tandem_pl.objectives import CausalLanguageModeling
from tandem_pl.search.swarm.batches import StackedBatches
from tandem_pl.search.swarm.stack import Stack
from tandem_pl.training.mixture_module import MixtureModule

NAME = "stacked_proxies"
COUNTS = {"cpu": [1, 4, 16], "cuda": [1, 8, 32, 128, 384, 512]}
WARM = 5  # steps that are not timed
SPEEDUP = {"cpu": 1.0, "cuda": 20.0}  # at least, of the largest stack


def stacked(contest: Contest, count: int, steps: int, seed: int) -> Row:
    """Train `count` networks together; return milliseconds a step, and those to plan its data."""
    device = torch.device(contest.device)
    module = MixtureModule(contest.network(), CausalLanguageModeling(), adamw)
    stack = Stack(module, count, device)
    domains = len(contest.data.train_sets)
    mixtures = np.random.default_rng(seed).dirichlet(np.ones(domains), count)
    batches = StackedBatches(contest.data, mixtures, WARM + steps, device)
    iterator, planning = iter(batches), 0.0
    for step in range(WARM + steps):
        if step == WARM:
            wait(device)
            start, planning = time.perf_counter(), 0.0
        asked = time.perf_counter()
        samples = next(iterator)
        planning += time.perf_counter() - asked
        stack.train_step(samples, contest.data.batch_size, step)
    wait(device)
    return {
        "ms": 1e3 * (time.perf_counter() - start) / steps,
        "planning_ms": 1e3 * planning / steps,
    }


def rows_of(contest: Contest, options: argparse.Namespace) -> list[Row]:
    """Return a row for each size of a stack."""
    alone, found = [], {count: [] for count in options.counts}
    for repeat in range(options.repeats):
        alone += contest.mixture(options.steps, 2)
        for count in options.counts[:: -1 if repeat % 2 else 1]:
            found[count].append(stacked(contest, count, options.steps, repeat))
    one = 1e3 * statistics.median(alone)
    rows = []
    for count, runs in found.items():
        row: Row = {"networks": count, "alone_ms": one}
        row |= {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        row["speedup"] = count * one / row["ms"]
        if options.device == "cuda":
            row["minutes_of_512_x_1000"] = 512 / count * row["ms"] / 60
        rows.append(show(row))
    return rows


def main(argv: Sequence[str] | None = None) -> Record:
    """Compare stacks with one network."""
    parser = arguments(__doc__, repeats=2)
    run_arguments(parser, 0, size="300k", block=64, batch=16)
    parser.add_argument("--counts", type=int, nargs="+", help="networks in a stack")
    parser.add_argument("--steps", type=int, default=50)
    options = parse(parser, argv, size="tiny", block=16, counts=[1, 2], steps=3)
    if options.counts is None:
        options.counts = COUNTS[options.device]
    data = text_data(options.block, options.batch, options.quick)
    contest = Contest(data, options.size, options.device)
    parameters = sum(p.numel() for p in network(options.size, options.block).parameters())
    print(f"{parameters} parameters, batches of {options.batch} x {options.block}", flush=True)
    rows = rows_of(contest, options)
    least = SPEEDUP[options.device]
    share = at_most(
        f"time of a network's step in a stack of {rows[-1]['networks']} over that of one alone",
        1 / rows[-1]["speedup"],
        1 / least,
    )
    plots = [plot("Batches a second of a stack over those of one network", "networks", "speedup")]
    return finish(NAME, options, rows, [share], plots)


if __name__ == "__main__":
    main()
