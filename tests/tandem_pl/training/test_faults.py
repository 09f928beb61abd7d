"""Machines that are taken back, ranks that die, and disks that are full."""

import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import parameters_of, predict_last, quiet_trainer, small_network
from lightning.pytorch import Callback
from module_helpers import WIDTH, adamw, make_data, make_reweighting
from ranks import run_ranks
from torch.utils.data import DataLoader

from tandem_pl import TandemModule
from tandem_pl.callbacks import TimedCheckpoint
from tandem_pl.cli import main as tandem
from tandem_pl.cli.lightning_cli import unwritable
from tandem_pl.datamodules.planning.loader_workers import outlive_sigterm
from tandem_pl.training import last_checkpoint as checkpoints

ROOT = Path(__file__).parents[3]


class At(Callback):
    """Does something before batch number `batch`, counted from 1."""

    def __init__(self, batch, action):
        self.left, self.action = batch, action

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.left -= 1
        if self.left == 0:
            self.action()


def fit(folder, *callbacks, devices=1, ckpt_path=None):
    """Four episodes of six batches; what must be equal between two runs."""
    torch.manual_seed(3)
    module, method = TandemModule(small_network(WIDTH), predict_last, adamw), make_reweighting()
    trainer = quiet_trainer(
        folder,
        callbacks=[method, *callbacks],
        max_epochs=4,
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        use_distributed_sampler=False,
        enable_checkpointing=True,
    )
    trainer.fit(module, datamodule=make_data(), ckpt_path=ckpt_path)
    trajectory = [weights.tolist() for weights in method.trajectory]
    twins = [parameters_of(module.network).tolist(), parameters_of(module.reference).tolist()]
    return [trainer.global_step, trajectory, twins]


# ---- two processes ----


