"""`tandem export RUN --to FORMAT`."""

import json
import subprocess
import sys

import numpy as np
import pytest
import yaml

from tandem_pl import Mixture
from tandem_pl.cli import main
from tandem_pl.export.formats import FORMATS
from tandem_pl.run_files import write_trajectory

LAST = {"web": 0.5, "code": 0.5, "empty": 0.0}
AVERAGE = {"web": 0.75, "code": 0.25, "empty": 0.0}
ROWS = np.array([[0.25, 0.25, 0.5], [0.5, 0.5, 0.0]])


@pytest.fixture
def run(tmp_path):
    Mixture(LAST, AVERAGE, {"method": "tandem"}).save(tmp_path / "run" / "mixture.yaml")
    write_trajectory(tmp_path / "run" / "trajectory.csv", list(LAST), [0, 20], ROWS)
    return tmp_path / "run"


def export(capsys, *arguments):
    code = main(["export", *map(str, arguments)])
    output = capsys.readouterr()
    return code, output.out, output.err


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_from_a_run_and_from_its_file(name, run, capsys):
    paths = ["--paths", "data/{domain}"] if FORMATS[name].paths else []
    code, text, notes = export(capsys, run, "--to", name, *paths)
    assert code == 0
    assert "0.75" in text
    assert ("left out for their weight of 0: empty." in notes) != FORMATS[name].zeros
    assert ("data/code" in text) == FORMATS[name].paths
    code, again, _ = export(capsys, run / "mixture.yaml", "--to", name, *paths)
    assert code == 0
    assert text.splitlines()[1:] == again.splitlines()[1:]  # the first may say where from


def test_average_last_and_trajectory(run, capsys):
    assert json.loads(export(capsys, run, "--to", "json")[1]) == AVERAGE
    assert json.loads(export(capsys, run, "--to", "json", "--which", "last")[1]) == LAST
    schedule = json.loads(export(capsys, run, "--to", "json", "--which", "trajectory")[1])
    assert [row["step"] for row in schedule] == [0, 20]
    assert [list(row["weights"].values()) for row in schedule] == ROWS.tolist()
    text = export(capsys, run, "--to", "csv", "--which", "trajectory")[1]
    assert text == (run / "trajectory.csv").read_text()


def test_clusters_are_listed_in_a_file_that_is_named(run, tmp_path, capsys):
    assert "clusters" not in export(capsys, run, "--to", "json")[2]
    about = {"data": {"folder": str(tmp_path / "corpus")}}
    Mixture(LAST, AVERAGE, about).save(run / "mixture.yaml")
    assert "clusters" not in export(capsys, run, "--to", "json")[2]
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "clusters.csv").touch()
    note = export(capsys, run, "--to", "json")[2]
    assert f"{tmp_path}/corpus/clusters.csv has the domain of each document" in note
    assert main(["report", str(run), "--out", str(tmp_path / "page.html")]) == 0
    assert "corpus/clusters.html" in (tmp_path / "page.html").read_text()


def test_out_is_a_file_and_standard_output_is_only_the_text(run, tmp_path, capsys):
    out = tmp_path / "new" / "blend.txt"
    code, said, _ = export(capsys, run, "--to", "megatron", "--out", out, "--paths.web", "a/web")
    assert code == 0
    assert said == f"written to {out}\n"
    assert out.read_text() == "0.75 a/web 0.25 PATH/TO/code\n"
    assert sorted(path.name for path in out.parent.iterdir()) == ["blend.txt"]


def test_paths_by_option_template_and_file(run, tmp_path, capsys):
    (tmp_path / "paths.yaml").write_text("web: /w\ncode: /c\n")
    for options in (
        ["--paths.web", "/w", "--paths.code=/c"],
        ["--paths", tmp_path / "paths.yaml"],
        ["--paths", "/{domain}", "--paths.web", "/w", "--paths.code", "/c"],
    ):
        code, text, notes = export(capsys, run, "--to", "mosaicml", *options)
        assert code == 0
        streams = yaml.safe_load(text)["streams"]
        assert [streams[name]["local"] for name in ("web", "code")] == ["/w", "/c"]
        assert "no path" not in notes


def test_a_missing_path_has_a_placeholder_and_a_note(run, capsys):
    _, text, notes = export(capsys, run, "--to", "nemo", "--paths.code", "c")
    assert yaml.safe_load(text)["paths"][1::2] == ["PATH/TO/web", "c"]
    assert notes.splitlines()[-1].startswith("tandem: note: no path for web: replace")


def test_a_domain_of_a_thousand(tmp_path, capsys):
    names = [f"d.{m}" for m in range(1000)]
    weights = dict(zip(names, np.random.default_rng(0).dirichlet(np.ones(1000)), strict=True))
    Mixture(weights).save(tmp_path / "mixture.yaml")
    _, text, notes = export(capsys, tmp_path, "--to", "megatron", "--paths.d.7", "here")
    assert len(text.split()) == 2000
    assert " here " in text
    assert "and 991 more" in notes


def test_it_starts_without_torch(run):
    code = (
        "import sys; from tandem_pl.cli import main; "
        f"assert main(['export', {str(run)!r}, '--to', 'json']) == 0; "
        "assert not {'torch', 'lightning', 'transformers', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


MISTAKES = {
    "format": (["--to", "mosaic"], "--to mosaic is unknown: did you mean 'mosaicml'?"),
    "which": (["--to", "json", "--which", "mean"], "--which='mean' must be one of"),
    "neither": ([], "give either --to FORMAT"),
    "both": (["--to", "json", "--network", "x"], "give either --to FORMAT"),
    "trajectory": (["--to", "litdata", "--which", "trajectory"], "one of levanter, json, csv"),
    "domain": (["--to", "nemo", "--paths.wbe", "x"], "unknown domain 'wbe': did you mean 'web'"),
    "no value": (["--to", "nemo", "--paths.web"], "--paths.web needs the path"),
    "no paths": (
        ["--to", "huggingface", "--paths.web", "x"],
        "--paths is for mosaicml, megatron, nemo: huggingface has only names and weights; leave it",
    ),
    "no template": (["--to", "csv", "--paths", "{domain}"], "csv has only names and weights"),
    "no map": (["--to", "nemo", "--paths", "gone.yaml"], "--paths='gone.yaml' is neither"),
    "option": (["--to", "json", "--too"], "unknown option --too: did you mean '--to'?"),
    "network's": (["--to", "json", "--checkpoint", "x"], "--checkpoint is for --network"),
    "mixture's": (["--network", "n", "--out", "x"], "--out is for --to FORMAT"),
    "no config": (["--network", "n"], "has no config.yaml"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(mistake, run, capsys, monkeypatch):
    monkeypatch.chdir(run)
    options, message = MISTAKES[mistake]
    code, out, error = export(capsys, run, *options)
    assert code == 2
    assert out == ""
    assert message in error
    assert error.startswith("tandem: error: ")
    assert error.count("\n") == 1
    assert sorted(path.name for path in run.iterdir()) == ["mixture.yaml", "trajectory.csv"]


def test_no_run_there(tmp_path, capsys):
    assert "has no mixture.yaml" in export(capsys, tmp_path, "--to", "json")[2]
    assert "does not exist" in export(capsys, tmp_path / "gone", "--to", "json")[2]
    assert "are required: run" in export(capsys)[2]
    Mixture(LAST).save(tmp_path / "alone.yaml")
    arguments = (tmp_path / "alone.yaml", "--to", "json", "--which", "trajectory")
    assert "trajectory.csv is not a trajectory.csv" in export(capsys, *arguments)[2]


def test_help_names_every_format(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["export", "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in FORMATS)
