"""What the reference costs, and what the framework costs, against plain training.

`python tests/benchmarks/overhead.py` alternates runs on the same network, blocks of text, batch
size and optimizer, for the same number of steps:

- bare: a PyTorch loop over a shuffled DataLoader;
- plain: a minimal LightningModule with automatic optimization over the same loader;
- mixture: `MixtureModule` over `MixtureDataModule`;
- tandem: `TandemModule` with `TandemReweighting`, beside the bound
  (E + 3K - 1 + 2/3 V) / (E + K) on its ratio to plain;
- joined: the same with `join_probe`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from common import adamw, bound, fit, medians, network, text_data, wait
from lightning.pytorch import LightningModule
from record import Record, Row, arguments, at_most, finish, parse, plot, run_arguments, show
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader

from tandem_pl import MixtureModule, TandemModule
from tandem_pl.callbacks import TandemReweighting
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.objectives import CausalLanguageModeling

NAME = "overhead"
Loss = Callable[[nn.Module, Mapping[str, Tensor]], Tensor]


def next_token_loss(network: nn.Module, samples: Mapping[str, Tensor]) -> Tensor:
    """Return the mean over a batch, written as it would be without tandem_pl."""
    logits = network(input_ids=samples["input_ids"]).logits[:, :-1].float()
    labels = samples["input_ids"][:, 1:]
    return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())


class Plain(LightningModule):
    """Plain Lightning: automatic optimization and one network."""

    def __init__(self, network: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss."""
        return self.loss(self.network, batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer of all runs."""
        return adamw(self.network.parameters())


class Contest:
    """The four kinds of run, on one network and data; each returns seconds a step by epoch.

    Args:
        data: domains of blocks, set up.
        size: of the network, a key of `SIZES`.
        device: "cpu" or "cuda".
        compile: whether networks are compiled.
        loss: of a batch, in plain Lightning.
        options: of the trainer, such as precision.
    """

    def __init__(
        self,
        data: MixtureDataModule,
        size: str,
        device: str = "cpu",
        compile: bool = False,
        loss: Loss = next_token_loss,
        **options: Any,
    ) -> None:
        self.data, self.size, self.device, self.loss = data, size, device, loss
        self.compile, self.options = compile, options
        self.blocks: ConcatDataset = ConcatDataset(list(data.train_sets.values()))

    def network(self) -> nn.Module:
        """Return a network with the same weights each time."""
        return network(self.size, len(self.blocks[0]["input_ids"]))

    def loader(self) -> DataLoader:
        """Return a shuffled loader over all domains."""
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

    def bare(
        self, steps: int, epochs: int, loss: Loss = next_token_loss, module: nn.Module | None = None
    ) -> list[float]:
        """Train by a PyTorch loop; `module` in place of the network."""
        device = torch.device(self.device)
        module = (module or self.network()).to(device)
        if self.compile:
            module.compile()
        mixed = self.options.get("precision") == "bf16-mixed"
        optimizer = adamw(module.parameters())
        loader, seconds = self.loader(), []
        for _ in range(epochs):
            start = time.perf_counter()
            for samples in islice(loader, steps):
                optimizer.zero_grad()
                moved = {key: value.to(device) for key, value in samples.items()}
                with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
                    value = loss(module, moved)
                value.backward()
                optimizer.step()
            wait(device)
            seconds.append((time.perf_counter() - start) / steps)
        return seconds[1:]

    def plain(self, steps: int, epochs: int) -> list[float]:
        """Train by plain Lightning."""
        module = Plain(self.network(), self.loss)
        if self.compile:
            module.network.compile()
        return self._fit(module, self.loader(), steps, epochs, limit_train_batches=steps)

    def mixture(self, steps: int, epochs: int) -> list[float]:
        """Train on a given mixture."""
        network = self.network()
        module = MixtureModule(network, CausalLanguageModeling(), adamw, compile=self.compile)
        data = MixtureDataModule(
            self.data.train_sets,
            batch_size=self.data.batch_size,
            weights="proportional",
            epoch_batches=steps,
            num_workers=self.data.num_workers,
        )
        return self._fit(module, data, steps, epochs)

    def tandem(
        self, free: int, probe: int, measure: int, epochs: int, join: bool = False
    ) -> list[float]:
        """Learn the mixture; the steps are the proxy's."""
        module = TandemModule(
            self.network(),
            CausalLanguageModeling(),
            adamw,
            compile=self.compile,
            join_probe=join,
        )
        method = TandemReweighting(free, probe, measure)
        return self._fit(module, self.data, free + probe, epochs, callbacks=[method])

    def _fit(
        self, module: LightningModule, data: Any, steps: int, epochs: int, **options: Any
    ) -> list[float]:
        options |= {"device": self.device, "max_epochs": epochs, **self.options}
        return [seconds / steps for seconds in fit(module, data, **options)]


def compare(contest: Contest, free: int, probe: int, measure: int, steps: int, repeats: int) -> Row:
    """Return the cost of TANDEM over plain Lightning at one setting of the episode."""
    episode = free + probe
    epochs = 1 + max(1, steps // episode)
    runs = {
        "plain": lambda: contest.plain(episode, epochs),
        "tandem": lambda: contest.tandem(free, probe, measure, epochs),
        "joined": lambda: contest.tandem(free, probe, measure, epochs, join=True),
    }
    times = medians(runs, repeats)
    row: Row = {"E": free, "K": probe, "V": measure, "plain_ms": 1e3 * times["plain"]}
    row["ratio"] = times["tandem"] / times["plain"]
    row["ratio_joined"] = times["joined"] / times["plain"]
    row["bound"] = bound(free, probe, measure)
    row["ratio_over_bound"] = row["ratio"] / row["bound"]
    return row


def compare_paths(contest: Contest, steps: int, repeats: int) -> Row:
    """Return the cost of plain Lightning and of `MixtureModule` over a bare loop."""
    steps, epochs = max(1, steps // 4), 5  # a short epoch, and four that count
    runs = {
        "bare": lambda: contest.bare(steps, epochs),
        "plain": lambda: contest.plain(steps, epochs),
        "mixture": lambda: contest.mixture(steps, epochs),
    }
    times = medians(runs, repeats)
    row: Row = {"path": "MixtureModule", "bare_ms": 1e3 * times["bare"]}
    row["plain_over_bare"] = times["plain"] / times["bare"]
    row["mixture_over_plain"] = times["mixture"] / times["plain"]
    row["mixture_over_bare"] = times["mixture"] / times["bare"]
    return row


def main(argv: Sequence[str] | None = None) -> Record:
    """Run all four kinds, and TANDEM for each length of the free phase."""
    parser = arguments(__doc__)
    run_arguments(parser, [15, 45, 95])
    parser.add_argument("--steps", type=int, default=100, help="proxy steps that are timed")
    least = {"free": [3], "probe": 1, "measure": 1, "steps": 4}
    options = parse(parser, argv, **least, size="tiny", block=16, batch=4)
    data = text_data(options.block, options.batch, options.quick)
    contest = Contest(data, options.size, options.device)
    options.parameters = contest.network().num_parameters()
    print(f"{options.parameters / 1e6:.2f} M parameters, batch {options.batch} x {options.block}")
    longest, batches = max(options.free) + options.probe, len(contest.loader())
    if longest > batches:
        parser.error(f"an episode of {longest} steps needs more than the data's {batches} batches.")

    path = show(compare_paths(contest, options.steps, options.repeats))
    rows = [
        show(compare(contest, E, options.probe, options.measure, options.steps, options.repeats))
        for E in options.free
    ]
    goals = [at_most("MixtureModule over a bare PyTorch loop", path["mixture_over_bare"], 1.05)]
    goals += [
        at_most(f"TANDEM over its bound, E = {row['E']}", row["ratio_over_bound"], 1.03)
        for row in rows
    ]
    plots = [plot("TANDEM over plain Lightning", "E", "ratio", "bound")]
    return finish(NAME, options, [path, *rows], goals, plots)


if __name__ == "__main__":
    main()