def one_rank(folder: str, part: str) -> None:
    """What each of two processes does."""
    rank, place = int(os.environ["LOCAL_RANK"]), Path(folder)
    last = place / "checkpoints" / "last.ckpt"
    kept = place / f"rank{rank}.json"
    if part == "resume":  # after a rank was killed
        result = fit(folder, TimedCheckpoint(), devices=2, ckpt_path=last)
        kept.write_text(json.dumps(json.loads(kept.read_text()) | {"killed": result}))
        return

    exchanges = []
    decide = TimedCheckpoint._decide

    def counted(self, trainer):
        exchanges.append(self._batches + 1 >= self._wait)
        return decide(self, trainer)

    TimedCheckpoint._decide = counted
    results = {"whole": fit(folder, TimedCheckpoint(), devices=2)}
    results["exchanges"] = [sum(exchanges), len(exchanges)]
    # Rank 1 alone is signalled, or both at different batches, and then they exchange more seldom.
    for name, batches, apart in (("alone", {1: 8}, 0.0), ("both", {0: 9, 1: 6}, 0.005)):
        checkpoints.INTERVAL = apart
        term = At(batches.get(rank, 99), lambda: os.kill(os.getpid(), signal.SIGTERM))
        try:
            fit(folder, TimedCheckpoint(), term, devices=2)
        except SystemExit as stopped:
            results[f"{name}'s code"] = stopped.code
            results[f"{name}'s step"] = torch.load(last, weights_only=True)["global_step"]
        results[name] = fit(folder, TimedCheckpoint(), devices=2, ckpt_path=last)
    kept.write_text(json.dumps(results))
    checkpoints.INTERVAL = 0.0
    kill = At(10, lambda: os.kill(os.getpid(), signal.SIGKILL) if rank else None)
    fit(folder, TimedCheckpoint(minutes=1e-9), kill, devices=2)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Exit codes of the first life, in which rank 1 is killed at last, and what the ranks kept."""
    folder = tmp_path_factory.mktemp("ranks")
    codes, (log, _) = run_ranks([__file__, str(folder), "first"], folder)
    assert (folder / "rank0.json").exists(), log[-3000:]
    step = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    second, texts = run_ranks([__file__, str(folder), "resume"], folder)
    assert second == [0, 0], texts
    kept = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    return codes, step, kept, log


@pytest.mark.parametrize("who", ["alone", "both"])
def test_sigterm_to_any_rank_saves_and_stops_all(ranks, who):
    _, _, (first, second), log = ranks
    assert first[f"{who}'s code"] == 143
    assert second[f"{who}'s code"] == 0  # or the process that started it would be killed for it
    key = f"{who}'s step"
    assert first[key] == second[key]
    assert first[key] == 7 if who == "alone" else first[key] >= 5  # one batch was of measuring
    assert f"stopped by SIGTERM at step {first[key]};" in log


@pytest.mark.parametrize("way", ["alone", "both", "killed"])
def test_two_ranks_resume_exactly(ranks, way):
    _, _, (first, second), _ = ranks
    assert first[way] == first["whole"]
    assert second[way] == second["whole"]
    assert first[way] == second[way]


def test_a_killed_rank_ends_the_other_with_an_error(ranks):
    (first, second), step, _, log = ranks
    assert second == -signal.SIGKILL
    assert first == 1
    assert re.search("[Cc]onnection (was )?(closed|reset)|[Gg]loo", log), log[-2000:]
    assert step == 8  # nine batches, one of them of measuring


def test_ranks_do_not_exchange_every_batch(ranks):
    for result in ranks[2]:
        exchanged, batches = result["exchanges"]
        assert batches == 24
        assert exchanged < 8


# ---- loader workers ----


def test_workers_outlive_a_sigterm_that_is_not_their_parents():
    loader = DataLoader(
        list(range(40)), 2, num_workers=1, worker_init_fn=outlive_sigterm, prefetch_factor=1
    )
    batches = iter(loader)
    seen = next(batches).tolist()
    worker = batches._workers[0]
    subprocess.run(["/bin/kill", "-TERM", str(worker.pid)], check=True)
    time.sleep(0.2)
    for batch in batches:
        seen += batch.tolist()
    assert seen == list(range(40))

    batches = iter(loader)
    worker = batches._workers[0]
    next(batches)
    os.kill(worker.pid, signal.SIGTERM)  # its parent's
    worker.join(10)
    assert worker.exitcode == 0
    batches._workers.clear()  # it is gone, which the loader need not find out


# ---- disks ----


@pytest.fixture
def file_size():
    """Sets the largest size of a file; a write fails after so many bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_previous_checkpoint(file_size, tmp_path, monkeypatch):
    minutes = iter(range(0, 10_000_000, 60))
    monkeypatch.setattr(checkpoints, "monotonic", lambda: next(minutes))
    full = At(9, lambda: file_size(3000))
    with pytest.raises(OSError, match="File too large") as failed:
        fit(tmp_path, TimedCheckpoint(minutes=4), full)
    assert failed.value.errno == errno.EFBIG
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert 0 < state["global_step"] < 9
    assert os.listdir(tmp_path / "checkpoints") == ["last.ckpt"]
    assert not list(tmp_path.rglob("*.tmp"))
    file_size(resource.RLIM_INFINITY)
    again = fit(tmp_path, TimedCheckpoint(), ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert again == fit(tmp_path / "whole", TimedCheckpoint())


@pytest.fixture
def small_run(tmp_path, monkeypatch):
    """A command line that trains on a few lines of text for a moment."""
    monkeypatch.chdir(tmp_path)
    for name in ("prose", "code"):
        for number in range(6):
            text = f"{name} of some sort, number {number}, line by line. \n" * 20
            (tmp_path / f"{name}{number}.txt").write_text(text)
    config = ROOT / "configs" / "train.yaml"
    network = "--model.network.config"
    return [
        *("fit", "--config", str(config), "--trainer.max_steps", "20"),
        *("--data", "tandem_pl.datamodules.TextMixtureDataModule"),
        *("--data.domains", "{prose: prose*.txt, code: code*.txt}", "--data.batch_size", "2"),
        *("--data.block_size", "16", "--data.epoch_batches", "10"),
        *("--data.cache_dir", str(tmp_path / "cache"), "--data.validate_target", "false"),
        *(f"{network}.hidden_size", "16", f"{network}.num_hidden_layers", "1"),
        *("--trainer.enable_progress_bar", "false"),
    ]


def test_a_full_disk_is_one_sentence(small_run, file_size, tmp_path, capfd):
    file_size(50_000)
    assert tandem(small_run) == 2
    file_size(resource.RLIM_INFINITY)
    error = capfd.readouterr().err
    assert "tandem: error: cannot write runs/train/version_0" in error
    assert "File too large" in error
    assert "MB are free); make room" in error
    assert "Traceback" not in error
    assert not list(tmp_path.rglob("*.ckpt"))
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_file_of_the_run_that_cannot_be_written_is_one_sentence(small_run, tmp_path, capfd):
    (tmp_path / "runs/train/version_0/mixture.yaml").mkdir(parents=True)  # in the file's place
    assert tandem([*small_run, "--trainer.logger.init_args.version", "0"]) == 2
    error = capfd.readouterr().err
    assert "tandem: error: cannot write runs/train/version_0/mixture.yaml: Is a directory" in error
    assert "Traceback" not in error


def test_a_folder_in_the_way_is_one_sentence(small_run, tmp_path, capfd):
    (tmp_path / "runs").write_text("not a folder")
    assert tandem(small_run) == 2
    error = capfd.readouterr().err
    assert f"tandem: error: cannot write {tmp_path}/runs/train: Not a directory; give a" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "{run}/.a.ckpt.tmp"), "{run}/a.ckpt: No"),
        (OSError(errno.ENOSPC, "No space left on device"), "cannot write {run}: No space"),
        (PermissionError(errno.EACCES, "Permission denied", "{run}/a"), "{run}/a: Permission"),
        (PermissionError(errno.EACCES, "Permission denied", "books.txt"), None),
        (FileNotFoundError(errno.ENOENT, "No such file", "{run}/a"), None),
        (OSError("about something else"), None),
    ],
)
def test_only_what_cannot_be_written_is_reworded(error, expected, tmp_path):
    if error.filename:
        error.filename = error.filename.format(run=tmp_path)
    said = unwritable(error, tmp_path)
    if expected is None:
        assert said is None
    else:
        assert expected.format(run=tmp_path) in said


