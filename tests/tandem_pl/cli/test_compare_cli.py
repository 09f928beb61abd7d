"""`tandem compare`: a tiny comparison in processes, resumed, stopped and failing in part."""

import math
import os
import signal
import time
from pathlib import Path

import pytest
import yaml
from programs import exit_codes, start
from small_study import BASE, TANDEM, compare, in_folder, pretend, read, stamps, write_study

from tandem_pl.compare.locks import lock_folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder to work in, with a data module and an objective of one's own."""
    in_folder(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture
def place(home, monkeypatch):
    """The same with a worker that only pretends to train."""
    pretend(home, monkeypatch)
    return home


def test_two_methods_for_real(home, capsys):
    write_study(home, seeds=[3])
    assert compare() == 0, capsys.readouterr()
    said = capsys.readouterr().out
    out = home / "out"
    rows = read(out / "results.csv")
    names = {(row["method"], row["network"], row["seed"]) for row in rows}
    assert len(rows) == 3 * 2
    assert len(names) == 3
    for row in rows:
        stage = "learn" if row["network"] == "online" else "final"
        run = out / row["method"] / f"seed-{row['seed']}" / stage / "run"
        tested = {line["domain"]: line["loss"] for line in read(run / "test.csv")}
        assert float(row["loss"]) == float(tested[row["domain"]])
    learned = yaml.safe_load((out / "tandem/seed-3/learn/run/mixture.yaml").read_text())
    trained = yaml.safe_load((out / "tandem/seed-3/final/run/mixture.yaml").read_text())
    assert trained["weights"] == learned["average"] != {"a": 0.5, "b": 0.5}
    page = (out / "comparison.md").read_text()
    assert page.split("\n![")[0].strip() in said
    for picture in ("comparison.png", "mixtures.png"):
        assert (out / picture).read_bytes()[1:4] == b"PNG"
    cell = yaml.safe_load((out / "uniform/seed-3/final/cell.yaml").read_text())
    assert cell["data"]["init_args"]["seed"] == cell["seed_everything"] == 3
    assert not (out / ".try").exists()


def test_what_is_finished_is_kept(place, capsys):
    write_study(place)
    assert compare() == 0
    first = stamps(place / "out")
    assert len(first) == 6
    assert compare() == 0
    assert stamps(place / "out") == first
    (place / "out/tandem/seed-0/learn/result.yaml").unlink()
    assert compare() == 0
    again = stamps(place / "out")
    changed = {path.relative_to(place / "out") for path in first if again[path] != first[path]}
    assert changed == {Path("tandem/seed-0/learn"), Path("tandem/seed-0/final")}
    page = capsys.readouterr().out.split("# study")[-1]
    line = next(line for line in page.splitlines() if line.startswith("| tandem (online)"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2] == "-0.2500 [-0.2500, -0.2500]"  # of two seeds: not marked
    assert float(cells[-3]) == pytest.approx((3 + 6 - 1 + 2 / 3) / 5, abs=0.005)
    assert cells[-2:] == ["0", "0.1"]
    assert compare("--seeds", 0, "--methods", "uniform") == 0
    assert "1 methods, 1 seeds: 1 cells, 1 of them done" in capsys.readouterr().out


def test_results_of_other_settings_are_not_mixed(place, capsys):
    write_study(place)
    assert compare() == 0
    before = stamps(place / "out")
    write_study(place, methods={"uniform": None, "tandem": TANDEM | {"free_steps": 4}})
    assert compare() == 2
    assert "tandem/seed-0/learn holds a result of other settings" in capsys.readouterr().err
    assert stamps(place / "out") == before
    assert compare("--overwrite") == 0
    after = stamps(place / "out")
    kept = {path.parent.parent.name for path in before if after[path] == before[path]}
    assert kept == {"uniform"}


def test_a_cell_that_fails_leaves_the_others_alone(place, capsys):
    broken = TANDEM | {"overrides": {"data": {"broken": True}}}
    write_study(
        place, methods={"uniform": None, "tandem": TANDEM, "bad": broken | {"method": "tandem"}}
    )
    with pytest.raises(SystemExit) as stopped:
        compare()
    assert stopped.value.code == 1
    said = capsys.readouterr()
    assert "bad/seed-1/learn failed: broken=true was asked for." in said.err
    assert "- bad, seed 0, 1: learning failed: broken=true was asked for." in said.out
    assert "- bad (online), seed 0, 1: broken=true was asked for." in said.out
    assert "something long" in (place / "out/bad/seed-0/learn/failed.txt").read_text()
    rows = read(place / "out/summary.csv")
    means = {
        (row["method"], row["network"]): float(row["mean"])
        for row in rows
        if row["metric"] == "loss"
    }
    assert means["tandem", "online"] == pytest.approx(1.3)
    assert math.isnan(means["bad", "fresh"])
    write_study(
        place, methods={"uniform": None, "tandem": TANDEM, "bad": TANDEM | {"method": "tandem"}}
    )
    assert compare() == 0  # fixed: only what failed is run again
    assert len(stamps(place / "out")) == 10


def test_a_base_that_cannot_run_is_one_sentence(place, capsys):
    base = yaml.safe_load(yaml.safe_dump(BASE))
    base["data"]["init_args"]["broken"] = True
    write_study(place, base=base)
    assert compare() == 2
    error = capsys.readouterr().err
    assert error == (
        "tandem: error: the base configuration cannot be run: broken=true was asked for.\n"
    )
    assert not stamps(place / "out")


def test_a_folder_serves_one_comparison_at_a_time(place, capsys):
    write_study(place)
    with lock_folder(place / "out"):
        assert compare() == 2
    assert "is in use by another command" in capsys.readouterr().err


def test_stopped_and_gone_on(place):
    base = yaml.safe_load(yaml.safe_dump(BASE))
    base["data"]["init_args"]["sleep"] = 0.6
    write_study(place, base=base, methods=["uniform"], seeds=[0, 1, 2])
    program, output = place / "program.py", place / "output.txt"
    program.write_text(
        "import sys; from tandem_pl.compare.jobs import Job; from tandem_pl.cli import main; "
        f"Job.command = (sys.executable, {str(place / 'script.py')!r}); "
        "sys.exit(main(['compare', '--config', 'study.yaml']))"
    )
    process = start([str(program)], output)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:  # until a cell is done and the next one sleeps
        started = len(list((place / "out").rglob("started")))
        if 0 < len(stamps(place / "out")) < started:
            break
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    codes, error = exit_codes([process]), output.read_text()
    assert codes == [130], error
    assert "of 3 cells are done; run the same command to continue" in error
    first = stamps(place / "out")
    assert 1 <= len(first) < 3
    assert compare() == 0
    last = stamps(place / "out")
    assert len(last) == 3
    assert all(last[path] == first[path] for path in first)
