"""What the reference costs, and what the framework costs, against plain training.

`python tests/benchmarks/overhead.py` alternates runs on the same network, blocks of text, batch
size and optimizer, for the same number of steps:

- bare: a PyTorch loop over a shuffled DataLoader;
- plain: a minimal LightningModule with automatic optimization over the same loader;
- mixture: `MixtureModule` over `MixtureDataModule`;
- tandem: `TandemModule` with `TandemReweighting`, beside the bound
  (E + 3K - 1 + 2/3 V) / (E + K) on its ratio to plain.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from common import (
    Plain,
    Record,
    Row,
    adamw,
    arguments,
    at_most,
    bound,
    finish,
    fit,
    medians,
    network,
    next_token_loss,
    parameters_of,
    parse,
    plot,
    run_arguments,
    show,
    text_data,
    wait,
)
from torch.utils.data import ConcatDataset, DataLoader

from tandem_pl import MixtureModule, TandemModule
from tandem_pl.callbacks import TandemReweighting
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.objectives import CausalLanguageModeling

NAME = "overhead"


class Contest:
    """The four kinds of run, on one network and data.

    Args:
        data: domains of blocks, set up.
        size: of the network, a key of `SIZES`.
        device: "cpu" or "cuda".
        compile: whether networks are compiled.
        options: of the trainer, such as precision.
    """

    def __init__(
        self,
        data: MixtureDataModule,
        size: str,
        device: str = "cpu",
        compile: bool = False,
        **options: Any,
    ) -> None:
        self.data, self.size, self.device = data, size, device
        self.compile, self.options = compile, options
        self.blocks: ConcatDataset = ConcatDataset(list(data.train_sets.values()))
        self.block = len(self.blocks[0]["input_ids"])

    def network(self) -> torch.nn.Module:
        """The same each time."""
        return network(self.size, self.block)

    def loader(self) -> DataLoader:
        """Shuffled, as a user would have it."""
        workers = self.data.num_workers
        return DataLoader(
            self.blocks,
            self.data.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=self.device == "cuda",
        )

    def bare(self, steps: int, epochs: int) -> list[float]:
        """Seconds a step, of every epoch but the first."""
        device = torch.device(self.device)
        module = self.network().to(device)
        optimizer = adamw(module.parameters())
        loader, seconds = self.loader(), []
        for _ in range(epochs):
            start = time.perf_counter()
            for samples in islice(loader, steps):
                optimizer.zero_grad()
                moved = {key: value.to(device) for key, value in samples.items()}
                next_token_loss(module, moved).backward()
                optimizer.step()
            wait(device)
            seconds.append((time.perf_counter() - start) / steps)
        return seconds[1:]

    def plain(self, steps: int, epochs: int) -> list[float]:
        """As above."""
        module = Plain(self.network())
        if self.compile:
            module.network.compile()
        options = {"max_epochs": epochs, "limit_train_batches": steps, **self.options}
        seconds = fit(module, self.loader(), device=self.device, **options)
        return [second / steps for second in seconds]

    def mixture(self, steps: int, epochs: int) -> list[float]:
        """As above."""
        module = MixtureModule(
            self.network(), CausalLanguageModeling(), adamw, compile=self.compile
        )
        data = MixtureDataModule(
            self.data.train_sets,
            batch_size=self.data.batch_size,
            weights="proportional",
            epoch_batches=steps,
            num_workers=self.data.num_workers,
        )
        seconds = fit(module, data, device=self.device, max_epochs=epochs, **self.options)
        return [second / steps for second in seconds]

    def tandem(self, free: int, probe: int, measure: int, epochs: int) -> list[float]:
        """As above, a step of the proxy."""
        module = TandemModule(self.network(), CausalLanguageModeling(), adamw, compile=self.compile)
        method = TandemReweighting(free, probe, measure)
        options = {"max_epochs": epochs, **self.options}
        seconds = fit(module, self.data, [method], self.device, **options)
        return [second / (free + probe) for second in seconds]


def compare(contest: Contest, free: int, probe: int, measure: int, steps: int, repeats: int) -> Row:
    """TANDEM against plain Lightning at one setting of the episode."""
    episode = free + probe
    epochs = 1 + max(1, steps // episode)
    runs = {
        "plain": lambda: contest.plain(episode, epochs),
        "tandem": lambda: contest.tandem(free, probe, measure, epochs),
    }
    times = medians(runs, repeats)
    ratio, least = times["tandem"] / times["plain"], bound(free, probe, measure)
    return {
        "E": free,
        "K": probe,
        "V": measure,
        "plain_ms": 1e3 * times["plain"],
        "ratio": ratio,
        "bound": least,
        "ratio_over_bound": ratio / least,
    }


def main(argv: Sequence[str] | None = None) -> Record:
    """Command line."""
    parser = arguments(__doc__)
    run_arguments(parser, [15, 45, 95])
    parser.add_argument("--steps", type=int, default=100, help="proxy steps that are timed")
    options = parse(
        parser, argv, free=[3], probe=1, measure=1, size="tiny", block=16, batch=4, steps=4
    )
    data = text_data(options.block, options.batch, options.quick)
    contest = Contest(data, options.size, options.device)
    numbers = parameters_of(contest.network())
    print(f"{numbers / 1e6:.2f} M parameters, batch {options.batch} x {options.block}")

    longest, there = max(options.free) + options.probe, len(contest.loader())
    if longest > there:
        parser.error(f"an episode of {longest} steps is more than the data's {there} batches.")
    steps, epochs = max(1, options.steps // 4), 5  # a short epoch, and four that count
    runs = {
        "bare": lambda: contest.bare(steps, epochs),
        "plain": lambda: contest.plain(steps, epochs),
        "mixture": lambda: contest.mixture(steps, epochs),
    }
    times = medians(runs, options.repeats)
    path: Row = {"path": "MixtureModule", "bare_ms": 1e3 * times["bare"]}
    path["plain_over_bare"] = times["plain"] / times["bare"]
    path["mixture_over_plain"] = times["mixture"] / times["plain"]
    path["mixture_over_bare"] = times["mixture"] / times["bare"]
    rows = [show(path)]
    for free in options.free:
        row = compare(contest, free, options.probe, options.measure, options.steps, options.repeats)
        rows.append(show(row))
    reach = [at_most("MixtureModule over a bare PyTorch loop", path["mixture_over_bare"], 1.05)]
    reach += [
        at_most(f"TANDEM over its bound, E = {row['E']}", row["ratio_over_bound"], 1.03)
        for row in rows[1:]
    ]
    options.parameters = numbers
    plots = [plot("TANDEM over plain Lightning", "E", "ratio", "bound")]
    return finish(NAME, options, rows, reach, plots)


if __name__ == "__main__":
    main()
