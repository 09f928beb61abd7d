"""What the benchmarks share: networks by size, data, trainers, alternating runs and the record.

A benchmark is a script with `NAME` and `main(argv) -> record`. It prints ratios of medians of
alternating runs and, as its last line, the record as JSON:

    benchmark, quick, machine, settings   what was run, and where
    rows                                  one map of numbers a setting
    plots                                 {title, x, y, by}: keys of the rows, for `all.py`
    reach                                 {figure, value, limit, reached}: what is aimed at

With `--quick` everything is as small as it can be: it shows that the script works, not how fast.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import lightning
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import Dataset

import tandem_pl
from tandem_pl.datamodules import EnvironmentCorpus, MixtureDataModule
from tandem_pl.networks import causal_language_model

Record = dict[str, Any]
Row = dict[str, Any]
Result = TypeVar("Result")

#: (hidden size, layers, heads, vocabulary) of GPT-NeoX networks; "160m" is Pythia-160M's shape.
SIZES = {
    "tiny": (32, 1, 2, 257),
    "3m": (256, 4, 4, 257),
    "25m": (512, 8, 8, 257),
    "160m": (768, 12, 12, 50_304),
}


# ---- networks and data ----


def network(size: str, block: int) -> nn.Module:
    """A causal language model for blocks of `block` tokens, the same weights at each call."""
    hidden, layers, heads, vocabulary = SIZES[size]
    config = {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
        "max_position_embeddings": block,
    }
    return causal_language_model("gpt_neox", config)


def adamw(parameters: Iterable) -> torch.optim.Optimizer:
    """One optimizer for all, for parameters or groups of them; in one kernel on a GPU."""
    items = list(parameters)
    first = next(iter(items[0]["params"])) if isinstance(items[0], dict) else items[0]
    return torch.optim.AdamW(items, 1e-3, fused=first.is_cuda or None)


class RandomBlocks(Dataset):
    """`size` blocks of random tokens that all come from 64 rows: a sample is {"input_ids": [L]}."""

    def __init__(self, size: int, length: int, vocabulary: int, seed: int = 0) -> None:
        self.size = size
        generator = torch.Generator().manual_seed(seed)
        self.rows = torch.randint(vocabulary, (64, length), generator=generator)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.rows[index % len(self.rows)]}


def random_data(
    domains: int, block: int, batch: int, vocabulary: int = 257, size: int = 1000, **options: Any
) -> MixtureDataModule:
    """`domains` domains of random tokens, and three target domains."""
    rows = RandomBlocks(size, block, vocabulary)
    train = {f"d{number:05d}": rows for number in range(domains)}
    target = {f"t{number}": rows for number in range(3)}
    return MixtureDataModule(train, target, batch_size=batch, **options)


def text_data(block: int, batch: int, quick: bool = False, **options: Any) -> MixtureDataModule:
    """Bytes of the installed packages' text, memory-mapped; random ones where it must be quick."""
    if quick:
        data = random_data(7, block, batch, **options)
    else:
        data = EnvironmentCorpus(batch_size=batch, block_size=block, **options)
    data.prepare_data()
    data.setup("fit")
    return data


# ---- runs ----


def next_token_loss(network: nn.Module, samples: Mapping[str, Tensor]) -> Tensor:
    """Mean over a batch, as a user would write it without us."""
    logits = network(input_ids=samples["input_ids"]).logits[:, :-1].float()
    labels = samples["input_ids"][:, 1:]
    return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())


class Plain(LightningModule):
    """Plain Lightning: automatic optimization, one network, a shuffled loader."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """The loss."""
        return next_token_loss(self.network, batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The one all others have."""
        return adamw(self.network.parameters())


class Stopwatch(Callback):
    """Seconds of every epoch but the first, which warms everything up. Put it last."""

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self._since: float | None = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From the end of one epoch to the end of the next."""
        wait(pl_module.device)
        now = time.perf_counter()
        if self._since is not None:
            self.epochs.append(now - self._since)
        self._since = now


def fit(
    module: LightningModule,
    data: Any,
    callbacks: Sequence[Callback] = (),
    device: str = "cpu",
    **options: Any,
) -> list[float]:
    """Trains; seconds of every epoch but the first.

    Args:
        module: what is trained.
        data: a datamodule or a loader.
        callbacks: the run's own.
        device: "cpu" or "cuda", one of it.
        options: of the trainer; by default it writes and prints nothing.
    """
    source = "datamodule" if hasattr(data, "train_dataloader") else "train_dataloaders"
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "accelerator": "gpu" if device == "cuda" else "cpu",
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "limit_val_batches": 0,
            "default_root_dir": folder,
            **options,
        }
        if callable(settings["logger"]):  # made in the folder that goes when the run is over
            settings["logger"] = settings["logger"](folder)
        trainer = Trainer(callbacks=[*callbacks, watch], **settings)
        trainer.fit(module, **{source: data})
    return watch.epochs


def wait(device: torch.device) -> None:
    """Waits until the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def alternate(runs: Mapping[str, Callable[[], Result]], repeats: int) -> dict[str, list[Result]]:
    """Each run `repeats` times, in turns; every second round goes backwards, so drift cancels.

    >>> order = []
    >>> _ = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    >>> "".join(order)
    'abba'
    """
    results: dict[str, list[Result]] = {name: [] for name in runs}
    for repeat in range(repeats):
        for name in list(runs)[:: -1 if repeat % 2 else 1]:
            results[name].append(runs[name]())
    return results


