import json
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from tandem_pl.cli import main
from tandem_pl.cli.arguments import make_parser
from tandem_pl.cli.prepare import prepare, table

ROOT = Path(__file__).parents[3]
MANIFEST = {
    "splits": {
        "train": {
            "a": {"documents": 1200, "tokens": 3000, "longest_document": 70},
            "b": {"documents": 5, "tokens": 1000, "longest_document": 900},
        }
    },
    "duplicates_dropped": {"a": 2, "b": 0},
    "near_duplicates_dropped": {
        "a": {"train": 3, "target": 1, "test": 0},
        "b": {"train": 0, "target": 0, "test": 0},
    },
}


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for domain, count in (("my-news", 60), ("code", 40)):
        lines = [json.dumps({"text": f"{domain} number {i} says {i * i}."}) for i in range(count)]
        (tmp_path / f"{domain}.jsonl").write_text("\n".join(lines))
    return ["--domains.my-news", "my-news.jsonl", "--domains.code", "code.jsonl", "--workers", "1"]


def test_the_table():
    lines = [line.split() for line in table(MANIFEST, budget=6000).splitlines()]
    assert lines[0][:3] == ["domain", "documents", "tokens"]
    # 6000 tokens are 3000 a domain, and 1.5 times all 4000.
    assert lines[1] == ["a", "1,200", "3,000", "0.7500", "70", "2", "4", "1.0", "1.5"]
    assert lines[2] == ["b", "5", "1,000", "0.2500", "900", "0", "0", "3.0", "1.5"]
    assert lines[3] == ["all", "1,205", "4,000", "1.0000", "900", "2", "4", "1.5"]
    assert "epochs" not in table(MANIFEST)


def test_a_path_and_a_column_are_taken_as_typed(tmp_path, monkeypatch, capsys):
    """YAML would need quotes around both."""
    monkeypatch.chdir(tmp_path)
    rows = [{"no": "ab"[i % 2], "text": f"Number {i} says {i * i}."} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--dataset", "./rows.jsonl", "--domain-column=no", "--block-size", "16"]
    assert main(["prepare", *options, "--out", "o", "--workers", "1"]) == 0
    assert "./rows.jsonl" in Path("o/manifest.yaml").read_text()


def test_the_printed_command_trains_on_the_corpus_from_any_folder(
    corpus, capsys, tmp_path, monkeypatch
):
    corpus_folder = Path.cwd()
    assert main(["prepare", *corpus, "--out", "o", "--train-bpe", "300", "--block-size=16"]) == 0
    printed = capsys.readouterr().out
    assert "written to o/manifest.yaml" in printed
    (command,) = (line[6:] for line in printed.splitlines() if line.startswith("next: "))
    words = shlex.split(command)
    assert words[0] == "tandem"
    small = ["--trainer.max_steps", "20", "--trainer.limit_val_batches", "1"]
    small += ["--model.network.config.num_hidden_layers", "1"]
    small += ["--model.network.config.hidden_size", "16"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    words = [str(corpus_folder / word) if word.startswith("o/") else word for word in words]
    assert main([*words[1:], *small]) == 0
    assert yaml.safe_load((elsewhere / "runs/o/version_0/mixture.yaml").read_text())


def test_errors_are_one_line(corpus, capsys):
    arguments = ["prepare", *corpus, "--out", "o"]
    assert main([*arguments, "--block_size", "9999"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("tandem: error: domain 'my-news' has ")
    assert main([*arguments, "--budget", "0"]) == 2
    assert "budget is 0" in capsys.readouterr().err
    assert main([*arguments, "--domains.copy", "code.jsonl", "--budget", "1e6"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error == (
        "tandem: error: domain 'copy': all 40 documents are also in an earlier domain; give it "
        "other text, or leave it out."
    )
    assert main([*arguments, "--blocksize", "16"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        "tandem: error: unknown option --blocksize: did you mean '--block_size'?"
    )
    assert error.count("\n") == 1
    assert not Path("o").exists()


def test_overwriting_is_asked_for(corpus):
    arguments = ["prepare", *corpus, "--out", "o", "--block-size", "16"]
    assert [main(arguments), main(arguments)] == [0, 2]
    assert main([*arguments, "--overwrite"]) == 0
    assert main(["prepare", "--overwrite", *arguments[1:]]) == 0


def test_the_shipped_configuration_runs_and_names_every_option(tmp_path, monkeypatch, capsys):
    for folder in ("tandem_pl", "callbacks", "datamodules", "tests", "configs"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    path = Path("configs/prepare.yaml")
    given = yaml.safe_load(path.read_text())
    options = {action.dest for action in make_parser(prepare, config=True)._actions} - {
        "config",
        "help",
    }
    assert set(given) == {name for name in options if "print" not in name}
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if value.strip() and not key.startswith("#"):
            assert "#" in line, line
    assert main(["prepare", "--config", str(path), "--workers", "1"]) == 0
    assert "library" in capsys.readouterr().out
