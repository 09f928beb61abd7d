"""Several comparisons at once: the shipped suite, and the summary of small ones."""

import csv
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from tandem_pl.cli import main
from tandem_pl.compare import run
from tandem_pl.compare.cells import build_cells
from tandem_pl.compare.config import read_comparison
from tandem_pl.compare.jobs import Job
from tandem_pl.compare.results import collect
from tandem_pl.compare.summary import draw_regret, summarize, summary_lines, summary_page

CONFIGS = Path(__file__).parents[3] / "configs"
SUITE = sorted((CONFIGS / "suite").glob("*.yaml"))
ROWS = ["uniform", "proportional", "temperature", "unimax", "odm", "ado", "dga", "doremi", "tandem"]
SIZES = {"scale": 0.02, "target_bytes": 2000, "test_bytes": 2000, "max_document_bytes": 1000}
#: pretends to train; problem "bad" cannot be built, and the second problem prefers temperature
SCRIPT = """
import pathlib, sys, yaml
config = yaml.safe_load(open(sys.argv[1]))
folder = pathlib.Path(sys.argv[1]).parent
if "bad" in folder.parts:
    sys.exit("tandem: error: too little text.")
(folder / "run").mkdir()
weights = config["trainer"]["callbacks"][0]["init_args"].get("weights")
temperature = "temperature" in str(weights)
gap = {"one": 0.3, "two": -0.1}["one" if "one" in folder.parts else "two"]
loss = 1.0 + config["seed_everything"] / 10 + gap * temperature
(folder / "run" / "test.csv").write_text(
    f"domain,loss,perplexity\\na,{loss},1\\nmean,0,1\\nexp(mean loss),,1\\n")
(folder / "run" / "mixture.yaml").write_text(yaml.safe_dump(
    {"weights": {"a": 1.0}, "average": {"a": 1.0}, "settings": {}}))
(folder / "seconds.txt").write_text("6.0")
"""
BASE = {
    "trainer": {"max_steps": 20},
    "model": {
        "class_path": "tandem_pl.MixtureModule",
        "init_args": {
            "network": {"class_path": "torch.nn.Identity"},
            "objective": "tandem_pl.objectives.CausalLanguageModeling",
        },
    },
    "data": {"class_path": "tandem_pl.datamodules.MixtureDataModule", "init_args": {}},
}


@pytest.mark.parametrize("path", SUITE, ids=lambda path: path.stem)
def test_a_problem_of_the_suite_runs(path, tmp_path, monkeypatch):
    study = read_comparison(path, folder=str(tmp_path / "out"), workers=1)
    assert [entry.label for entry in study.entries] == ROWS
    assert (study.name, study.seeds) == (path.stem, (0, 1, 2, 3, 4, 5))
    cells = build_cells(study)
    assert len(cells) == 6 * 10  # DoReMi learns, and trains at what it learned
    config = next(cell for cell in cells if cell.label == "dga").config
    if path.stem in ("restricted", "abundant"):  # whose data other tests run on
        assert config["data"]["class_path"] == "tandem_pl.datamodules.EnvironmentCorpus"
        return
    config["trainer"]["max_steps"] = 20
    if path.stem == "digits":
        pytest.importorskip("sklearn")
    else:
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
        config["model"]["init_args"]["network"]["init_args"]["config"] |= sizes
        config["data"]["init_args"] |= SIZES
    (tmp_path / "cell.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))
    assert main(["fit", "--config", str(tmp_path / "cell.yaml")]) == 0
    assert next((tmp_path / "out").glob("**/run/mixture.yaml"))


def test_the_suite_is_seven_problems():
    names = ["abundant", "digits", "distractors", "duplicated", "foreign", "packages", "restricted"]
    assert [path.stem for path in SUITE] == names


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with three comparisons and a worker that pretends to train."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script.py").write_text(SCRIPT)
    monkeypatch.setattr(Job, "command", (sys.executable, str(tmp_path / "script.py")))
    monkeypatch.setattr(run, "POLL_SECONDS", 0.02)
    content = {"base": BASE, "methods": "rows.yaml", "seeds": [0, 1], "workers": 1}
    (tmp_path / "rows.yaml").write_text(yaml.safe_dump({"uniform": None, "temperature": None}))
    for name in ("one", "two", "bad"):
        (tmp_path / f"{name}.yaml").write_text(
            yaml.safe_dump(content | {"folder": f"runs/suite/{name}"})
        )
    return tmp_path


