"""The benchmarks run and say what they promise; how fast anything is, no test asks."""

import importlib
import json
import logging
import math
import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from synthetic_runs import draw_mixtures
from torch import nn

from tandem_pl.callbacks.methods.table import METHODS, Length

FOLDER = Path(__file__).parent / "benchmarks"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if "\nNAME = " in path.read_text())


@pytest.fixture
def script(monkeypatch):
    """Imports a script as Python does that runs it; leaves loggers and threads as they were."""
    monkeypatch.syspath_prepend(str(FOLDER))
    names = ("lightning", "lightning.pytorch", "lightning.fabric")
    levels = {name: logging.getLogger(name).level for name in names}
    yield importlib.import_module
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    for name in (*SCRIPTS, "common", "record", "all", "kill", "regmix"):
        sys.modules.pop(name, None)


def run(module: ModuleType, capsys, *argv: str) -> dict:
    """The record of its last line, which is what `main` gives."""
    record = module.main(argv)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last == json.loads(json.dumps(record))
    assert last["benchmark"] == module.NAME
    assert set(last) == {"benchmark", "quick", "machine", "settings", "rows", "goals", "plots"}
    for row in last["rows"]:
        assert all(math.isfinite(v) for v in row.values() if not isinstance(v, str)), row
    for goal in last["goals"]:
        assert goal["reached"] == (goal["value"] <= goal["limit"])
    for plot in last["plots"]:  # every key is there to be drawn
        keys = {key for row in last["rows"] for key in row}
        assert {plot["x"], *plot["y"], *plot["by"]} <= keys
    return last


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_importable_and_known_to_all(script, name) -> None:
    module = script(name)
    assert name == module.NAME
    assert callable(module.main)
    assert module.__doc__.splitlines()[0]
    assert name in script("all").NAMES


def test_runs_take_turns(script) -> None:
    common, order = script("common"), []
    runs = {name: lambda name=name: order.append(name) or [1.0, float(len(order))] for name in "ab"}
    assert common.medians(runs, 3) == {"a": 1.0, "b": 1.5}  # of all numbers
    assert "".join(order) == "abbaab"


@pytest.mark.parametrize(("free", "probe", "measure"), [(45, 5, 4), (15, 5, 1), (0, 1, 1)])
def test_the_bound_is_the_cost_in_the_table_of_methods(script, free, probe, measure) -> None:
    settings = {"free_steps": free, "probe_steps": probe, "measure_batches": measure}
    cost = METHODS["tandem"].work(settings, Length(7, free + probe, 16)) / (free + probe)
    assert script("common").bound(free, probe, measure) == pytest.approx(cost)


def test_planning_is_timed(script, capsys) -> None:
    argv = ["planning", "--quick", "--domains", "3", "50", "--batches", "4"]
    record = run(script("speed"), capsys, *argv)
    assert len(record["rows"]) == 8
    assert all(row["ms"] > 0 and row["batches"] == 4 for row in record["rows"])
    assert len(record["goals"]) == 4  # of the largest number of domains
    assert record["quick"]
    assert record["settings"]["domains"] == [3, 50]


def test_the_other_sections_of_speed(script, capsys) -> None:
    record = run(script("speed"), capsys, "domains", "stall", "--quick")
    few, many, stall = record["rows"]
    assert [few["domains"], many["domains"]] == [7, 100]
    assert many["ratio"] == pytest.approx(many["seconds"] / few["seconds"])
    assert stall["step_ms"] > 0
    assert [goal["value"] for goal in record["goals"]] == [stall["stall"]]


def test_speed_names_its_sections(script, capsys) -> None:
    with pytest.raises(SystemExit):
        script("speed").main(["nope"])
    assert "give some of planning, domains, stall" in capsys.readouterr().err


def test_loading_of_images_is_timed(script, capsys) -> None:
    record = run(script("images"), capsys, "--quick")
    assert [(row["images"], row["workers"]) for row in record["rows"]] == [(24, 0), (12, 0)]
    for row in record["rows"]:
        seconds = 1 / row["ours_images_a_second"]
        assert seconds * row["plain_images_a_second"] == pytest.approx(row["ratio"])


