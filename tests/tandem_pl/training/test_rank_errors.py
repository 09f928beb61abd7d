"""An input error on one of two ranks ends the command with one sentence, and without a trace."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from lightning.pytorch import Callback
from PIL import Image
from ranks import free_port

from tandem_pl.cli import main
from tandem_pl.datamodules.images.decoding import UnreadableImageError
from tandem_pl.errors import InputError, find_input_error

LIMIT = 240  # seconds; a busy machine is slow
SENTENCE = "a.png cannot be used: replace it."


class Fail(Callback):
    """Raises an input error on one rank, while the other waits for it, or does something else."""

    def __init__(self, rank: int, hook: str, other_sleeps: float = 0.0) -> None:
        self.rank, self.other_sleeps = rank, other_sleeps
        setattr(self, hook, self.fail)

    def fail(self, trainer, *_, **__) -> None:
        if trainer.global_rank == self.rank:
            raise InputError(SENTENCE)
        time.sleep(self.other_sleeps)


def folder(root: Path, each: int, seed: int, bad: bool = False) -> str:
    random = np.random.default_rng(seed)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for number in range(each):
            pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:03}.png")
    if bad:
        (root / "dog" / "003.png").write_text("no image")
    return str(root)


def command(
    place: Path, verb: str = "fit", callback: list | None = None, bad: str = "", **data: object
) -> list[str]:
    """The arguments of `tandem`: two processes, and images of which one may be broken."""
    splits = {"train": ("a", 12, 0), "target": ("t", 4, 1), "test": ("u", 4, 2)}
    sources = {
        split: {name: folder(place / name, each, seed, bad == split)}
        for split, (name, each, seed) in splits.items()
    }
    config = {
        "trainer": {
            "max_steps": 30,
            "accelerator": "cpu",
            "devices": 2,
            "strategy": "ddp",
            "use_distributed_sampler": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "num_sanity_val_steps": 0,
            "check_val_every_n_epoch": 1,
            "logger": False,
            "default_root_dir": str(place / "run"),
            "callbacks": callback or [],
        },
        "model": {
            "class_path": "tandem_pl.MixtureModule",
            "init_args": {
                "network": {
                    "class_path": "tandem_pl.timm_networks.timm_network",
                    "init_args": {"name": "wrn_10_1_silu", "num_classes": 2},
                },
                "objective": "tandem_pl.objectives.Classification",
                "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
            },
        },
        "data": {
            "class_path": "tandem_pl.datamodules.ImageMixtureDataModule",
            "init_args": {**sources, "batch_size": 4, "image_size": 8, "validate_target": True}
            | data,
        },
    }
    (place / "config.yaml").write_text(yaml.safe_dump(config))
    return [
        sys.executable,
        "-m",
        "tandem_pl",
        *verb.split(),
        "--config",
        str(place / "config.yaml"),
    ]


def environment(**more: str) -> dict[str, str]:
    here = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "support")]
    paths = os.pathsep.join([*here, os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | more


def fails(rank: int, hook: str, **options: float) -> list:
    init = {"rank": rank, "hook": hook, **options}
    return [{"class_path": "test_rank_errors.Fail", "init_args": init}]


def run(arguments: list[str], place: Path) -> str:
    done = subprocess.run(
        arguments, cwd=place, env=environment(), capture_output=True, text=True, timeout=LIMIT
    )
    text = done.stdout + done.stderr
    assert done.returncode == 2, text
    assert "Traceback" not in text
    assert text.count("tandem: error: ") == 1
    return text


class Spoil(Callback):
    """Breaks an image after all were checked."""

    def __init__(self, path: str) -> None:
        self.path = path

    def on_fit_start(self, *_) -> None:
        Path(self.path).write_text("no image")


DECODED = "003.png cannot be decoded (it is no image that Pillow knows): replace"


def test_a_bad_image_in_a_loader_worker(tmp_path) -> None:
    path = str(tmp_path / "a" / "dog" / "003.png")
    callback = [{"class_path": "test_rank_errors.Spoil", "init_args": {"path": path}}]
    assert DECODED in run(command(tmp_path, callback=callback, num_workers=2), tmp_path)


@pytest.mark.parametrize(
    ("verb", "rank", "hook", "sleeps"),
    [
        ("test --untrained", 1, "on_test_batch_end", 0.0),
        ("fit", 1, "on_train_batch_start", 1000.0),  # rank 0 would wait for its peer for ever
    ],
)
def test_an_error_on_one_rank(tmp_path, verb, rank, hook, sleeps) -> None:
    callback = fails(rank, hook, other_sleeps=sleeps)
    text = run(command(tmp_path, verb, callback), tmp_path)
    assert f"tandem: error: {SENTENCE}\n" in text


def test_ranks_that_something_else_started(tmp_path) -> None:
    """As torchrun does: every rank exits with code 2, and one of them says why."""
    arguments = command(tmp_path, callback=fails(1, "on_train_batch_start"))
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            arguments,
            cwd=tmp_path,
            env=environment(**shared, NODE_RANK="0", LOCAL_RANK=str(number)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in (0, 1)
    ]
    try:
        texts = [process.communicate(timeout=LIMIT)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [2, 2], texts
    assert "Traceback" not in "".join(texts)
    assert [text.count(f"tandem: error: {SENTENCE}\n") for text in texts] == [1, 0]


def test_a_bug_on_one_rank_keeps_its_trace(tmp_path) -> None:
    callback = [{"class_path": "test_rank_errors.Bug"}]
    done = subprocess.run(
        command(tmp_path, callback=callback),
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode not in (0, 2)
    assert "ZeroDivisionError" in done.stderr
    assert "Traceback" in done.stderr


class Bug(Callback):
    """Divides by zero on rank 1."""

    def on_train_batch_start(self, trainer, *_) -> None:
        1 / (1 - trainer.global_rank)


# ---- the sentence in what PyTorch makes of it ----


@pytest.mark.parametrize("kind", [InputError, UnreadableImageError])
def test_an_error_of_a_worker_keeps_its_sentence(kind) -> None:
    from torch._utils import ExceptionWrapper

    try:
        try:
            raise OSError("gone")
        except OSError as error:
            raise kind(SENTENCE) from error
    except InputError:
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(kind) as caught:
        wrapped.reraise()
    assert str(caught.value) == SENTENCE
    assert str(kind("Caught a cold: see a doctor.")) == "Caught a cold: see a doctor."


def test_an_error_of_a_process_that_torch_started() -> None:
    from torch.multiprocessing import ProcessRaisedException

    place = f"{UnreadableImageError.__module__}.UnreadableImageError"
    trace = 'Traceback (most recent call last):\n  File "a.py", line 1, in b\n'
    for last, found in (
        (f"{place}: {SENTENCE}\n", SENTENCE),
        (f"tandem_pl.errors.InputError: {SENTENCE}", SENTENCE),
        (f"ValueError: {SENTENCE}\n", None),
        (f"{place}: {SENTENCE}\nRuntimeError: other", None),
    ):
        error = find_input_error(ProcessRaisedException(f"\n-- Process 1\n{trace}{last}", 1, 7))
        assert (None if error is None else str(error)) == found
    assert find_input_error(KeyError("x")) is None


def test_one_process_with_workers(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))
    _, _, _, *arguments = command(tmp_path, bad="train", num_workers=2)
    assert main([*arguments, "--trainer.devices", "1", "--trainer.strategy", "auto"]) == 2
    assert "003.png cannot be decoded" in capsys.readouterr().err
