"""Memory of twins beside plain training, and of twin adapters beside plain LoRA fine-tuning.

`python tests/benchmarks/memory.py` trains each kind of run for a few batches in a process of its
own: `MixtureModule`, and `TandemModule` with probe and measure steps. It prints the bytes of
distinct parameters, buffers, gradients and optimizer state; the peak (of the process, or of the
GPU's allocator); the peak above what the process had before there was a network; and the ratios.
Adapters are LoRA on a network of Qwen2-0.5B's shape with random weights; the whole takes 2 min.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from common import SIZES, adamw, fit, network, random_data
from lightning.pytorch import Callback, LightningModule, Trainer
from record import Record, Row, arguments, at_most, child, finish, parse, plot, show
from torch import Tensor, nn

from tandem_pl import MixtureModule, TandemModule
from tandem_pl.callbacks import TandemReweighting
from tandem_pl.networks import causal_language_model
from tandem_pl.objectives import CausalLanguageModeling

NAME = "memory"
QWEN2_05B = {
    "vocab_size": 151_936,
    "hidden_size": 896,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "intermediate_size": 4864,
    "tie_word_embeddings": True,
}
LEAST = {"hidden_size": 28, "intermediate_size": 32, "vocab_size": 257, "num_hidden_layers": 1}
#: What is trained -> the most that twins may take over plain training.
LIMITS = {"whole": 2.0, "adapters": 1.1}


class Stored(Callback):
    """The most that is stored after any batch."""

    bytes = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Count, while the gradients are still there."""
        self.bytes = max(self.bytes, stored_bytes(pl_module, trainer.optimizers[0]))


def stored_bytes(module: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Return bytes of the distinct storages of parameters, buffers, gradients and moments."""
    tensors: list[Tensor] = [*module.parameters(), *module.buffers()]
    tensors += [p.grad for p in module.parameters() if p.grad is not None]
    for state in optimizer.state.values():
        tensors += [value for value in state.values() if isinstance(value, Tensor)]
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def resident_peak() -> int:
    """Return bytes; `ru_maxrss` is in bytes on macOS and in kB elsewhere."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def build(options: argparse.Namespace) -> tuple[nn.Module, int]:
    """Return the network and the size of its vocabulary."""
    if options.what == "whole":
        return network(options.size, options.block), SIZES[options.size][-1]
    from tandem_pl.networks.adapters import lora

    config = QWEN2_05B | (LEAST if options.quick else {})
    return lora(causal_language_model("qwen2", config), options.rank), config["vocab_size"]


def train(options: argparse.Namespace) -> Row:
    """Return the bytes of one run, of this process."""
    before = resident_peak()
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    built, vocabulary = build(options)
    data = random_data(2, options.block, options.batch, vocabulary)
    kind = MixtureModule if options.child == "plain" else TandemModule
    stored = Stored()
    callbacks: list[Callback] = [stored]
    if options.child == "tandem":
        callbacks.insert(0, TandemReweighting(1, 2, 1))
    module = kind(built, CausalLanguageModeling(), adamw)
    fit(module, data, callbacks, options.device, max_steps=6)
    peak = torch.cuda.max_memory_allocated() if options.device == "cuda" else resident_peak()
    return {"stored": stored.bytes, "peak": peak, "peak_above_start": peak - before}


def compare(argv: Sequence[str], what: str) -> Iterator[Row]:
    """Yield the rows of plain training, of twins, and their ratios."""
    runs = {
        kind: child(__file__, *argv, "--what", what, "--child", kind)
        for kind in ("plain", "tandem")
    }
    for kind, found in runs.items():
        yield {"trained": what, "run": kind} | {f"{k}_MB": v / 1e6 for k, v in found.items()}
    ratios = {key: value / runs["plain"][key] for key, value in runs["tandem"].items()}
    yield {"trained": what, "run": "ratio", **ratios}


def main(argv: Sequence[str] = tuple(sys.argv[1:])) -> Record:
    """Compare whole networks, and adapters."""
    parser = arguments(__doc__)
    parser.add_argument("--child", choices=("plain", "tandem"), help=argparse.SUPPRESS)
    parser.add_argument("--what", choices=tuple(LIMITS), help="default: both")
    parser.add_argument("--size", choices=tuple(SIZES), default="25m", help="of the whole network")
    parser.add_argument("--rank", type=int, default=8, help="of the adapters")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--block", type=int, default=64)
    options = parse(parser, argv, size="tiny", batch=2, block=16)
    if options.child:
        print(json.dumps(train(options)))
        return {}
    rows, goals = [], []
    for what in [options.what] if options.what else LIMITS:
        rows += [show(row) for row in compare(argv, what)]
        for key, words in (
            ("stored", "parameters, gradients and optimizer state"),
            ("peak_above_start", "peak memory"),
        ):
            goals.append(at_most(f"{what}: {words} over plain", rows[-1][key], LIMITS[what]))
    plots = [plot("Memory (MB)", "run", "stored_MB", "peak_above_start_MB", by=("trained",))]
    return finish(NAME, options, rows, goals, plots)


if __name__ == "__main__":
    main()