def medians(runs: Mapping[str, Callable[[], list[float]]], repeats: int) -> dict[str, float]:
    """Median over all numbers that the runs of a name give."""
    results = alternate(runs, repeats)
    return {name: statistics.median(chain(*lists)) for name, lists in results.items()}


def bound(free: int, probe: int, measure: float) -> float:
    """Cost of an episode over that of plain training for as many steps.

    >>> round(bound(45, 5, 4), 2)
    1.23
    """
    return (free + 3 * probe - 1 + 2 / 3 * measure) / (free + probe)


# ---- command line and record ----


def arguments(text: str | None) -> argparse.ArgumentParser:
    """A parser with what all benchmarks take."""
    parser = argparse.ArgumentParser(description=(text or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smallest sizes: does it work?")
    parser.add_argument("--repeats", type=int, default=5, help="alternating runs of each kind")
    parser.add_argument("--threads", type=int, default=None, help="of torch; default: its own")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser


def run_arguments(
    parser: argparse.ArgumentParser,
    free: int | list[int],
    size: str = "3m",
    block: int = 128,
    batch: int = 8,
) -> None:
    """Adds the lengths of an episode's phases, the network and the batch, with their defaults."""
    many = {"nargs": "+"} if isinstance(free, list) else {}
    parser.add_argument("--free", type=int, default=free, **many)
    parser.add_argument("--probe", type=int, default=5)
    parser.add_argument("--measure", type=int, default=4)
    parser.add_argument("--size", choices=tuple(SIZES), default=size)
    parser.add_argument("--block", type=int, default=block)
    parser.add_argument("--batch", type=int, default=batch)


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, **quick: Any
) -> argparse.Namespace:
    """Options, with `quick` in place of the defaults where `--quick` is given."""
    first, _ = parser.parse_known_args(argv)
    if first.quick:
        parser.set_defaults(repeats=1, **quick)
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        message = "device=cuda needs a GPU, and torch sees none: give --device cpu and small sizes."
        parser.exit(2, f"{parser.prog}: {message}\n")
    if options.threads:
        torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    options.machine = machine(options.device)
    print(", ".join(f"{key} {value}" for key, value in options.machine.items()), flush=True)
    return options


def machine(device: str = "cpu") -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),  # before the start: 0 where nobody else is at work
        "torch": str(torch.__version__),
        "lightning": lightning.__version__,
        "tandem_pl": tandem_pl.__version__,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def at_most(figure: str, value: float, limit: float) -> Row:
    """A figure that is aimed at."""
    return {"figure": figure, "value": value, "limit": limit, "reached": bool(value <= limit)}


def plot(title: str, x: str, *y: str, by: Sequence[str] = ()) -> Row:
    """Lines of the rows' keys `y` over their key `x`, apart by the keys `by`; bars over text."""
    return {"title": title, "x": x, "y": list(y), "by": list(by)}


def show(row: Row) -> Row:
    """Prints a row, and gives it back."""
    cells = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
    print("  ".join(cells), flush=True)
    return row


def finish(
    name: str,
    options: argparse.Namespace,
    rows: list[Row],
    reach: Sequence[Row] = (),
    plots: Sequence[Row] = (),
) -> Record:
    """Prints the figures aimed at, and the record as one line of JSON; gives the record."""
    for figure in reach:
        word = "reached" if figure["reached"] else "NOT REACHED"
        print(f"{figure['figure']}: {figure['value']:.4g}, at most {figure['limit']:g}: {word}")
    settings = {k: v for k, v in vars(options).items() if k not in ("quick", "machine", "run")}
    record = {
        "benchmark": name,
        "quick": options.quick,
        "machine": options.machine,
        "settings": settings,
        "rows": rows,
        "reach": list(reach),
        "plots": list(plots),
    }
    print(json.dumps(record, default=str), flush=True)
    return record


def child(script: str, *extra: str) -> Row:
    """Runs a script in a process of its own; gives the JSON of its last line."""
    command = [sys.executable, script, *extra]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def parameters_of(module: nn.Module) -> int:
    """How many numbers."""
    return sum(math.prod(p.shape) for p in module.parameters())
