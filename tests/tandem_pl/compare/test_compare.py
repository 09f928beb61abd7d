"""What a comparison's file may say, which runs it stands for, and what they cost."""

from pathlib import Path

import pytest
import yaml
from comparisons import comparison

from tandem_pl.callbacks.methods.table import METHODS, Length
from tandem_pl.compare.cells import build_cells, takes_seed, with_module
from tandem_pl.compare.config import merge, read_comparison, study_folder
from tandem_pl.compare.results import collect
from tandem_pl.compare.tables import opening
from tandem_pl.errors import InputError

CONFIGS = Path(__file__).parents[3] / "configs"


# ---- the file ----


def test_an_override_speaks_of_init_args_and_another_class_brings_its_own():
    base = {"data": {"class_path": "A", "init_args": {"x": {"class_path": "B", "init_args": {}}}}}
    over = {"data": {"x": {"y": 1}, "z": 2}}
    merged = merge(base, over)
    expected = {"x": {"class_path": "B", "init_args": {"y": 1}}, "z": 2}
    assert merged["data"]["init_args"] == expected
    assert base["data"]["init_args"] == {"x": {"class_path": "B", "init_args": {}}}
    assert merge(base, {"data": {"class_path": "C"}})["data"] == {"class_path": "C"}
    assert merge({"class_path": "A", "init_args": {"x": 1}}, {"class_path": "A"})["init_args"]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"sedes": [0]}, "unknown key 'sedes': did you mean 'seeds'?"),
        ({"seeds": [0, 0]}, "seeds=[0, 0] must be a list of different whole numbers"),
        ({"seeds": [-1]}, "seeds=[-1]"),
        ({"threads": 0}, "threads=0"),
        ({"workers": 0}, "workers=0"),
        ({"workers": 9999}, "workers=9999 of threads=1 need 9999 cores and there"),
        ({"workers": 1, "threads": 9999}, "threads=9999 need 9999 cores"),
        ({"devices": [99]}, "devices=[99] asks for more GPUs than"),
        ({"devices": "all"}, "devices='all' must be a list"),
        ({"network": "onlin"}, "network='onlin' must be"),
        (
            {"methods": {"mine": {"class_path": "no.where.Mine"}}},
            "methods.mine: 'no.where.Mine' cannot be imported",
        ),
        (
            {"methods": {"mine": {"method": "torch.nn.Linear"}}},
            "methods.mine: 'torch.nn.Linear' is not a reweighting callback",
        ),
        ({"base": None}, "base=None must be the path"),
        ({"base": "nowhere.yaml"}, "nowhere.yaml' cannot be read"),
        ({"overrides": {"trainer": {"max_steps": -1}}}, "trainer.max_steps=-1 must be"),
        ({"methods": []}, "methods=[] must be a list of names"),
        ({"methods": ["unifrom"]}, "methods.unifrom: method 'unifrom' is unknown: did you mean"),
        ({"methods": {"a/b": {"method": "uniform"}}}, "'a/b' names a folder"),
        ({"methods": {"uniform": 3}}, "methods.uniform=3 must be a map"),
        (
            {"methods": {"uniform": {"overrides": ["trainer"]}}},
            "methods.uniform.overrides=['trainer'] must be a map",
        ),
        ({"methods": {"uniform": {"init_args": 3}}}, "methods.uniform.init_args=3 must be a map"),
        ({"overrides": 3}, "overrides=3 must be a map"),
        ({"base": {"trainer": 3}}, "trainer=3 must be a map"),
        ({"base": {"trainer": {"max_steps": 3}}}, "the base has no 'model' with a class_path"),
        ({"methods": ["tandem"]}, "baseline 'uniform' is not one of the methods: tandem."),
        ({"methods": {"uniform": {"steps": 0}}}, "methods.uniform.steps=0 must be a whole number"),
        ({"methods": {"uniform": {"spent": -1}}}, "methods.uniform.spent=-1 must be 0 or"),
        (
            {"methods": {"uniform": {"spent": "one"}}},
            "methods.uniform.spent=one must be",
        ),
        (
            {"methods": {"uniform": {"weights": "seed-{seed}/proposal.yaml"}}},
            "methods.uniform: weights='seed-0/proposal.yaml' does not exist.",
        ),
        (
            {"methods": {"uniform": None, "tandem": {"free_stesp": 1}}},
            "methods.tandem has the unknown key 'free_stesp': did you mean 'free_steps'?",
        ),
        (
            {"methods": {"uniform": None, "long": {"method": "tandem", "free_steps": -1}}},
            "methods.long: free_steps=-1 must be",
        ),
    ],
)
def test_a_mistake_is_named_before_anything_runs(keys, said, tmp_path):
    with pytest.raises(InputError) as refusal:
        build_cells(comparison(tmp_path, **keys))
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("preset", ["restricted", "abundant"])
def test_the_shipped_studies(preset):
    cells = build_cells(read_comparison(CONFIGS / f"compare_{preset}.yaml", workers=1))
    learned = {cell.label for cell in cells if cell.stage == "learn"}
    everything = {cell.label for cell in cells}
    assert {name for name, row in METHODS.items() if row.callback != "FixedMixture"} == learned
    assert len(everything) >= 8
    assert {cell.seed for cell in cells} == {0, 1, 2}
    steps = {cell.config["trainer"]["max_steps"] for cell in cells}
    networks = {
        str(cell.config["model"]["init_args"]["network"]) for cell in cells if not cell.seed
    }
    assert len(steps) == len(networks) == 1
    assert all(cell.config["data"]["init_args"]["preset"] == preset for cell in cells)


