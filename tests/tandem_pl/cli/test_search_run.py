"""`tandem search run`: rows of a table from tiny networks, kept, failing in part, and resumed."""

import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from small_swarm import SCRIPT, swarm, table

from tandem_pl.cli import main
from tandem_pl.compare.locks import in_use, lock_cell
from tandem_pl.search.swarm import proxies, run
from tandem_pl.search.swarm.settings import read_swarm

CONFIGS = Path(__file__).parents[3] / "configs"


def test_stacked_rows_are_those_of_separate_runs_and_a_fit_reads_them(place, capsys):
    for cell in ("1", "0"):
        assert main(["search", "run", swarm(place), "--cell", cell]) == 0
    together = table()
    assert together["run"].tolist() == [f"{number:05}" for number in range(6)]
    assert set(together["status"]) == {"done"}
    assert set(together["size"]) == {4}
    assert set(together["steps"]) == {20}
    mean = 0.25 * together["metric/loss/a"] + 0.75 * together["metric/loss/b"]
    assert together["metric/loss"].tolist() == pytest.approx(mean.tolist())
    assert together["metric/loss"].std() > 0.1
    assert "one after the other" not in capsys.readouterr().out
    name = swarm(place, "alone", stack=1)
    for cell in range(2):
        assert main(["search", "run", name, "--cell", str(cell)]) == 0
    alone = table("alone")
    for column in alone.filter(like="/"):
        assert alone[column].tolist() == pytest.approx(together[column][:2].tolist(), abs=1e-5)
    fit = ["search", "fit", "swarm/runs.csv", "--metric", "metric/loss", "--law", "linear"]
    assert main([*fit, "--out", "found"]) == 0
    assert (place / "found/proposal.yaml").exists()


def test_what_cannot_be_stacked_is_trained_one_after_the_other(place, capsys):
    overrides = {"model": {"objective": "swarm_parts.branching"}}
    name = swarm(place, overrides=overrides, stack=2)
    assert main(["search", "run", name, "--cell", "0"]) == 0
    assert "one after the other: vmap" in capsys.readouterr().out
    assert table()["status"].tolist() == ["done"] * 2
    average = {"callbacks": [{"class_path": "tandem_pl.callbacks.MovingAverage"}]}
    name = swarm(place, "average", overrides={"trainer": average}, stack=2)
    assert main(["search", "run", name, "--cell", "0"]) == 0
    assert "one after the other: tandem_pl.callbacks.MovingAverage" in capsys.readouterr().out
    assert table("average")["status"].tolist() == ["done"] * 2


def test_the_command_says_once_why_proxies_are_not_trained_together(place, capfd):
    overrides = {"model": {"objective": "swarm_parts.branching"}}
    assert main(["search", "run", swarm(place, overrides=overrides)]) == 0
    assert capfd.readouterr().err.count("trained one after the other: vmap") == 1  # of two cells
    assert table()["status"].tolist() == ["done"] * 6


def test_mixtures_may_be_drawn_around_the_targets_shares(place):
    """Of the domains a, b and c it has a and b."""
    assert main(["search", "run", swarm(place, prior="target", stack=2), "--cell", "0"]) == 0
    drawn = table()
    assert (drawn["weight/c"] == 0).all()
    assert (drawn[["weight/a", "weight/b"]] > 0).all().all()


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError(), RuntimeError("CUDA error: out of memory")]
)
def test_a_stack_that_does_not_fit_into_memory_is_halved(place, monkeypatch, capsys, error):
    whole, tried = proxies.Stack, []

    def small(module, count, device):
        tried.append(count)
        if count > 2:
            raise error
        return whole(module, count, device)

    monkeypatch.setattr(proxies, "Stack", small)
    name = swarm(place, stack=6)
    assert main(["search", "run", name, "--cell", "0"]) == 0
    out = capsys.readouterr().out
    assert "6 proxies do not fit into the memory together; 3 are tried" in out
    assert "one after the other" not in out
    assert tried == [6, 3, 2, 2, 2]  # what did not fit is not tried again
    assert table()["status"].tolist() == ["done"] * 6


def test_an_error_of_building_is_not_one_of_stacking(place):
    def build(config):
        raise OSError("the disk is gone")

    mixtures = {number: {"a": 0.5, "b": 0.25, "c": 0.25} for number in range(2)}
    with pytest.raises(OSError, match="the disk is gone"):
        list(proxies.train_proxies(read_swarm(swarm(place)), mixtures, build))


def test_a_failed_proxy_is_marked_and_the_rest_go_on(place):
    keys = {"strength": 1.0, "overrides": {"data": {"bad": "c"}}, "proxies": 4}
    for stack, cells in ((4, 1), (1, 2)):  # together, or each in a run of its own
        name = swarm(place, f"stack{stack}", stack=stack, **keys)
        for cell in range(cells):
            assert main(["search", "run", name, "--cell", str(cell)]) == 0
        rows = table(f"stack{stack}")
        failed = rows["weight/c"] > 0.01
        assert failed.tolist() == [True, False, True, True][: len(rows)]
        assert (rows["status"] == "failed").tolist() == failed.tolist()
        assert rows["metric/loss"].isna().tolist() == failed.tolist()
        assert rows["reason"][failed].str.contains("not finite").all()