def test_several_comparisons_make_a_summary(place, capsys):
    assert main(["compare", "--config", "one.yaml", "two.yaml", "bad.yaml"]) == 0
    said = capsys.readouterr()
    assert "bad is left out: the base configuration cannot be run: too little text." in said.err
    folder = place / "runs/suite"
    page = (folder / "summary.md").read_text()
    assert page.split("\n![")[0].strip() in said.out
    assert page.startswith("# Summary over 2 of 3 problems\n")
    assert "Left out: **bad**" in page
    assert (folder / "summary.png").read_bytes()[1:4] == b"PNG"
    assert (folder / "one/comparison.md").exists()
    assert (folder / "two/summary.csv").exists()
    with open(folder / "summary.csv", newline="") as file:
        lines = {(row["problem"], row["method"]): row for row in csv.DictReader(file)}
    assert len(lines) == 2 * 3
    assert float(lines["one", "temperature"]["regret"]) == pytest.approx(0.3)
    assert float(lines["two", "uniform"]["regret"]) == pytest.approx(0.1)
    average = lines["average", "temperature"]
    for key in ("regret", "low", "high"):
        assert float(average[key]) == pytest.approx(0.15)
    ratio = np.mean(np.expm1([0.3, -0.1]))
    assert float(average["perplexity"]) == pytest.approx(ratio)
    rows = [line for line in page.splitlines() if line.startswith("| temperature |")]
    cells = [cell.strip() for cell in rows[0].strip("|").split("|")]
    assert cells[1:] == ["0.1500 [0.1500, 0.1500]", "0.3000", "1-0-1", f"{100 * ratio:+.1f} %"]
    assert math.isnan(float(average["loss"]))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("result.yaml")}
    assert main(["compare", "--config", "one.yaml", "two.yaml"]) == 0  # nothing is left to run
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("result.yaml")}
    assert (folder / "summary.md").read_text().startswith("# Summary over 2 problems\n")


def test_two_comparisons_of_one_folder_or_name_are_refused(place, capsys):
    (place / "copy.yaml").write_text((place / "one.yaml").read_text())
    assert main(["compare", "--config", "one.yaml", "copy.yaml"]) == 2
    assert "is that of two comparisons" in capsys.readouterr().err
    (place / "other").mkdir()
    other = (place / "one.yaml").read_text().replace("runs/suite/one", "runs/suite/other")
    (place / "other/one.yaml").write_text(other.replace("rows.yaml", "../rows.yaml"))
    assert main(["compare", "--config", "one.yaml", "other/one.yaml"]) == 2
    assert "two files with the name 'one', which the summary" in capsys.readouterr().err
    other = yaml.safe_load((place / "two.yaml").read_text()) | {"folder": "/nowhere/two"}
    (place / "far.yaml").write_text(yaml.safe_dump(other))
    assert main(["compare", "--config", "one.yaml", "far.yaml"]) == 2
    assert "no common one for the summary: give --folder." in capsys.readouterr().err


def test_a_problem_without_any_result_is_shown_as_failed(place):
    """Its data could be built, and then every cell failed."""
    studies = [read_comparison(place / f"{name}.yaml") for name in ("one", "two")]
    cells = [build_cells(study) for study in studies]
    shares = {"a": 1.0}
    for cell in cells[0]:
        cell.folder.mkdir(parents=True)
        result = {"losses": shares, "weights": shares, "settings": {}, "seconds": 1.0}
        cell.result.write_text(yaml.safe_dump(result))
    runs = [collect(study, some) for study, some in zip(studies, cells, strict=True)]
    summary = summarize(studies, runs, {})
    assert summary.average["regret"].isna().all()
    assert summary.regret["one"].tolist() == [0.0, 0.0]
    assert summary_page(summary).count(" failed |") == 2
    assert b"two,uniform,fresh,0,nan" in summary_lines(summary)
    assert draw_regret(summary) is None