# ---- the cells ----


def test_cells_differ_in_callback_module_and_seed_alone(tmp_path):
    methods = {
        "uniform": None,
        "tandem": {"free_steps": 3},
        "slow": {"method": "tandem", "free_steps": 9, "overrides": {"model": {"penalty": 1.0}}},
    }
    cells = {c.name: c for c in build_cells(comparison(tmp_path, methods=methods, seeds=[4, 7]))}
    assert len(cells) == 2 * 5
    learn, slow = cells["tandem/seed-4/learn"], cells["slow/seed-4/learn"]
    final, uniform = cells["tandem/seed-4/final"], cells["uniform/seed-4/final"]
    assert learn.config["model"]["init_args"]["penalty"] == 2.0
    assert slow.config["model"]["init_args"]["penalty"] == 1.0
    for cell in (final, uniform):
        assert cell.config["model"]["class_path"] == "tandem_pl.MixtureModule"
        assert "penalty" not in cell.config["model"]["init_args"]
    callback = learn.config["trainer"]["callbacks"][0]
    assert callback["class_path"] == "tandem_pl.callbacks.TandemReweighting"
    assert callback["init_args"] == {"free_steps": 3}
    weights = final.config["trainer"]["callbacks"][0]["init_args"]["weights"]
    assert weights == str(learn.run / "mixture.yaml")
    assert final.needs == (learn.name,)
    assert uniform.needs == ()
    assert final.config["data"] == uniform.config["data"] == learn.config["data"]
    assert final.config["data"]["init_args"]["seed"] == final.config["seed_everything"] == 4
    assert final.config["model"]["init_args"]["seed"] == 4
    assert "init_args" not in final.config["model"]["init_args"]["network"]  # Identity has no seed


def test_overrides_let_a_method_learn_in_fewer_steps_with_the_final_runs_repetition(tmp_path):
    short = {"trainer": {"max_steps": 5}, "data": {"final_samples": 640}}
    methods = {"uniform": None, "tandem": {"overrides": short}}
    cells = {c.name: c for c in build_cells(comparison(tmp_path, methods=methods, seeds=[0]))}
    learn, final = cells["tandem/seed-0/learn"].config, cells["tandem/seed-0/final"].config
    assert learn["trainer"]["max_steps"] == 5
    assert learn["trainer"]["callbacks"][-1]["init_args"]["every_n_train_steps"] == 5
    assert learn["data"]["init_args"] == {"seed": 0, "final_samples": 640}
    assert final["trainer"]["max_steps"] == 20
    assert final["data"]["init_args"] == {"seed": 0}


