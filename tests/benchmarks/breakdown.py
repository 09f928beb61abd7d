"""Where the seconds of an episode go: free, probe, sync, measure, data, callbacks, and the rest.

`python tests/benchmarks/breakdown.py` takes the time between entering and leaving the functions
that do each part; time inside of an inner part counts for that one alone, so the parts add up to
the whole. "rest" is Lightning's loop. On a GPU the device is waited for at each change of part.
Beside the share of each part stands what the formula E + (3K - 1) + 2/3 V gives it.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from common import (
    Record,
    adamw,
    arguments,
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
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _BaseDataLoaderIter

from tandem_pl import TandemModule
from tandem_pl.callbacks import MixtureMonitor, TandemReweighting
from tandem_pl.objectives import CausalLanguageModeling

NAME = "breakdown"
PARTS = ("free", "probe", "sync", "measure", "data", "callbacks", "rest")


class Parts(Callback):
    """Exclusive seconds of each part, from the end of the first epoch on."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()
        self.epochs = -1  # whole ones; the first does not count
        self._open = ["rest"]
        self._since = 0.0
        self._restore: list[Callable[[], None]] = []

    def wrap(self, owner: Any, method: str, part: str) -> None:
        """Gives the seconds inside `owner.method` to `part`, until `unwrap`."""
        inner = getattr(owner, method)
        own = method in vars(owner)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.switch()
            self._open.append(part)
            self.calls[part] += 1
            try:
                return inner(*args, **kwargs)
            finally:
                self.switch()
                self._open.pop()

        setattr(owner, method, timed)
        self._restore.append(
            (lambda: setattr(owner, method, inner)) if own else (lambda: delattr(owner, method))
        )

    def unwrap(self) -> None:
        """As it was."""
        while self._restore:
            self._restore.pop()()

    def switch(self) -> None:
        """Books the time since the last change on the part that was open."""
        wait(self.device)
        now = time.perf_counter()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts over after the first epoch; afterwards counts whole ones."""
        self.switch()
        if self.epochs < 0:
            self.seconds.clear()
            self.calls.clear()
        self.epochs += 1
        self.whole = dict(self.seconds)


def main(argv: Sequence[str] | None = None) -> Record:
    """Command line."""
    parser = arguments(__doc__)
    run_arguments(parser, 45)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=5, help="that are timed")
    smallest = {"free": 3, "probe": 1, "measure": 1, "episodes": 2}
    options = parse(parser, argv, size="tiny", block=16, batch=4, **smallest)

    data = text_data(options.block, options.batch, options.quick, num_workers=options.workers)
    module = TandemModule(network(options.size, options.block), CausalLanguageModeling(), adamw)
    method = TandemReweighting(options.free, options.probe, options.measure)
    monitor = MixtureMonitor()
    parts = Parts(options.device)
    for name, part in (
        ("train_step", "free"),
        ("probe_step", "probe"),
        ("sync", "sync"),
        ("measure_step", "measure"),
    ):
        parts.wrap(module, name, part)
    for callback in (method, monitor):
        for hook in ("on_train_epoch_start", "on_train_batch_end", "on_train_epoch_end"):
            parts.wrap(callback, hook, "callbacks")
    parts.wrap(_BaseDataLoaderIter, "__next__", "data")
    parts.wrap(DataLoader, "__iter__", "data")
    parts.wrap(module, "_apply_batch_transfer_handler", "data")
    try:
        fit(
            module,
            data,
            [method, monitor, parts],
            options.device,
            max_epochs=1 + options.episodes,
            logger=lambda folder: TensorBoardLogger(folder),
        )
    finally:
        parts.unwrap()

    total = sum(parts.whole.values())
    formula = {
        "free": options.free,
        "probe": 3 * options.probe - 1,
        "measure": 2 / 3 * options.measure,
    }
    rows = []
    for part in PARTS:
        seconds = parts.whole.get(part, 0.0)
        row = {"part": part, "ms_an_episode": 1e3 * seconds / options.episodes}
        row["share"] = seconds / total
        row["share_by_formula"] = formula.get(part, 0.0) / sum(formula.values())
        row["calls_an_episode"] = parts.calls[part] / options.episodes
        rows.append(show(row))
    plots = [plot("Share of an episode's time", "part", "share", "share_by_formula")]
    return finish(NAME, options, rows, [], plots)


if __name__ == "__main__":
    main()