def test_a_full_disk_says_what_to_resume_from(tmp_path):
    path = tmp_path / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    path.touch()
    said = unwritable(OSError(errno.ENOSPC, "No space left on device"), tmp_path)
    assert said.endswith(
        f"make room, and resume with --ckpt_path {tmp_path}/checkpoints/last.ckpt."
    )


# ---- the command ----


def test_the_command_ends_with_143_and_says_how_to_go_on(
    small_run, tmp_path, monkeypatch, caplog, capfd
):
    begin = checkpoints.LastCheckpoint.on_train_start

    def signalled(self, trainer, pl_module):
        begin(self, trainer, pl_module)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(checkpoints.LastCheckpoint, "on_train_start", signalled)
    with pytest.raises(SystemExit) as stopped:
        tandem(small_run)
    assert stopped.value.code == 143
    path = "runs/train/version_0/checkpoints/last.ckpt"
    assert f"stopped by SIGTERM at step 1; resume with --ckpt_path {path}" in caplog.text
    assert "Traceback" not in capfd.readouterr().err
    monkeypatch.setattr(checkpoints.LastCheckpoint, "on_train_start", begin)
    assert tandem([*small_run, "--ckpt_path", path]) == 0
    assert tandem(small_run) == 0
    ends = [
        torch.load(f"runs/train/version_{n}/checkpoints/last.ckpt", weights_only=True)
        for n in (1, 2)
    ]
    for key, value in ends[0]["state_dict"].items():
        assert torch.equal(value, ends[1]["state_dict"][key])


if __name__ == "__main__":
    one_rank(*sys.argv[1:])
