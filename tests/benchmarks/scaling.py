"""One and two processes over gloo at the same global batch: time, and bytes reduced a step.

`python tests/benchmarks/scaling.py` trains with `MixtureModule` and with TANDEM, one thread a
process. Bytes are those that a rank hands to `torch.distributed.all_reduce`, gradients included,
by the phase of the batch; gathered losses are not among them. They are counted by a hook in Python
in the runs of two processes that are timed, which makes these a little slower.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from common import (
    Record,
    Row,
    adamw,
    alternate,
    arguments,
    finish,
    fit,
    network,
    parse,
    plot,
    random_data,
    run_arguments,
    show,
)
from lightning.pytorch import Callback, LightningModule, Trainer

from tandem_pl import MixtureModule, TandemModule
from tandem_pl.callbacks import TandemReweighting
from tandem_pl.objectives import CausalLanguageModeling

NAME = "scaling"
LIMIT = 1800  # seconds for one run


class Reduced(Callback):
    """Bytes reduced by phase."""

    def __init__(self) -> None:
        self.bytes: Counter[str] = Counter()
        self.batches: Counter[str] = Counter()
        self.count = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """DDP reduces in C++, which cannot be counted: here it is a hook in Python that does."""
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

        trainer.strategy.model.register_comm_hook(None, allreduce_hook)  # type: ignore
        reduce = torch.distributed.all_reduce

        def counting(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            self.count += tensor.nbytes
            return reduce(tensor, *args, **kwargs)

        torch.distributed.all_reduce = counting

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """From here."""
        self.count = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """To here."""
        self.bytes[batch.phase] += self.count
        self.batches[batch.phase] += 1


def train(kind: str, processes: int, options: argparse.Namespace) -> Row:
    """One rank's part: ms a step, and MB reduced a step by phase."""
    torch.set_num_threads(1)
    steps, epochs = options.free + options.probe, 1 + options.episodes
    data = random_data(7, options.block, options.batch, epoch_batches=steps)
    model = network(options.size, options.block)
    module = (MixtureModule if kind == "mixture" else TandemModule)(
        model, CausalLanguageModeling(), adamw
    )
    callbacks: list[Callback] = []
    if kind == "tandem":
        callbacks = [TandemReweighting(options.free, options.probe, options.measure)]
    reduced = Reduced()
    settings: dict[str, Any] = {"max_epochs": epochs}
    if processes > 1:
        callbacks.append(reduced)
        settings |= {"devices": processes, "strategy": "ddp", "use_distributed_sampler": False}
    seconds = fit(module, data, callbacks, **settings)
    row: Row = {"ms": 1e3 * statistics.median(seconds) / steps}
    return row | {
        f"{phase}_MB": reduced.bytes[phase] / 1e6 / batches
        for phase, batches in reduced.batches.items()
    }


def launch(kind: str, processes: int, argv: Sequence[str]) -> Row:
    """Runs the processes; what rank 0 found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    if processes > 1:
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0"}
        shared |= {"WORLD_SIZE": str(processes)}
    command = [sys.executable, __file__, *argv, "--run", kind, "--processes", str(processes)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    ranks = []
    try:
        for rank in range(processes):
            own = {"LOCAL_RANK": str(rank)} if processes > 1 else {}
            ranks.append(subprocess.Popen(command, env=shared | own, **pipes))
        outputs = [rank.communicate(timeout=LIMIT) for rank in ranks]
    finally:
        for process in ranks:
            if process.poll() is None:
                process.kill()
                process.wait()
    for process, (out, error) in zip(ranks, outputs, strict=True):
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{out}\n{error}")
    return json.loads(outputs[0][0].splitlines()[-1])


def main(argv: Sequence[str] | None = None) -> Record:
    """Command line."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = arguments(__doc__)
    parser.set_defaults(repeats=3)
    parser.add_argument("--run", choices=("mixture", "tandem"), help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, default=0, help=argparse.SUPPRESS)
    run_arguments(parser, 15)
    parser.add_argument("--episodes", type=int, default=2, help="that are timed, of each run")
    smallest = {"free": 2, "probe": 1, "measure": 1, "episodes": 1}
    options = parse(parser, argv, size="tiny", block=16, batch=4, **smallest)
    if options.run:
        print(json.dumps(train(options.run, options.processes, options)))
        return {}
    kinds = [(kind, processes) for kind in ("mixture", "tandem") for processes in (1, 2)]
    runs = {
        f"{kind} {processes}": lambda kind=kind, processes=processes: launch(kind, processes, argv)
        for kind, processes in kinds
    }
    results = alternate(runs, options.repeats)
    rows, alone = [], 0.0
    for (kind, processes), found in zip(kinds, results.values(), strict=True):
        ms = statistics.median(row["ms"] for row in found)
        alone = ms if processes == 1 else alone
        row = {"run": kind, "processes": processes, "ms_a_step": ms, "speed_up": alone / ms}
        rows.append(show(row | {k: v for k, v in found[0].items() if k != "ms"}))
    plots = [plot("Milliseconds a step", "processes", "ms_a_step", by=("run",))]
    return finish(NAME, options, rows, [], plots)


if __name__ == "__main__":
    main()
