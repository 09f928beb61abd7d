"""How fast the data comes, and whether training waits for it where an episode starts.

`python tests/benchmarks/data_path.py` reads memory-mapped text with 0 and with 2 workers:

- tokens a second of the loader alone, beside what the network takes while it trains;
- the stall: how much longer training waits for the data of an episode's first batch than for that
  of another one, as a share of a step; and "boundary", the whole time between an episode's last
  batch and the next one's first, Lightning's own work and the new weights included, beyond that
  between other batches.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

from breakdown import Parts
from common import (
    Record,
    Row,
    adamw,
    arguments,
    at_most,
    finish,
    fit,
    network,
    parse,
    plot,
    run_arguments,
    show,
    text_data,
    wait,
)
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _BaseDataLoaderIter

from tandem_pl import TandemModule
from tandem_pl.callbacks import TandemReweighting
from tandem_pl.episode import TRAIN
from tandem_pl.objectives import CausalLanguageModeling

NAME = "data_path"


class Waits(Callback):
    """Before each batch: seconds of waiting for its data, and since the last batch was done.

    Put it first, so that what other callbacks do at a batch's end is after it.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.rows: list[Row] = []
        self._end = self._waited = 0.0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The data is there."""
        waited = self.parts.seconds["data"]
        self._start = time.perf_counter()
        row = {"epoch": trainer.current_epoch, "batch": batch_idx, "phase": batch.phase}
        row |= {"data": waited - self._waited, "between": self._start - self._end}
        self.rows.append(row)
        self._waited = waited

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """The step is over."""
        wait(pl_module.device)
        self._end = time.perf_counter()
        self.rows[-1]["step"] = self._end - self._start


def stalls(rows: Sequence[Row]) -> dict[str, float]:
    """Medians over the episodes but the first, of which the first batch sets everything up."""
    rows = [row for row in rows if row["epoch"] > 0]
    first = [row for row in rows if row["batch"] == 0]
    others = [row for row in rows if row["batch"] > 0 and row["phase"] == TRAIN]

    def median(key: str, among: Sequence[Row]) -> float:
        return statistics.median(row[key] for row in among)

    step = median("step", others)
    return {
        "step_ms": 1e3 * step,
        "data_ms": 1e3 * median("data", others),
        "first_data_ms": 1e3 * median("data", first),
        "stall": (median("data", first) - median("data", others)) / step,
        "boundary": (median("between", first) - median("between", others)) / step,
    }


def loader_speed(data: Any, batches: int) -> float:
    """Tokens a second of the training loader alone."""
    loader = iter(data.train_dataloader())
    for _ in islice(loader, 3):  # workers start, files are opened
        pass
    start = time.perf_counter()
    tokens = sum(batch.samples["input_ids"].numel() for batch in islice(loader, batches))
    return tokens / (time.perf_counter() - start)


def main(argv: Sequence[str] | None = None) -> Record:
    """Command line."""
    parser = arguments(__doc__)
    parser.set_defaults(repeats=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    run_arguments(parser, 15)
    parser.add_argument("--batches", type=int, default=1000, help="of the loader alone")
    parser.add_argument("--episodes", type=int, default=10, help="that are timed, of each run")
    smallest = {"free": 2, "probe": 1, "measure": 1, "episodes": 2, "batches": 20}
    options = parse(parser, argv, size="tiny", block=16, batch=4, **smallest)

    def data(workers: int) -> Any:
        lengthy = {"num_workers": workers, "epoch_batches": options.batches + 3}
        return text_data(options.block, options.batch, options.quick, **lengthy)

    def episodes(workers: int) -> list[Row]:
        module = TandemModule(network(options.size, options.block), CausalLanguageModeling(), adamw)
        method = TandemReweighting(options.free, options.probe, options.measure)
        parts = Parts(options.device)
        waits = Waits(parts)
        parts.wrap(_BaseDataLoaderIter, "__next__", "data")
        parts.wrap(DataLoader, "__iter__", "data")
        try:
            epochs = 1 + options.episodes
            fit(module, data(workers), [waits, method], options.device, max_epochs=epochs)
        finally:
            parts.unwrap()
        return waits.rows

    rows, reach = [], []
    for workers in options.workers:
        alone = [loader_speed(data(workers), options.batches) for _ in range(options.repeats)]
        found = stalls([row for _ in range(options.repeats) for row in episodes(workers)])
        used = options.batch * options.block / (1e-3 * found["step_ms"])
        row: Row = {"workers": workers, "loader_tokens_a_second": statistics.median(alone)}
        row["network_tokens_a_second"] = used
        row["loader_over_network"] = row["loader_tokens_a_second"] / used
        rows.append(show(row | found))
        what = f"stall where an episode starts, in steps, {workers} workers"
        reach.append(at_most(what, found["stall"], 0.10))
    plots = [
        plot("Tokens a second", "workers", "loader_tokens_a_second", "network_tokens_a_second")
    ]
    return finish(NAME, options, rows, reach, plots)


if __name__ == "__main__":
    main()
