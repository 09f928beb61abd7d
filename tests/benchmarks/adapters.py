"""Memory of twin adapters beside plain LoRA fine-tuning, each in a process of its own.

`python tests/benchmarks/adapters.py` trains a network of Qwen2-0.5B's shape (random weights) for a
few batches: plain (MixtureModule) and with twins (TandemModule, probe and measure steps included).
It prints the bytes of distinct parameters, buffers, gradients and optimizer state, the peak of the
process or of the GPU's allocator, and the ratios.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import subprocess
import sys
import tempfile
import warnings

import torch
from lightning.pytorch import Trainer
from torch.utils.data import Dataset

from tandem_pl import MixtureModule, TandemModule
from tandem_pl.adapters import lora
from tandem_pl.callbacks import TandemReweighting
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.networks import causal_language_model
from tandem_pl.objectives import CausalLanguageModeling

QWEN2_05B = {
    "vocab_size": 151_936,
    "hidden_size": 896,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "intermediate_size": 4864,
    "tie_word_embeddings": True,
}


class RandomBlocks(Dataset):
    """Random tokens."""

    def __init__(self, length: int, vocabulary: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.rows = torch.randint(vocabulary, (32, length), generator=generator)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.rows[index]}


def stored_bytes(module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of the distinct storages of parameters, buffers, gradients and optimizer state."""
    tensors = [*module.parameters(), *module.buffers()]
    tensors += [p.grad for p in module.parameters() if p.grad is not None]
    for state in optimizer.state.values():
        tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def train(kind: str, options: argparse.Namespace) -> None:
    """One process's part."""
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    config = QWEN2_05B | {"num_hidden_layers": options.layers}
    network = lora(causal_language_model("qwen2", config), options.rank)
    blocks = RandomBlocks(options.block, config["vocab_size"])
    data = MixtureDataModule({"a": blocks, "b": blocks}, {"t": blocks}, batch_size=options.batch)
    arguments = (network, CausalLanguageModeling(), lambda p: torch.optim.AdamW(p, 1e-4))
    module = (MixtureModule if kind == "plain" else TandemModule)(*arguments)
    callbacks = [] if kind == "plain" else [TandemReweighting(1, 2, 1)]
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_steps=6,
            callbacks=callbacks,
            accelerator=options.accelerator,
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        if module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        trainer.fit(module, datamodule=data)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if trainer.strategy.root_device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    stored = stored_bytes(module, trainer.optimizers[0])
    print(json.dumps({"stored": stored, "peak": peak, "steps": trainer.global_step}))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", choices=("plain", "tandem"), help=argparse.SUPPRESS)
    parser.add_argument("--layers", type=int, default=QWEN2_05B["num_hidden_layers"])
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--block", type=int, default=64)
    parser.add_argument("--accelerator", default="cpu")
    options = parser.parse_args()
    if options.run:
        train(options.run, options)
        return
    results = {}
    for kind in ("plain", "tandem"):
        command = [sys.executable, __file__, *sys.argv[1:], "--run", kind]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        results[kind] = json.loads(done.stdout.splitlines()[-1])
        stored, peak = (results[kind][key] / 1e6 for key in ("stored", "peak"))
        print(f"{kind:7} stored {stored:9.2f} MB   peak {peak:9.2f} MB", flush=True)
    ratios = {key: results["tandem"][key] / results["plain"][key] for key in ("stored", "peak")}
    print(f"ratio   stored {ratios['stored']:9.4f}      peak {ratios['peak']:9.4f}")
    print(json.dumps({"benchmark": "adapters", **results, "ratios": ratios}))


if __name__ == "__main__":
    main()