def test_overhead_runs_all_kinds(script, capsys) -> None:
    record = run(script("overhead"), capsys, "--quick")
    path, episode = record["rows"]
    assert path["mixture_over_bare"] > 0
    assert (episode["E"], episode["K"], episode["V"]) == (3, 1, 1)
    assert episode["bound"] == pytest.approx((3 + 3 - 1 + 2 / 3) / 4)
    assert episode["ratio"] == pytest.approx(episode["ratio_over_bound"] * episode["bound"])
    assert episode["plain_ms"] > 0


def test_stored_bytes_counts_shared_tensors_once(script) -> None:
    first, second = nn.Linear(3, 4, bias=False), nn.Linear(3, 4, bias=False)
    second.weight = first.weight
    both = nn.Sequential(first, second, nn.BatchNorm1d(4))  # 12 + 8 parameters; 8 and a count
    optimizer = torch.optim.AdamW(both.parameters())
    for parameter in both.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    numbers = 4 * 20 * 4 + 3 * 4  # parameter, gradient and two moments; three step counts
    assert script("memory").stored_bytes(both, optimizer) == numbers + 8 * 4 + 8


def test_the_stall_is_what_the_first_batch_waits_longer(script) -> None:
    def row(epoch, batch, data, between, phase="train") -> dict:
        values = {"epoch": epoch, "batch": batch, "phase": phase, "step": 2.0}
        return values | {"data": data, "between": between}

    rows = [row(0, 0, 99.0, 99.0), row(0, 1, 99.0, 99.0)]  # the first episode sets everything up
    for epoch in (1, 2):
        rows += [row(epoch, 0, 0.5, 1.5), row(epoch, 1, 0.1, 0.5), row(epoch, 2, 0.1, 0.5)]
        rows += [row(epoch, 3, 50.0, 50.0, "probe")]
    found = script("speed").stalls(rows)
    assert found["stall"] == pytest.approx(0.2)
    assert found["boundary"] == pytest.approx(0.5)
    assert found["step_ms"] == pytest.approx(2000)


def test_stacked_proxies_are_timed(script, capsys) -> None:
    record = run(script("stacked_proxies"), capsys, "--quick")
    assert [row["networks"] for row in record["rows"]] == [1, 2]
    for row in record["rows"]:
        assert row["speedup"] == pytest.approx(row["networks"] * row["alone_ms"] / row["ms"])
        assert 0 < row["planning_ms"] < row["ms"]


