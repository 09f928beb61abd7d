"""A training step from chunks of logits, over one from whole logits: memory and time.

`python tests/benchmarks/head.py` trains networks cut to two layers: Pythia-160M's shape on blocks
of text; Qwen2-0.5B's on responses (a quarter of the tokens, and four times the batch, as in its
configuration); and the quickstart's, which has too few tokens for chunks. It measures the peak of a
forward and a backward, in a process of its own, above parameters and gradients, and the time of
steps that take turns. Whole logits are written as they would be without tandem_pl.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from common import SIZES, adamw, alternate, network, wait
from record import Record, Row, arguments, at_most, child, finish, parse, plot, show
from torch import Tensor, nn

from tandem_pl.networks import causal_language_model
from tandem_pl.objectives import CausalLanguageModeling
from tandem_pl.objectives.head_losses import LEAST_ROWS

NAME = "head"
QWEN2 = {
    "vocab_size": 151_936,
    "hidden_size": 896,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "intermediate_size": 4864,
    "tie_word_embeddings": True,
}
NEOX = {
    "vocab_size": 50_304,
    "hidden_size": 768,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 2048,
}
#: What is trained -> type, configuration, share of the tokens with a label, and the most that
#: chunks may take over whole logits: memory, time.
RUNS: dict[str, tuple[str, dict[str, Any], float, float, float]] = {
    "pythia_160m": ("gpt_neox", NEOX, 1.0, 0.5, 1.0),
    "qwen2_responses": ("qwen2", QWEN2, 0.25, 0.35, 1.0),
    "quickstart": ("gpt_neox", {}, 1.0, 1.02, 1.02),
}
KINDS = ("whole", "chunks")


def whole_logits(network: nn.Module, samples: Mapping[str, Tensor]) -> Tensor:
    """Return losses [B] as `CausalLanguageModeling` computes them, from all logits at once."""
    logits = network(input_ids=samples["input_ids"]).logits[:, :-1].float()
    labels = samples.get("labels", samples["input_ids"])[:, 1:]
    losses = nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="none"
    ).view_as(labels)
    return losses.sum(dim=1) / (labels != -100).sum(dim=1)


OBJECTIVES: dict[str, Callable[..., Tensor]] = {
    "whole": whole_logits,
    "chunks": CausalLanguageModeling(),
}


class Steps:
    """Training steps of one network on one batch."""

    def __init__(self, options: argparse.Namespace, what: str, kind: str) -> None:
        family, config, share = RUNS[what][:3]
        if what == "quickstart":
            size = "tiny" if options.quick else "3m"
            self.network, vocabulary = network(size, options.block), SIZES[size][-1]
        else:
            if options.quick:
                config = config | {"hidden_size": 28, "intermediate_size": 8}
                config |= {"num_attention_heads": 2, "vocab_size": 4200}
            config = config | {"num_hidden_layers": options.layers}
            self.network, vocabulary = causal_language_model(family, config), config["vocab_size"]
        self.network.to(options.device)
        self.objective = OBJECTIVES[kind]
        self.optimizer = adamw(self.network.parameters())
        self.device, self.precision = torch.device(options.device), options.precision
        shape = options.batch * (4 if what == "qwen2_responses" else 1), options.block
        tokens = torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(0))
        self.samples = {"input_ids": tokens.to(self.device)}
        if share < 1:  # prompts have no label
            labels = self.samples["input_ids"].clone()
            labels[:, : int((1 - share) * options.block)] = -100
            self.samples["labels"] = labels

    def gradients(self, samples: Mapping[str, Tensor]) -> None:
        """Run a forward and a backward."""
        self.optimizer.zero_grad()
        mixed = self.precision != "32"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=mixed):
            loss = self.objective(self.network, samples).mean()
        loss.backward()

    def step(self) -> float:
        """Take a step; return its seconds, on a CPU those that this process had of it."""
        clock = time.process_time if self.device.type == "cpu" else time.perf_counter
        wait(self.device)
        start = clock()
        self.gradients(self.samples)
        self.optimizer.step()
        wait(self.device)
        return clock() - start

    def peak(self) -> int:
        """Return the most bytes of a forward and a backward, above parameters and gradients."""
        self.gradients({key: value[:1, -4:] for key, value in self.samples.items()})
        stored = sum(p.nbytes for p in self.network.parameters())  # as much as the gradients
        self.optimizer.zero_grad()
        if self.device.type == "cuda":
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            self.gradients(self.samples)
            return torch.cuda.max_memory_allocated() - before - stored
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again (Linux)
        before = resident("VmRSS")
        self.gradients(self.samples)
        return resident("VmHWM") - before - stored


def resident(key: str) -> int:
    """Return bytes of this process, now ("VmRSS") or at most ("VmHWM")."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def compare(argv: Sequence[str], options: argparse.Namespace, what: str) -> Row:
    """Return peak and time of both, and chunks over whole."""
    row: Row = {"trained": what}
    for kind in KINDS:
        row |= child(__file__, *argv, "--what", what, "--child", kind)
    row["memory"] = row["chunks_MB"] / row["whole_MB"]
    steps = {kind: Steps(options, what, kind) for kind in KINDS}
    times = alternate({kind: steps[kind].step for kind in KINDS}, options.repeats + 1)
    for kind in KINDS:
        row[f"{kind}_ms"] = 1e3 * statistics.median(times[kind][1:])
    pairs = zip(times["chunks"][1:], times["whole"][1:], strict=True)
    row["time"] = statistics.median(mine / other for mine, other in pairs)
    return row


def main(argv: Sequence[str] | None = None) -> Record:
    """Compare for each of `RUNS`."""
    parser = arguments(__doc__, repeats=9)
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--what", choices=tuple(RUNS), help="default: all")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--block", type=int, default=256)
    parser.add_argument("--precision", choices=("32", "bf16"), default="32")
    options = parse(parser, argv, layers=1, batch=2, block=2 * LEAST_ROWS)
    if options.child:
        found = Steps(options, options.what, options.child).peak() / 1e6
        print(json.dumps({f"{options.child}_MB": found}))
        return {}
    rows, goals = [], []
    for what in [options.what] if options.what else RUNS:
        row = show(compare(argv or (), options, what))
        rows.append(row)
        for key, limit in zip(("memory", "time"), RUNS[what][3:], strict=True):
            goals.append(at_most(f"{what}: {key} over whole logits", row[key], limit))
    plots = [plot("A step over one from whole logits", "trained", "memory", "time")]
    return finish(NAME, options, rows, goals, plots)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
