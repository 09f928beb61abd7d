"""Kills a run at random moments, resumes it from its last checkpoint, and compares the end.

`python tests/benchmarks/kill.py` kills 20 times (about 5 min). The final network, weights and
trajectory must equal those of a run that was never killed, bit for bit, and every file must be
whole after every kill. `--signal TERM` and `--signal INT` let the run save first: the checkpoint
must be of the last step. `--ranks 2` trains on two processes and kills either.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import TensorDataset

from tandem_pl import TandemModule
from tandem_pl.callbacks import TandemReweighting, TimedCheckpoint
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.objectives import Classification
from tandem_pl.training.checkpoint_io import AtomicCheckpointIO

#: Exit codes of a run that a signal ended; the negative ones come after the training's end.
CODES = {
    "KILL": {-signal.SIGKILL},
    "TERM": {143, -signal.SIGTERM},
    "INT": {1, 130, -signal.SIGINT},
}


class StepFile(Callback):
    """Writes every step that was completed to `steps.txt`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "steps.txt"

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Write the step."""
        if trainer.is_global_zero:
            with self.path.open("a") as file:
                file.write(f"{trainer.global_step}\n")


def samples(seed: int) -> TensorDataset:
    """Return 50 pairs of an input [16] and a class."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(50, 16, generator=generator) + 0.2 * seed
    return TensorDataset(inputs, torch.randint(3, (50,), generator=generator))


def last_checkpoint(folder: Path) -> Path:
    """Return where a run saves."""
    return folder / "checkpoints" / "last.ckpt"


def train(folder: Path, options: argparse.Namespace) -> None:
    """Train to the end, from the last checkpoint if there is one."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(16, 64), nn.Dropout(0.2), nn.ReLU(), nn.Linear(64, 3))
    module = TandemModule(network, Classification(), lambda p: torch.optim.AdamW(p, 3e-3))
    domains = {name: samples(seed) for seed, name in enumerate("abc")}
    data = MixtureDataModule(domains, {"t": samples(5)}, batch_size=16)
    last = last_checkpoint(folder)
    (folder / f"pid{os.environ.get('LOCAL_RANK', 0)}").write_text(str(os.getpid()))
    trainer = Trainer(
        max_epochs=options.episodes,
        accelerator="cpu",
        devices=options.ranks,
        strategy="ddp" if options.ranks > 1 else "auto",
        use_distributed_sampler=False,
        logger=False,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        plugins=[AtomicCheckpointIO()],
        callbacks=[
            TandemReweighting(5, 3, 2, learning_rate=2.0),
            ModelCheckpoint(last.parent, every_n_train_steps=3, save_last=True),
            TimedCheckpoint(),
            StepFile(folder),
        ],
    )
    trainer.fit(module, data, ckpt_path=last if last.exists() else None)


def run(folder: Path, options: argparse.Namespace, rank: int = 0, patience: float = -1.0) -> bool:
    """Train in new processes; return whether the training came to its end.

    A `patience` that is not negative signals `rank` so many seconds after the first checkpoint.
    Without, a single process is this one, which saves the start of another.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if patience < 0 and options.ranks == 1:
        train(folder, options)
        return True
    last, log = last_checkpoint(folder), folder / "output.txt"
    before = last.stat().st_mtime_ns if last.exists() else 0
    command = [sys.executable, __file__, "--child", str(folder)]
    command += ["--ranks", str(options.ranks), "--episodes", str(options.episodes)]
    with open(log, "a") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        while patience >= 0 and process.poll() is None:  # until it has saved
            if last.exists() and last.stat().st_mtime_ns != before:
                time.sleep(patience)
                with contextlib.suppress(ProcessLookupError):
                    pid = int((folder / f"pid{rank}").read_text())
                    os.kill(pid, signal.Signals[f"SIG{options.signal}"])
                break
            time.sleep(0.002)
        code = process.wait()
    allowed = {0}
    if patience >= 0:  # 1: a rank that lost the other one
        allowed |= CODES[options.signal] | ({1} if options.ranks > 1 else set())
    assert code in allowed, f"exit code {code}\n{log.read_text()}"
    return code == 0


def check_files(folder: Path, signalled: str) -> None:
    """Raise an error if a file cannot be read, or a run that could save has lost a step."""
    step = int((folder / "steps.txt").read_text().split()[-1])
    saved = torch.load(last_checkpoint(folder), weights_only=True)["global_step"]
    assert signalled == "KILL" or saved == step, f"saved at {saved}, ended at {step}"
    for path in folder.rglob("*"):
        if path.suffix == ".ckpt":
            torch.load(path, weights_only=True)
        elif path.name == "mixture.yaml":
            assert yaml.safe_load(path.read_text())["weights"]


def compare(whole: Path, killed: Path) -> None:
    """Raise an error unless the networks and what was learned are equal, bit for bit."""
    for name in ("mixture.yaml", "trajectory.csv"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name
    states = [torch.load(last_checkpoint(folder), weights_only=True) for folder in (whole, killed)]
    one, other = (state["state_dict"] for state in states)
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


def kill_and_compare(folder: Path, options: argparse.Namespace) -> int:
    """Kill, resume and compare until there were enough kills; return how many runs were compared.

    A run that ends before its signal is compared, and another one is begun.
    """
    draw = random.Random(options.seed)
    run(folder / "whole", options)
    kills, runs = 0, 0
    while kills < options.kills:
        rank, patience = draw.randrange(options.ranks), draw.uniform(0.0, 0.6)
        killed = folder / f"killed-{runs}"
        if run(killed, options, rank, patience):
            compare(folder / "whole", killed)
            runs += 1
        else:
            kills += 1
            check_files(killed, options.signal)
    killed = folder / f"killed-{runs}"
    run(killed, options)
    compare(folder / "whole", killed)
    return runs + 1


def main() -> None:
    """Run in an empty folder, and print how often it held."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--signal", choices=tuple(CODES), default="KILL")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--episodes", type=int, default=60, help="of a run")
    parser.add_argument("--folder", type=Path, help="an empty one; default: a temporary one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        train(options.child, options)
        return
    if options.folder and options.folder.exists() and any(options.folder.iterdir()):
        parser.error(f"--folder {options.folder} is not empty: its runs would be resumed.")
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        runs = kill_and_compare(folder, options)
    took = time.monotonic() - start
    print(f"{options.kills} kills, {runs} runs ended with the same bits, {took:.0f} s")


if __name__ == "__main__":
    main()