def test_a_row_of_the_table_is_never_run_again(place, monkeypatch):
    trained = []

    def pretend(settings, mixtures, build, tell):
        trained.extend(mixtures)
        return proxies.train_proxies(settings, mixtures, build)

    monkeypatch.setattr(run, "train_proxies", pretend)
    assert main(["search", "run", swarm(place), "--cell", "0"]) == 0
    for path in Path("swarm/rows").iterdir():  # the table alone is enough
        path.unlink()
    more = ["search", "run", swarm(place), "--proxies", "8", "--stack", "4", "--cell"]
    first = table()
    assert main([*more, "0"]) == 0
    assert main([*more, "0"]) == 0
    assert trained == [0, 1, 2, 3]
    assert table().head(3)["metric/loss"].tolist() == first["metric/loss"].tolist()
    assert table().head(3)["weight/a"].tolist() == first["weight/a"].tolist()


def test_processes_run_cells_and_those_that_fail_are_marked(place, monkeypatch, capsys):
    (place / "script.py").write_text(SCRIPT)
    monkeypatch.setattr(run, "COMMAND", (sys.executable, str(place / "script.py")))
    with pytest.raises(SystemExit) as stop:
        main(["search", "run", swarm(place, stack=2)])
    assert stop.value.code == 1
    said = capsys.readouterr()
    assert "cell 1 failed: it was asked to fail." in said.err
    assert "4 of 6 proxies are done" in said.out
    assert "tandem search fit swarm/runs.csv" in said.out
    assert table()["status"].tolist() == ["done"] * 2 + ["failed"] * 2 + ["done"] * 2
    assert set(table()["reason"].dropna()) == {"it was asked to fail."}
    script = SCRIPT.replace("cell == 1", "False")
    (place / "script.py").write_text(script)
    with pytest.raises(SystemExit):
        main(["search", "run", swarm(place, stack=2)])  # failed ones too are left alone
    assert main(["search", "run", swarm(place, stack=2), "--retry"]) == 0
    assert set(table()["status"]) == {"done"}
    assert Path("swarm/cells/00001/log.txt").read_text() == "trained 2\ntrained 3\n"


def test_cells_are_printed_for_a_queue(place, capsys):
    assert main(["search", "run", swarm(place), "--cells"]) == 0
    lines = [f"tandem search run swarm/swarm.yaml --cell {cell}" for cell in (0, 1)]
    assert capsys.readouterr().out.strip().splitlines()[-2:] == lines
    assert main(["search", "run", "swarm/swarm.yaml", "--cell", "1"]) == 0  # as a queue does
    assert table()["run"].tolist() == ["00003", "00004", "00005"]


def test_a_cell_runs_once_at_a_time_and_done_ones_are_left(place, monkeypatch, capsys):
    monkeypatch.setattr(run, "LOCK_SECONDS", 0.0)
    name = swarm(place, workers=9999)  # of another machine
    with lock_cell(place / "swarm/cells/00000/.lock", "it"):
        assert main(["search", "run", name, "--cell", "0"]) == 2
        assert "cell 0 is run by another process" in capsys.readouterr().err
        assert main(["search", "run", name, "--cell", "1"]) == 0
        assert main(["search", "run", name, "--cells"]) == 0
        command = "tandem search run swarm/swarm.yaml --cell 0"
        assert capsys.readouterr().out.splitlines()[-2:] == ["# --array=0", command]
    assert main(["search", "run", name, "--cell", "1"]) == 0
    assert capsys.readouterr().out.endswith("cell 1 is done\n")
    assert main(["search", "run", swarm(place, "later", initial=3), "--cell", "1"]) == 2
    assert "cell 1 has no mixtures yet" in capsys.readouterr().err


def test_what_a_queue_runs_is_not_marked_as_failed(place, monkeypatch, capsys):
    script = SCRIPT.replace("it was asked to fail.", in_use("cell 1"))
    (place / "script.py").write_text(script)
    monkeypatch.setattr(run, "COMMAND", (sys.executable, str(place / "script.py")))
    assert main(["search", "run", swarm(place, stack=2)]) == 0
    said = capsys.readouterr()
    assert "cell 1 failed: cell 1 is run by another process" in said.err
    assert "4 of 6 proxies are done" in said.out
    assert table()["run"].tolist() == ["00000", "00001", "00004", "00005"]