def test_rows_of_other_lengths_and_what_was_spent_before(tmp_path):
    for seed in (4, 7):
        (tmp_path / f"{seed}.yaml").write_text("{a: 0.3, b: 0.7}")
    found = str(tmp_path / "{seed}.yaml")
    search = {"class_path": "tandem_pl.callbacks.FixedMixture", "weights": found, "spent": 1.5}
    short = {"trainer": {"max_steps": 5}}
    settings = {"free_steps": 3, "probe_steps": 2, "measure_batches": 3}
    methods = {
        "uniform": {"steps": 60},
        "search": search,
        "tandem": settings | {"steps": 40},
        "short": settings | {"method": "tandem", "steps": 40, "overrides": short},
        "small": settings | {"method": "tandem", "overrides": {"data": {"batch_size": 8}}},
        "doremi": None,
    }
    study = comparison(tmp_path, methods=methods, seeds=[4, 7])
    cells = {cell.name: cell for cell in build_cells(study)}
    steps = {name: cell.config["trainer"]["max_steps"] for name, cell in cells.items()}
    assert steps["uniform/seed-4/final"] == 60
    assert steps["search/seed-4/final"] == 20
    assert steps["tandem/seed-4/learn"] == steps["tandem/seed-4/final"] == 40
    assert steps["short/seed-4/learn"] == 5
    assert cells["doremi/seed-7/learn"].needs == ("reference/seed-7/final",)  # of the base's length
    assert steps["reference/seed-7/final"] == 20
    weights = cells["search/seed-7/final"].config["trainer"]["callbacks"][0]["init_args"]["weights"]
    assert weights == str(tmp_path / "7.yaml")
    for cell in cells.values():
        result = {"losses": {"a": 1.0}, "weights": {"a": 0.5, "b": 0.5}, "epochs": None}
        result |= {"settings": settings, "seconds": 1.0}
        cell.folder.mkdir(parents=True)
        cell.result.write_text(yaml.safe_dump(result))
    runs = collect(study, list(cells.values()))
    costs = runs.networks["cost"]
    update = 5 + 2 * 2 - 1 + 2.0  # proxy steps an episode of 5 batches
    assert costs["uniform", "fresh"] == 3.0
    assert costs["search", "fresh"] == 2.5
    assert costs["tandem", "online"] == pytest.approx(40 / 5 * update / 20)
    assert costs["tandem", "fresh"] == pytest.approx(40 / 5 * update / 20 + 2)
    assert costs["short", "fresh"] == pytest.approx(update / 20 + 2)
    assert costs["small", "online"] == pytest.approx(20 / 5 * update / 20 / 4)  # 8 of 32 samples
    page = opening(study, runs)
    assert "another number of batches: short 40, tandem 40, uniform 60." in page
    assert "spent before: search 1.5." in page


def test_one_run_serves_as_the_reference_of_all(tmp_path):
    methods = {"uniform": None, "a": {"method": "doremi"}, "b": {"method": "doremi"}}
    cells = {c.name: c for c in build_cells(comparison(tmp_path, methods=methods, seeds=[0]))}
    assert len(cells) == 5
    learn = cells["a/seed-0/learn"]
    assert learn.needs == ("uniform/seed-0/final",)
    reference = learn.config["trainer"]["callbacks"][0]["init_args"]["reference"]
    assert reference == str(cells["uniform/seed-0/final"].checkpoint)
    methods = {"proportional": None, "a": {"method": "doremi"}, "b": {"method": "doremi"}}
    study = comparison(tmp_path, methods=methods, seeds=[0], baseline="proportional")
    names = [cell.name for cell in build_cells(study)]
    assert names[0] == "reference/seed-0/final"  # a run of its own
    assert len(names) == 6
    methods = {"uniform": None, "a": {"method": "doremi", "reference": "mine.ckpt"}}
    cells = build_cells(comparison(tmp_path, methods=methods, seeds=[0]))
    assert all(not cell.needs for cell in cells if cell.stage == "learn")


