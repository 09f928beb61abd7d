"""An input error on one of two ranks ends the command with one sentence, and without a trace."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from lightning.pytorch import Callback
from PIL import Image
from programs import exit_codes, start
from ranks import run_ranks

from tandem_pl.cli import main
from tandem_pl.datamodules.images.decoding import UnreadableImageError
from tandem_pl.errors import InputError, find_input_error

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
    """`python -m tandem_pl`: two processes, and images of which one may be broken."""
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
    return ["-m", "tandem_pl", *verb.split(), "--config", str(place / "config.yaml")]


def fails(rank: int, hook: str, **options: float) -> list:
    init = {"rank": rank, "hook": hook, **options}
    return [{"class_path": "test_rank_errors.Fail", "init_args": init}]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder to run in, with the callbacks of this file on the path."""
    monkeypatch.chdir(tmp_path)
    paths = [str(Path(__file__).parent), os.environ["PYTHONPATH"]]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    return tmp_path


def run(arguments: list[str], place: Path) -> str:
    """Run both ranks; each exits with code 2, and rank zero says why in one sentence."""
    codes, texts = run_ranks(arguments, place)
    assert codes == [2, 2], texts
    assert "Traceback" not in "".join(texts)
    assert [text.count("tandem: error: ") for text in texts] == [1, 0]
    return texts[0]


class Spoil(Callback):
    """Breaks an image after all were checked."""

    def __init__(self, path: str) -> None:
        self.path = path

    def on_fit_start(self, *_) -> None:
        Path(self.path).write_text("no image")


DECODED = "003.png cannot be decoded (it is no image that Pillow knows): replace"


def test_a_bad_image_in_a_loader_worker(place) -> None:
    path = str(place / "a" / "dog" / "003.png")
    callback = [{"class_path": "test_rank_errors.Spoil", "init_args": {"path": path}}]
    assert DECODED in run(command(place, callback=callback, num_workers=2), place)


@pytest.mark.parametrize(
    ("verb", "hook"), [("test --untrained", "on_test_batch_end"), ("fit", "on_train_batch_start")]
)
def test_an_error_on_one_rank(place, verb, hook) -> None:
    """Something else started both, as torchrun does."""
    text = run(command(place, verb, fails(1, hook)), place)
    assert f"tandem: error: {SENTENCE}\n" in text


def test_an_error_on_a_rank_that_lightning_started(place) -> None:
    """In a new interpreter, while rank zero would wait for its peer for ever."""
    callback = fails(1, "on_train_batch_start", other_sleeps=1000.0)
    output = place / "output.txt"
    codes = exit_codes([start(command(place, callback=callback), output)])
    text = output.read_text()
    assert codes == [2], text
    assert "Traceback" not in text
    assert text.count("tandem: error: ") == text.count(f"tandem: error: {SENTENCE}\n") == 1


def test_a_bug_on_one_rank_keeps_its_trace(place) -> None:
    callback = [{"class_path": "test_rank_errors.Bug"}]
    codes, texts = run_ranks(command(place, callback=callback), place)
    assert not {0, 2} & set(codes)
    assert "ZeroDivisionError" in texts[1]
    assert "Traceback" in texts[1]


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
    _, _, *arguments = command(tmp_path, bad="train", num_workers=2)
    assert main([*arguments, "--trainer.devices", "1", "--trainer.strategy", "auto"]) == 2
    assert "003.png cannot be decoded" in capsys.readouterr().err
