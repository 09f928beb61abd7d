"""Kills a run at random moments, resumes it from its last checkpoint, and compares the end.

`python tests/benchmarks/kill.py` kills 20 times (about 5 min). The final network, weights and
trajectory must equal those of a run that was never killed, bit for bit, and no half-written file
may be left. `--signal TERM` stops it the gentle way, `--ranks 2` trains on two processes and kills
either.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
import yaml

EPISODES = 60


def child(folder: Path, ranks: int) -> None:
    """Trains to the end, from `last.ckpt` where there is one."""
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint
    from torch import nn
    from torch.utils.data import TensorDataset

    from tandem_pl import TandemModule
    from tandem_pl.callbacks import TandemReweighting, TimedCheckpoint
    from tandem_pl.datamodules import MixtureDataModule
    from tandem_pl.objectives import Classification
    from tandem_pl.training.checkpoint_io import AtomicCheckpointIO

    def pairs(seed: int) -> TensorDataset:
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(50, 16, generator=generator) + 0.2 * seed
        return TensorDataset(inputs, torch.randint(3, (50,), generator=generator))

    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(16, 64), nn.Dropout(0.2), nn.ReLU(), nn.Linear(64, 3))
    module = TandemModule(
        network, Classification(), optimizer=lambda params: torch.optim.AdamW(params, 3e-3)
    )
    train = {name: pairs(i) for i, name in enumerate("abc")}
    data = MixtureDataModule(train, {"t": pairs(5)}, batch_size=16)
    last = folder / "checkpoints" / "last.ckpt"
    (folder / f"pid{os.environ.get('LOCAL_RANK', 0)}").write_text(str(os.getpid()))
    trainer = Trainer(
        max_epochs=EPISODES,
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        use_distributed_sampler=False,
        logger=False,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        plugins=[AtomicCheckpointIO()],
        callbacks=[
            TandemReweighting(5, 3, 2, learning_rate=2.0),
            ModelCheckpoint(folder / "checkpoints", every_n_train_steps=3, save_last=True),
            TimedCheckpoint(),
        ],
    )
    trainer.fit(module, data, ckpt_path=last if last.exists() else None)


def run(folder: Path, options: argparse.Namespace, rank: int = 0, patience: float = -1.0) -> bool:
    """Runs the child; True if it finished.

    A `patience` that is not negative kills `rank` so many seconds after the first checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    last = folder / "checkpoints" / "last.ckpt"
    before = last.stat().st_mtime_ns if last.exists() else 0
    command = [sys.executable, __file__, "--child", "--folder", folder]
    number = signal.Signals[f"SIG{options.signal}"]
    with open(folder / "output.txt", "a") as output:
        process = subprocess.Popen(
            [*command, "--ranks", str(options.ranks)], stdout=output, stderr=output
        )
        while patience >= 0 and process.poll() is None:  # until the first checkpoint of this life
            if last.exists() and last.stat().st_mtime_ns != before:
                time.sleep(patience)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int((folder / f"pid{rank}").read_text()), number)
                break
            time.sleep(0.002)
        code = process.wait()
    allowed = {0}
    if patience >= 0 and options.signal == "TERM":
        allowed |= {143, -signal.SIGTERM}  # nobody listens any more after the run's end
    elif patience >= 0:
        allowed |= {-signal.SIGKILL} | ({1} if options.ranks > 1 else set())  # 1: the other died
    assert code in allowed, (folder / "output.txt").read_text()
    return code == 0


def result(folder: Path) -> tuple[dict, dict, str]:
    """What must be equal: the state, the mixture file and the trajectory file."""
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    mixture = yaml.safe_load((folder / "mixture.yaml").read_text())
    return state, mixture, (folder / "trajectory.csv").read_text()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--signal", choices=("KILL", "TERM"), default="KILL")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("runs/kill"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", action="store_true")
    options = parser.parse_args()
    if options.child:
        child(options.folder, options.ranks)
        return
    draw = random.Random(options.seed)
    start = time.monotonic()
    run(options.folder / "whole", options)
    killed, kills, round_number = options.folder / "killed-0", 0, 0
    while kills < options.kills:
        rank, patience = draw.randrange(options.ranks), draw.uniform(0.0, 0.6)
        if run(killed, options, rank, patience):  # it ended before its time: compare, start anew
            compare(options.folder / "whole", killed)
            round_number += 1
            killed = options.folder / f"killed-{round_number}"
        else:
            kills += 1
            for path in killed.rglob("*"):  # whatever is there under its own name is whole
                if path.suffix == ".ckpt":
                    torch.load(path, weights_only=True)
                elif path.name == "mixture.yaml":
                    assert yaml.safe_load(path.read_text())["weights"]
    run(killed, options)
    compare(options.folder / "whole", killed)
    took = time.monotonic() - start
    print(f"{kills} kills, {round_number + 1} runs ended with the same bits, {took:.0f} s")


def compare(whole: Path, killed: Path) -> None:
    """Bit for bit."""
    (state, mixture, trajectory), (state_2, mixture_2, trajectory_2) = result(whole), result(killed)
    assert state.keys() == state_2.keys()
    for key, value in state.items():
        assert torch.equal(value, state_2[key]), key
    assert mixture == mixture_2
    assert trajectory == trajectory_2


if __name__ == "__main__":
    main()