def test_an_online_network_needs_no_other_run_unless_it_is_a_proxy(tmp_path):
    methods = {
        "uniform": None,
        "tandem": None,
        "doremi": None,
        "mine": {"class_path": "tandem_pl.callbacks.ODMReweighting", "init_args": {"period": 7}},
    }
    study = comparison(tmp_path, methods=methods, seeds=[0], network="online")
    cells = {cell.name: cell for cell in build_cells(study)}
    assert set(cells) == {
        "uniform/seed-0/final",
        "tandem/seed-0/learn",
        "doremi/seed-0/learn",
        "doremi/seed-0/final",
        "mine/seed-0/learn",
    }
    assert cells["mine/seed-0/learn"].config["trainer"]["callbacks"][0] == {
        "class_path": "tandem_pl.callbacks.ODMReweighting",
        "init_args": {"period": 7},
    }


def test_a_method_of_ones_own_inherits_what_its_base_class_needs(tmp_path, monkeypatch):
    (tmp_path / "own_method.py").write_text(
        "from tandem_pl.callbacks import TandemReweighting\n"
        "class Mine(TandemReweighting):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    methods = {"uniform": None, "mine": {"method": "own_method.Mine", "free_steps": 3}}
    cells = {c.name: c for c in build_cells(comparison(tmp_path, methods=methods, seeds=[0]))}
    learn = cells["mine/seed-0/learn"].config
    assert learn["model"]["class_path"] == "tandem_pl.TandemModule"
    assert learn["trainer"]["callbacks"][0]["class_path"] == "own_method.Mine"


def test_the_module_of_a_method():
    model = {
        "class_path": "tandem_pl.training.tandem_module.TandemModule",
        "init_args": {"penalty": 3},
    }
    assert with_module(model, "MixtureModule") == {
        "class_path": "tandem_pl.MixtureModule",
        "init_args": {},
    }
    own = {"class_path": "mine.Module", "init_args": {"penalty": 3}}
    assert with_module(own, "MixtureModule") == own
    assert takes_seed("tandem_pl.datamodules.EnvironmentCorpus")
    for path in ("nowhere.at.all", "EnvironmentCorpus", "None"):
        with pytest.raises(InputError, match=f"class_path='{path}' cannot be imported"):
            takes_seed(path)


# ---- the costs ----


def test_costs_are_those_of_a_count_by_hand():
    run = Length(domains=5, steps=100, batch_size=10)
    work = {name: row.work for name, row in METHODS.items() if row.work is not None}
    settings = {"update_steps": 20, "graph": "learn", "graph_steps": 4, "evaluation_samples": 6}
    # 3 batches (30 samples) an evaluation; 5 runs of 4 steps leave 80: 4 updates; 6 for the graph
    assert work["skill_it"](settings, run) == pytest.approx(100 + (4 + 6) * 1)
    settings = {"update_steps": 50, "lp_rounds": 2, "evaluation_samples": 6}
    assert work["aioli"](settings, run) == pytest.approx(100 + 2 * (5 * 2 + 1) * 1)
    assert work["dga"]({"period": 10, "measure_batches": 2}, run) == pytest.approx(100 + 10 * 4)
    assert work["tikmix"]({"update_steps": 25, "measure_batches": 1}, run) == pytest.approx(108)
    assert work["odm"]({}, run) == work["ado"]({}, run) == 100
    learning = {name for name, row in METHODS.items() if row.callback != "FixedMixture"}
    assert learning == work.keys()


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "taken").write_text("")
    assert study_folder(None, Path("configs/one.yaml")) == Path("runs/one")
    for place in (tmp_path / "taken", tmp_path / "taken" / "suite"):
        with pytest.raises(InputError, match="taken is a file; give a folder"):
            study_folder(str(place), Path("one.yaml"))