def test_later_mixtures_are_chosen_by_the_results_so_far(place, monkeypatch, botorch):
    (place / "script.py").write_text(SCRIPT.replace("cell == 1", "False"))
    monkeypatch.setattr(run, "COMMAND", (sys.executable, str(place / "script.py")))
    asked = []

    def choose(weights, values, pool, count, seed):
        asked.append((weights.tolist(), values, pool))
        return [7, 3][:count]

    monkeypatch.setattr(run, "choose_next", choose)
    monkeypatch.setattr(run, "POOL", 20)
    name = swarm(place, proxies=5, stack=2, initial=2)
    assert main(["search", "run", name]) == 0
    mixtures = pd.read_csv("swarm/mixtures.csv").to_numpy()
    assert [len(values) for _, values, _ in asked] == [2, 4]
    assert asked[1][0] == mixtures[:4].tolist()
    assert mixtures[2:5].tolist() == [*asked[0][2][[7, 3]].tolist(), asked[1][2][7].tolist()]
    assert len(asked[1][2]) == 18  # chosen ones are not chosen again
    assert main(["search", "run", name]) == 0
    assert len(asked) == 2


CHOSEN = {"initial": 2, "stack": 1, "proxies": 4}
COSTLY = {"proxies": None, "fidelities": {"a": {"cost": 0.1}, "b": {"cost": 1}}, "budget": 9}


@pytest.mark.parametrize("keys", [CHOSEN, COSTLY])
def test_without_botorch_no_proxy_is_trained(place, monkeypatch, capsys, keys):
    monkeypatch.setitem(sys.modules, "botorch", None)
    assert main(["search", "run", swarm(place, **keys)]) == 2
    assert "needs botorch" in capsys.readouterr().err
    assert not list(Path("swarm").rglob("rows"))


def test_if_too_few_runs_end_well_no_further_ones_are_chosen(place, monkeypatch, capsys, botorch):
    (place / "script.py").write_text(SCRIPT)  # whose cell 1 fails
    monkeypatch.setattr(run, "COMMAND", (sys.executable, str(place / "script.py")))
    assert main(["search", "run", swarm(place, **CHOSEN)]) == 2
    error = "1 of 2 runs ended well, and the search needs 2: see swarm/runs.csv for the reasons"
    assert error in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"proxys": 3}, "unknown key 'proxys': did you mean 'proxies'?"),
        ({"proxies": 0}, "proxies=0 must be a whole number"),
        ({"sampling": "grid"}, "sampling='grid' must be"),
        ({"base": {}}, "trainer.max_steps=None must be"),
        ({"overrides": {"data": {"target": False}}}, "a swarm needs target data"),
        ({"prior": {"a": 0.5, "d": 0.5}}, "unknown domain"),
        ({"prior": "proportoinal"}, "prior="),
        ({"initial": 1}, "initial=1 must be at least 2"),
        ({"strength": "high"}, "strength=high must be a positive number"),
        ({"largest": "x"}, "largest=x must be"),
    ],
)
def test_bad_input_is_one_sentence(place, capsys, keys, said):
    assert main(["search", "run", swarm(place, **keys), "--cell", "0"]) == 2
    assert said in capsys.readouterr().err


def test_a_folder_of_other_settings_is_refused(place, capsys):
    assert main(["search", "run", swarm(place), "--cells"]) == 0
    assert main(["search", "run", swarm(place, seed=1), "--cells"]) == 2
    assert "swarm holds rows of other settings (seed)" in capsys.readouterr().err
    assert main(["search", "run", swarm(place), "--cell", "2"]) == 2
    assert "--cell 2: there are the cells 0 to 1" in capsys.readouterr().err


def test_a_file_is_no_folder(place, capsys):
    (place / "taken").write_text("")
    for folder in ("taken", "taken/swarm"):
        assert main(["search", "run", swarm(place), "--folder", folder]) == 2
        assert main(["search", "run", swarm(place), "--folder", folder, "--cells"]) == 2
        said = f"folder='{folder}': taken is a file; give a folder."
        assert capsys.readouterr().err.count(said) == 2


def test_the_shipped_configuration_runs(place):
    content = yaml.safe_load((CONFIGS / "search_restricted.yaml").read_text())
    content["base"] = str(CONFIGS / content["base"])
    sizes = dict.fromkeys(("python", "cpp", "docstrings", "stubs"), 6000)
    sizes |= dict.fromkeys(("javascript", "readmes", "licences"), 3000)
    content["overrides"]["trainer"]["max_steps"] = 3
    content["overrides"]["model"]["network"]["config"]["hidden_size"] = 16
    data = {"train_bytes": sizes, "target_bytes": 3000, "test_bytes": 3000, "batch_size": 4}
    content["overrides"]["data"] |= data
    content |= {"proxies": 2, "stack": 2}
    (place / "tiny.yaml").write_text(yaml.safe_dump(content))
    assert main(["search", "run", "tiny.yaml", "--folder", "out", "--cell", "0"]) == 0
    assert table("out")["tokens"].tolist() == [3 * 4 * 64] * 2
    assert table("out")["metric/loss"].between(4, 7).all()
