"""What the README tells people to type works, and says what it says."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from tandem_pl.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = [
    *("--trainer.max_steps", "60", "--trainer.limit_val_batches", "1"),
    *("--data.target_bytes", "3000", "--data.test_bytes", "3000"),
    *("--model.network.config.hidden_size", "16", "--model.network.config.num_hidden_layers", "1"),
]


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def test_every_command_runs_in_order(tmp_path, monkeypatch, capsys):
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))
    seen = []
    for line in "".join(blocks("bash")).splitlines():
        for command in line.split("&&"):
            program, *arguments = shlex.split(command)
            if program in ("pip", "pytest"):  # .ci/run types these
                assert command.strip() in ("pip install -e .", 'pip install -e ".[dev]"', "pytest")
                continue
            assert program == "tandem", command
            small = SMALL if arguments[0] == "fit" else []
            if "train.yaml" in command:
                small = [*small, "--data.epoch_batches", "30"]
            assert main([*arguments, *small]) == 0, command
            seen.append(arguments[0])
    assert seen == ["fit", "fit", "fit", "test", "test"]
    assert "exp(mean loss)" in capsys.readouterr().out


def test_the_configuration_for_your_own_text_runs(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))
    (block,) = blocks("yaml")
    (tmp_path / "mine.yaml").write_text(block)
    for folder, ending in (("books", "txt"), ("src", "py"), ("tools", "py")):
        (tmp_path / folder).mkdir()
        for number in range(12):
            text = f"{folder} {number}\n" + "".join(f"{number * line} " for line in range(99))
            (tmp_path / folder / f"{number}.{ending}").write_text(text)
    (command,) = re.findall(r"`tandem (fit --config configs/quickstart.yaml --config .*?)`", README)
    small = [option for option in SMALL if "bytes" not in option and option != "3000"]
    assert main([*shlex.split(command), *small]) == 0
    assert next(tmp_path.glob("runs/quickstart/version_0/mixture.yaml"))


def test_the_example_runs_and_its_comment_is_true(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks("python"):
        exec(block, names)
    weights = names["reweighting"].mixture.weights
    assert weights["clean"] > 0.5
    assert weights["noise"] < 0.2


@pytest.mark.parametrize("path", re.findall(r"(?:configs|tests/benchmarks|\.ci)/[\w.]+", README))
def test_every_file_it_names_is_there(path):
    assert (ROOT / path).exists()


def test_its_defaults_are_the_defaults():
    from tandem_pl.callbacks import TandemReweighting

    settings = TandemReweighting().settings()
    rows = re.findall(r"^\| `(\w+)`[^|]*\| ([\d.]+) \|", README, re.M)
    assert len(rows) >= 5
    for name, value in rows:
        if name != "penalty":
            assert settings[name] == float(value)
