"""What the reference costs: TANDEM against plain Lightning, for the same number of proxy steps.

`python tests/benchmarks/overhead.py` alternates runs of (a) a minimal LightningModule with
automatic optimization over a shuffled DataLoader and (b) TandemModule with TandemReweighting, on
the same network, blocks of text, batch size and optimizer. It prints the ratio of medians beside
the bound (E + 3K - 1 + 2/3 V) / (E + K), and a JSON line.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
import warnings

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import ConcatDataset, DataLoader

from tandem_pl import TandemModule
from tandem_pl.callbacks import TandemReweighting
from tandem_pl.datamodules import EnvironmentCorpus
from tandem_pl.networks import causal_language_model
from tandem_pl.objectives import CausalLanguageModeling


class Plain(LightningModule):
    """What a user would write without us."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        """Mean next-token loss."""
        logits = self.network(input_ids=batch["input_ids"]).logits[:, :-1]
        labels = batch["input_ids"][:, 1:]
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """As below."""
        return torch.optim.AdamW(self.parameters(), 1e-3)


class Stopwatch(Callback):
    """Seconds from the end of the first epoch to the end of training."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts after the first epoch, which warms everything up."""
        if trainer.current_epoch == 0:
            self.start = time.perf_counter()
        self.seconds = time.perf_counter() - self.start


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--free", type=int, nargs="+", default=[15, 45, 95])
    parser.add_argument("--probe", type=int, default=5)
    parser.add_argument("--measure", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--block", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=100, help="proxy steps that are timed")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    data = EnvironmentCorpus(batch_size=options.batch, block_size=options.block)
    data.prepare_data()
    data.setup("fit")
    blocks: ConcatDataset = ConcatDataset(list(data.train_sets.values()))

    def network() -> torch.nn.Module:
        return causal_language_model(
            config={
                "vocab_size": 257,
                "hidden_size": options.hidden,
                "num_hidden_layers": options.layers,
                "num_attention_heads": 4,
                "intermediate_size": 4 * options.hidden,
                "max_position_embeddings": options.block,
            }
        )

    def seconds(module: LightningModule, callbacks: list[Callback], **source: object) -> float:
        watch = Stopwatch()
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(
                callbacks=[*callbacks, watch],
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                limit_val_batches=0,
                accelerator="cpu",
                default_root_dir=folder,
                **source.pop("settings"),  # type: ignore[arg-type]
            )
            trainer.fit(module, **source)  # type: ignore[arg-type]
        return watch.seconds

    parameters = sum(p.numel() for p in network().parameters())
    print(f"{parameters / 1e6:.2f} M parameters, batch {options.batch} x {options.block}, "
          f"{torch.get_num_threads()} threads, {options.repeats} alternating runs")  # fmt: skip
    rows = []
    for free in options.free:
        episode = free + options.probe
        episodes = 1 + max(1, options.steps // episode)
        times: dict[str, list[float]] = {"plain": [], "tandem": []}
        for _ in range(options.repeats):
            loader = DataLoader(blocks, options.batch, shuffle=True, drop_last=True)
            settings = {"max_epochs": episodes, "limit_train_batches": episode}
            times["plain"].append(
                seconds(Plain(network()), [], settings=settings, train_dataloaders=loader)
            )
            module = TandemModule(
                network(), CausalLanguageModeling(), lambda p: torch.optim.AdamW(p, 1e-3)
            )
            method = TandemReweighting(free, options.probe, options.measure)
            times["tandem"].append(
                seconds(module, [method], settings={"max_epochs": episodes}, datamodule=data)
            )
        plain, tandem = (statistics.median(times[name]) for name in ("plain", "tandem"))
        bound = (free + 3 * options.probe - 1 + 2 / 3 * options.measure) / episode
        rows.append({
            "E": free, "K": options.probe, "V": options.measure,
            "plain_ms": 1e3 * plain / episode / (episodes - 1), "ratio": tandem / plain,
            "bound": bound, "ratio_over_bound": tandem / plain / bound,
        })  # fmt: skip
        print("  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k}={v}"
                        for k, v in rows[-1].items()), flush=True)  # fmt: skip
    print(json.dumps({"benchmark": "overhead", "parameters": parameters, "rows": rows}))


if __name__ == "__main__":
    main()