def test_the_gpu_script_needs_a_gpu(script, capsys, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stop:
        script("gpu").main([])
    assert stop.value.code == 2
    out, error = capsys.readouterr()
    assert not out
    assert len(error.splitlines()) == 1
    assert "device=cuda needs a GPU" in error


def test_the_gpu_script_on_a_cpu(script, capsys) -> None:
    argv = ["--device", "cpu", "--tiny", "--peak", "1e12"]
    rows = {row["run"]: row for row in run(script("gpu"), capsys, *argv)["rows"]}
    assert {"bare_whole", "bare", "plain", "tandem"} <= rows.keys()
    plain, tandem = rows["plain"], rows["tandem"]
    tokens, other = plain["tokens_a_second"], tandem["tokens_a_second"]
    assert tokens / other == pytest.approx(tandem["ratio"])
    assert tandem["ratio"] == pytest.approx(tandem["ratio_over_bound"] * tandem["bound"])
    work = tandem["utilisation"] / plain["utilisation"]  # a second, not a token
    assert work == pytest.approx(tandem["bound"] * other / tokens)


def test_flops_are_those_that_torch_counts(script) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    overhead, gpu, block, batch = script("overhead"), script("gpu"), 16, 3
    network = script("common").network("tiny", block)
    samples = {"input_ids": torch.randint(257, (batch, block))}
    with FlopCounterMode(display=False) as counter:
        overhead.next_token_loss(network, samples).backward()
    mine = gpu.flops_a_token(network, block) * batch * block
    assert mine == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_peaks_by_name(script) -> None:
    gpu = script("gpu")
    assert gpu.peak_flops("NVIDIA H100 80GB HBM3") == gpu.peak_flops("NVIDIA H200") == 989e12
    assert gpu.peak_flops("NVIDIA A100-SXM4-40GB") == 312e12
    assert gpu.peak_flops("AMD EPYC") is None


# ---- all.py ----

RECORD = {
    "benchmark": "speed",
    "quick": False,
    "machine": {"device": "<one>"},
    "settings": {"batch": 256},
    "rows": [{"domains": 7, "ms": 0.5}, {"domains": 1000, "ms": 1.25}],
    "goals": [
        {"figure": "good", "value": 0.5, "limit": 1.0, "reached": True},
        {"figure": "bad", "value": 1.5, "limit": 1.0, "reached": False},
    ],
    "plots": [{"title": "Time", "x": "domains", "y": ["ms"], "by": []}],
}


def test_the_page_says_what_is_reached(script) -> None:
    failed = {"benchmark": "memory", "quick": False, "error": "no <memory>"}
    page = script("all").page([RECORD, failed])
    assert page.count('class="yes">reached') == 1
    assert page.count('class="no">not reached') == 1
    assert "&lt;one&gt;" in page
    assert "no &lt;memory&gt;" in page
    assert "<td>1.25</td>" in page
    assert page.count('src="data:image/png;base64,') == 1
    assert "--quick" not in page
    assert not any(word in page for word in ("<script", "http"))
    assert "Too small to judge by (--quick): speed" in script("all").page(
        [RECORD | {"quick": True}]
    )


def test_all_keeps_the_latest_record_of_each(script, tmp_path, monkeypatch, capsys) -> None:
    module = script("all")
    (tmp_path / "speed.py").write_text(f"print('a row')\nprint({json.dumps(RECORD)!r})\n")
    (tmp_path / "memory.py").write_text("raise SystemExit('no memory')\n")
    monkeypatch.setattr(module, "HERE", tmp_path)
    place = ["--folder", str(tmp_path / "out")]
    assert module.main(["memory", "speed", *place]) == 1
    out = capsys.readouterr().out
    assert "a row" in out
    assert "memory failed: no memory" in out
    found = module.read(tmp_path / "out" / "benchmarks.jsonl")
    assert found["speed"] == RECORD
    assert found["memory"]["error"] == "no memory"
    page = (tmp_path / "out" / "benchmarks.html").read_text()
    (tmp_path / "memory.py").write_text(f"print({json.dumps(RECORD | {'benchmark': 'memory'})!r})")
    assert module.main(["memory", *place]) == 0
    assert set(module.read(tmp_path / "out" / "benchmarks.jsonl")) == {"speed", "memory"}
    after = (tmp_path / "out" / "benchmarks.html").read_text()
    assert "It failed" in page
    assert "It failed" not in after
    os.remove(tmp_path / "out" / "benchmarks.html")
    assert module.main(["--render", *place]) == 0
    assert (tmp_path / "out" / "benchmarks.html").read_text() == after


@pytest.mark.parametrize("argv", [["nope"], ["--render"]])
def test_all_refuses_what_it_cannot_do(script, tmp_path, capsys, argv) -> None:
    with pytest.raises(SystemExit) as stop:
        script("all").main([*argv, "--folder", str(tmp_path)])
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


# ---- kill.py ----


def test_kill_wants_an_empty_folder(script, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "killed-0").mkdir()  # of a run that was stopped, which would be resumed
    monkeypatch.setattr(sys, "argv", ["kill.py", "--folder", str(tmp_path), "--signal", "INT"])
    with pytest.raises(SystemExit) as stop:
        script("kill").main()
    assert stop.value.code == 2
    assert "is not empty" in capsys.readouterr().err


# ---- regmix.py ----


def test_regmix_prints_ranks_and_searches(script, tmp_path, monkeypatch, capsys) -> None:
    for part, number in (("train", 12), ("test", 200)):
        mixtures = draw_mixtures(number, seed=number)
        tables = {
            "mixture": mixtures,
            "pile_loss": np.array([[-0.2, -1.0, 0.5, 0.1]] @ mixtures.T).T,
        }
        for kind, values in tables.items():
            mark = "train_" if kind == "mixture" else "metric/"
            names = [f"{mark}{column}" for column in range(values.shape[1])]
            table = pd.DataFrame(values, columns=names).rename_axis("index")
            table.to_csv(tmp_path / f"{part}_{kind}_1m.csv")
    module = script("regmix")
    monkeypatch.setattr(module, "choose_next", lambda known, values, pool, count, seed: [0])
    options = ["--laws", "linear", "--sizes", "1m", "--runs", "9", "--seeds", "2"]
    module.main([str(tmp_path), *options, "--target", "metric/0"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "9 runs; Spearman at 1m"
    assert lines[-4].split() == ["mean", "1.0000"]
    assert lines[-3].startswith("seed 0: ")
    assert lines[-1].startswith("medians to the best 2 of 200: ")
