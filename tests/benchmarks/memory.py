"""Memory of twins beside plain training, each in a process of its own.

`python tests/benchmarks/memory.py` trains a network for a few batches: plain (`MixtureModule`) and
with twins (`TandemModule`, probe and measure steps included). It prints the bytes of distinct
parameters, buffers, gradients and optimizer state, the peak (of the process, or of the GPU's
allocator), the peak above what the process had before there was a network, and the ratios.
`python tests/benchmarks/adapters.py` does the same for LoRA on a network of Qwen2-0.5B's shape.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from collections.abc import Sequence
from typing import Any

import torch
from common import (
    SIZES,
    Record,
    Row,
    adamw,
    arguments,
    at_most,
    child,
    finish,
    fit,
    network,
    parse,
    plot,
    random_data,
    show,
)
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from tandem_pl import MixtureModule, TandemModule
from tandem_pl.callbacks import TandemReweighting
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


def stored_bytes(module: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of the distinct storages of parameters, buffers, gradients and optimizer state."""
    tensors: list[Tensor] = [*module.parameters(), *module.buffers()]
    tensors += [p.grad for p in module.parameters() if p.grad is not None]
    for state in optimizer.state.values():
        tensors += [value for value in state.values() if isinstance(value, Tensor)]
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


class Stored(Callback):
    """The most that is stored after any batch."""

    bytes = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Gradients are still there."""
        self.bytes = max(self.bytes, stored_bytes(pl_module, trainer.optimizers[0]))


def resident_peak() -> int:
    """Bytes; `ru_maxrss` is in bytes on macOS and in kB elsewhere."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def build(options: argparse.Namespace) -> tuple[nn.Module, int]:
    """The network and its vocabulary."""
    if not options.adapters:
        return network(options.size, options.block), SIZES[options.size][-1]
    from tandem_pl.networks import causal_language_model
    from tandem_pl.networks.adapters import lora

    config = QWEN2_05B | {"num_hidden_layers": options.layers}
    if options.quick:
        small = {"hidden_size": 28, "intermediate_size": 32, "vocab_size": 257}
        config |= small
    whole = causal_language_model("qwen2", config)
    return lora(whole, options.rank), config["vocab_size"]


def train(kind: str, options: argparse.Namespace) -> Row:
    """One process's part."""
    before = resident_peak()
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    whole, vocabulary = build(options)
    data = random_data(2, options.block, options.batch, vocabulary)
    module = (MixtureModule if kind == "plain" else TandemModule)(
        whole, CausalLanguageModeling(), adamw
    )
    stored = Stored()
    callbacks: list[Callback] = [] if kind == "plain" else [TandemReweighting(1, 2, 1)]
    fit(module, data, [*callbacks, stored], options.device, max_steps=6)
    peak = torch.cuda.max_memory_allocated() if options.device == "cuda" else resident_peak()
    return {"stored": stored.bytes, "peak": peak, "peak_above_start": peak - before}


def main(argv: Sequence[str] | None = None, adapters: bool = False) -> Record:
    """Command line."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = arguments(__doc__)
    parser.add_argument("--run", choices=("plain", "tandem"), help=argparse.SUPPRESS)
    parser.add_argument("--adapters", action="store_true", help="LoRA on a frozen network")
    parser.add_argument("--size", default="25m", help="without --adapters")
    parser.add_argument("--layers", type=int, default=24, help="with --adapters")
    parser.add_argument("--rank", type=int, default=8, help="with --adapters")
    parser.add_argument("--batch", type=int, default=2 if adapters else 4)
    parser.add_argument("--block", type=int, default=64)
    parser.set_defaults(adapters=adapters)
    options = parse(parser, argv, size="tiny", layers=1, batch=2, block=16)
    if options.run:
        print(json.dumps(train(options.run, options)))
        return {}
    extra = ["--batch", str(options.batch), *(["--adapters"] if options.adapters else [])]
    rows = []
    for kind in ("plain", "tandem"):
        found = child(__file__, *argv, *extra, "--run", kind)
        rows.append(show({"run": kind} | {f"{k}_MB": v / 1e6 for k, v in found.items()}))
    ratio: Row = {"run": "ratio"}
    for key in ("stored", "peak", "peak_above_start"):
        ratio[key] = rows[1][f"{key}_MB"] / rows[0][f"{key}_MB"]
    rows.append(show(ratio))
    what, limit = ("with adapters, ", 1.1) if options.adapters else ("", 2.0)
    reach = [
        at_most(
            f"{what}parameters, gradients and optimizer state over plain", ratio["stored"], limit
        ),
        at_most(f"{what}peak memory over plain", ratio["peak_above_start"], limit),
    ]
    plots = [plot("Memory (MB)", "run", "stored_MB", "peak_above_start_MB")]
    return finish("adapters" if options.adapters else NAME, options, rows, reach, plots)


if __name__ == "__main__":
    main()
