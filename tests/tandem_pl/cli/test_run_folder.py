"""`tandem test RUN`: a run's configuration, its last checkpoint and its data, and its folder."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from tandem_pl.cli import main, run_folder
from tandem_pl.cli.run_folder import expand

SMALL = [
    *("--trainer.max_steps", "20", "--trainer.accelerator", "cpu"),
    *("--model.network.config.hidden_size", "16", "--model.network.config.num_hidden_layers", "1"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run of `tandem init text`."""
    folder = tmp_path_factory.mktemp("place")
    for domain in ("books", "src"):
        (folder / domain).mkdir()
        for n in range(40):
            text = " ".join(f"{domain} {n * k % 97}" for k in range(200))
            (folder / domain / f"{n}.py").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TANDEM_CACHE", str(folder / "cache"))
        assert main(["init", "text"]) == 0
        assert main(["fit", "--config", "text.yaml", *SMALL]) == 0
        yield folder


@pytest.fixture
def run(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("TANDEM_CACHE", str(place / "cache"))
    return Path("runs/text/version_0")


def error(capsys):
    lines = capsys.readouterr().err.strip().splitlines()
    return lines[-1].removeprefix("tandem: error: ")


@pytest.mark.parametrize(
    ("verb", "file"),
    [("test", "test.csv"), ("validate", "validation.csv"), ("predict", "predictions.csv")],
)
def test_a_folder_is_the_trained_network_and_takes_the_results(verb, file, run, capsys):
    assert main([verb, str(run), "--data.eval_batch_size", "7"]) == 0
    assert f"{verb}: {run}/checkpoints/last.ckpt, after 20 steps" in capsys.readouterr().out
    by_folder = (run / file).read_text()
    (run / file).unlink()
    assert main([verb, "--config", f"{run}/config.yaml", "--ckpt_path", f"{run}/last.ckpt"]) == 2
    checkpoint = f"{run}/checkpoints/last.ckpt"
    options = ["--data.eval_batch_size", "7", "--ckpt_path", checkpoint]
    assert main([verb, "--config", f"{run}/config.yaml", *options]) == 0
    assert (run / file).read_text() == by_folder
    assert [path.name for path in run.parent.iterdir()] == ["version_0"]


def test_the_newest_last_checkpoint_may_lie_where_the_configuration_says(run, tmp_path):
    saved = tmp_path / "saved" / "last.ckpt"
    saved.parent.mkdir()
    torch.save({}, saved)
    callback = {"class_path": "ModelCheckpoint", "init_args": {"dirpath": str(saved.parent)}}
    config = {"trainer": {"callbacks": [callback]}}
    assert run_folder.last_checkpoint(run, config) == saved


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config", "text.yaml"],
            "`tandem test` has no checkpoint and would use random weights: give a run's folder, as "
            "in `tandem test RUN`, or --ckpt_path FILE, or --untrained.",
        ),
        (
            ["--config", "text.yaml", "--ckpt_path", "last"],
            "ckpt_path=last is for `tandem fit`: type `tandem test RUN` for the last checkpoint of "
            "a run, or give another by its path, RUN/checkpoints/NAME.ckpt.",
        ),
        (
            ["runs/text"],
            "run 'runs/text' has no config.yaml of a run: did you mean 'runs/text/version_0'?",
        ),
        (["runs/gone"], "run 'runs/gone' does not exist: give the folder of `tandem fit`."),
    ],
)
def test_no_random_weights_without_a_word(arguments, message, run, capsys):
    assert main(["test", *arguments]) == 2
    assert error(capsys) == message


def test_untrained_asks_for_random_weights(run, tmp_path):
    options = ["--untrained", "--trainer.logger.save_dir", str(tmp_path), *SMALL]
    assert main(["test", "--config", "text.yaml", *options]) == 0
    random = (tmp_path / "text/version_0/test.csv").read_text()
    assert main(["test", str(run)]) == 0
    assert random != (run / "test.csv").read_text()


def test_a_run_without_a_checkpoint_is_named(tmp_path):
    (tmp_path / "config.yaml").write_text("data: null")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "epoch=1.ckpt").touch()
    message = "has no last.ckpt; in its folder checkpoints: epoch=1.ckpt; give --ckpt_path FILE"
    with pytest.raises(ValueError, match=re.escape(message)):
        expand(str(tmp_path), [])
    assert expand(str(tmp_path), ["--untrained"])[2:] == ["--untrained"]


LIKE = """
class Corpus:
    def __init__(self, tokenizer=None, like=None): ...

class Images:
    def __init__(self, like=None): ...
"""


@pytest.mark.parametrize(
    ("name", "folder", "given", "expected"),
    [
        ("Corpus", "/", [], True),
        ("Corpus", "/gone", [], False),  # the data module builds it again, and says if it differs
        ("Corpus", None, [], False),  # from before runs recorded it
        ("Corpus", "/", ["--data.like", "other"], False),
        ("Images", "/", [], False),  # whose `like` is something else
    ],
)
def test_the_runs_own_corpus_is_used(name, folder, given, expected, tmp_path, monkeypatch):
    (tmp_path / "like_data.py").write_text(LIKE)
    monkeypatch.syspath_prepend(tmp_path)
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").touch()
    (run / "config.yaml").write_text(f"data: {{class_path: like_data.{name}}}")
    (run / "mixture.yaml").write_text(yaml.safe_dump({"data": {"folder": folder}}))
    options = expand(str(run), given)
    assert (["--data.init_args.like", str(run)] == options[4:6]) == expected
    assert options[-len(given) :] == given or not given


def test_last_in_a_new_version_has_nothing_to_resume_from(run, capsys):
    arguments = ["fit", "--config", "text.yaml", *SMALL, "--ckpt_path", "last"]
    assert main(arguments) == 2
    assert error(capsys) == (
        "ckpt_path=last: there is nothing to resume from in runs/text/version_1, a new folder: "
        "give its path, such as --ckpt_path runs/text/version_0/checkpoints/last.ckpt."
    )
    assert not (run.parent / "version_1").exists()


def test_last_in_a_folder_that_the_user_named_starts_and_continues(run, tmp_path, capsys):
    job = ["--trainer.logger.save_dir", str(tmp_path), "--trainer.logger.version", "job"]
    arguments = ["fit", "--config", "text.yaml", *SMALL, *job, "--ckpt_path", "last"]
    assert main(arguments) == 0
    assert "job has no checkpoint yet; starting at step 0" in capsys.readouterr().out
    assert main([*arguments, "--trainer.max_steps", "40"]) == 0
    last = torch.load(tmp_path / "text/job/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 40
