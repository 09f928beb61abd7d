"""Shared by the benchmarks: networks by size, data, trainers, and runs that take turns."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, TypeVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import Dataset

from tandem_pl import TandemModule
from tandem_pl.callbacks import TandemReweighting
from tandem_pl.datamodules import EnvironmentCorpus, MixtureDataModule
from tandem_pl.networks import causal_language_model
from tandem_pl.objectives import CausalLanguageModeling

Key, Result = TypeVar("Key"), TypeVar("Result")

#: (hidden size, layers, heads, vocabulary) of GPT-NeoX networks; the last two are Pythia's shapes.
SIZES = {
    "tiny": (32, 1, 2, 257),
    "300k": (96, 2, 4, 257),
    "3m": (256, 4, 4, 257),
    "25m": (512, 8, 8, 257),
    "160m": (768, 12, 12, 50_304),
    "410m": (1024, 24, 16, 50_304),
}


# ---- networks and data ----


def network(size: str, block: int) -> nn.Module:
    """Return a language model for blocks of `block` tokens, with the same weights at each call."""
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
    """Return the optimizer of all runs, for parameters or groups of them; fused on a GPU."""
    items = list(parameters)
    first = next(iter(items[0]["params"])) if isinstance(items[0], dict) else items[0]
    return torch.optim.AdamW(items, 1e-3, fused=first.is_cuda or None)


class RandomBlocks(Dataset):
    """`size` blocks of random tokens, which repeat 64 rows: a sample is {"input_ids": [L]}."""

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
    """Return `domains` domains of random tokens, and three target domains."""
    rows = RandomBlocks(size, block, vocabulary)
    train = {f"d{number:05d}": rows for number in range(domains)}
    target = {f"t{number}": rows for number in range(3)}
    return MixtureDataModule(train, target, batch_size=batch, **options)


def text_data(block: int, batch: int, quick: bool = False, **options: Any) -> MixtureDataModule:
    """Return the bytes of the installed packages' text, memory-mapped; random ones if `quick`."""
    if quick:
        data = random_data(7, block, batch, **options)
    else:
        data = EnvironmentCorpus(batch_size=batch, block_size=block, **options)
    data.prepare_data()
    data.setup("fit")
    return data


# ---- runs ----


def tandem(options: argparse.Namespace) -> tuple[TandemModule, TandemReweighting]:
    """Return the module and the callback for the options of `record.run_arguments`."""
    module = TandemModule(network(options.size, options.block), CausalLanguageModeling(), adamw)
    return module, TandemReweighting(options.free, options.probe, options.measure)


class Stopwatch(Callback):
    """Times every epoch but the first, which warms everything up. Put it last."""

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self._since: float | None = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Append the seconds since the end of the epoch before."""
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
    """Train, and return the seconds of every epoch but the first.

    Args:
        module: the module to train.
        data: a data module or a loader.
        callbacks: of the run.
        device: "cpu" or "cuda"; one device.
        options: of the trainer, which writes and prints nothing by default. `logger` may be a
            function of a folder that is deleted after the run.
    """
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
        if callable(settings["logger"]):
            settings["logger"] = settings["logger"](folder)
        Trainer(callbacks=[*callbacks, watch], **settings).fit(module, data)
    return watch.epochs


def wait(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def alternate(runs: Mapping[Key, Callable[[], Result]], repeats: int) -> dict[Key, list[Result]]:
    """Do each run `repeats` times, in turns; every second round goes backwards: drift cancels.

    >>> order = []
    >>> _ = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    >>> "".join(order)
    'abba'
    """
    results: dict[Key, list[Result]] = {name: [] for name in runs}
    for repeat in range(repeats):
        for name in list(runs)[:: -1 if repeat % 2 else 1]:
            results[name].append(runs[name]())
    return results


def medians(runs: Mapping[Key, Callable[[], list[float]]], repeats: int) -> dict[Key, float]:
    """Return the median over all numbers that a name's runs return."""
    results = alternate(runs, repeats)
    return {name: statistics.median(chain(*lists)) for name, lists in results.items()}


def bound(free: int, probe: int, measure: float) -> float:
    """Return the cost of an episode over that of plain training for as many steps.

    >>> round(bound(45, 5, 4), 2)
    1.23
    """
    return (free + 3 * probe - 1 + 2 / 3 * measure) / (free + probe)
