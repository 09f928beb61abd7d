"""Milliseconds to plan a batch of 256 for 7 to 10 000 domains, of 20 and of 100 000 samples.

`python tests/benchmarks/sampling.py` plans training batches as the data loader has it done, for
uniform weights and for weights that fall as 1 / rank. "first" is the first batch of a run, with
what is set up once; "ms" is the median of the others.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import numpy as np
from common import Record, Row, arguments, at_most, finish, parse, plot, show

from tandem_pl.datamodules.planning.sampler import MixtureBatchSampler, Stream
from tandem_pl.episode import TRAIN, WITHOUT_STEP, Segment

NAME = "sampling"
SECONDS = 2.0  # a sampler that keeps the order of each domain would fill the memory


def shares(kind: str, domains: int) -> np.ndarray:
    """Weights [M], summing to 1."""
    weights = np.ones(domains)
    if kind == "1/rank":
        weights = np.random.default_rng(0).permutation(1 / np.arange(1, domains + 1))
    return weights / weights.sum()


def plan(domains: int, size: int, kind: str, batch: int, batches: int) -> Row:
    """Times of one setting."""
    sizes = {f"d{number:05d}": size for number in range(domains)}
    start = time.perf_counter()
    streams = {name: Stream(name, sizes, 0, "debt") for name in ("train", *WITHOUT_STEP)}
    sampler = MixtureBatchSampler(streams, None, batch)
    sampler.begin([Segment(TRAIN, batches, tuple(shares(kind, domains).tolist()))])
    times, begun = [], start
    for planned in sampler:
        now = time.perf_counter()
        times.append(1e3 * (now - start))
        assert len(planned.indices) == batch
        sampler.consume(planned.step)  # as training does
        start = time.perf_counter()
        if start - begun > SECONDS and len(times) > 2:
            break
    row = {"domains": domains, "samples": size, "weights": kind, "batches": len(times)}
    return row | {"first_ms": times[0], "ms": statistics.median(times[1:])}


def main(argv: Sequence[str] | None = None) -> Record:
    """Command line."""
    parser = arguments(__doc__)
    parser.add_argument("--domains", type=int, nargs="+", default=[7, 100, 1000, 10_000])
    parser.add_argument("--samples", type=int, nargs="+", default=[20, 100_000])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--batches", type=int, default=200)
    options = parse(parser, argv, domains=[7, 1000], batches=5)
    rows = [
        plan(domains, size, kind, options.batch, options.batches)
        for _ in range(options.repeats)
        for size in options.samples
        for kind in ("uniform", "1/rank")
        for domains in options.domains
    ]
    runs: dict[tuple, list[Row]] = {}
    for row in rows:
        runs.setdefault((row["samples"], row["weights"], row["domains"]), []).append(row)
    shown = [show(sorted(found, key=lambda r: r["ms"])[len(found) // 2]) for found in runs.values()]
    most = max(options.domains)
    worst = max(row["ms"] for row in shown if row["domains"] == most)
    reach = [at_most(f"ms to plan {options.batch} samples of {most} domains", worst, 1.0)]
    plots = [plot("Milliseconds to plan a batch", "domains", "ms", by=("samples", "weights"))]
    return finish(NAME, options, shown, reach, plots)


if __name__ == "__main__":
    main()
