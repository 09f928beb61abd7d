"""What a comparison's file may say, which runs it stands for, and the statistics of its tables."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import yaml

from tandem_pl.callbacks.methods.table import METHODS, Length
from tandem_pl.compare.cells import build_cells, takes_seed, with_module
from tandem_pl.compare.config import merge, read_comparison
from tandem_pl.compare.files import write_results
from tandem_pl.compare.results import NETWORK, RUN, Runs, collect
from tandem_pl.compare.statistics import differences, estimate, over_seeds
from tandem_pl.compare.tables import difference, markdown
from tandem_pl.errors import InputError

CONFIGS = Path(__file__).parents[3] / "configs"
BASE = {
    "trainer": {"max_steps": 20, "callbacks": [{"class_path": "tandem_pl.callbacks.FixedMixture"}]},
    "model": {
        "class_path": "tandem_pl.TandemModule",
        "init_args": {"network": {"class_path": "torch.nn.Identity"}, "penalty": 2.0},
    },
    "data": {"class_path": "tandem_pl.datamodules.MixtureDataModule", "init_args": {"seed": 5}},
}


def comparison(folder, **keys):
    content = {"base": BASE, "methods": ["uniform"], "folder": str(folder / "out"), **keys}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content))
    return read_comparison(path)


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


# ---- the statistics ----


def runs_of(losses):
    """A frame of runs from (method, network) -> seed -> the losses of domains a and b."""
    pairs = {(*key, seed): pair for key, seeds in losses.items() for seed, pair in seeds.items()}
    index = pd.MultiIndex.from_tuples(list(pairs), names=RUN)
    return pd.DataFrame(list(pairs.values()), index, ["a", "b"])


def test_intervals_agree_with_scipys_paired_test():
    numbers = np.random.default_rng(0).normal(size=(2, 5))
    ours, base = (dict(enumerate(zip(row, row, strict=True))) for row in numbers)
    runs = runs_of({("m", "fresh"): ours, ("base", "fresh"): base | {9: (1.0, 1.0)}})
    gap = over_seeds(differences(runs, "base"))
    mean, sd, low, high, number = (frame.loc[("m", "fresh"), "a"] for frame in gap)
    theirs = scipy.stats.ttest_rel(*numbers).confidence_interval(0.95)
    assert (low, high) == pytest.approx((theirs.low, theirs.high))
    assert mean == pytest.approx(np.mean(numbers[0] - numbers[1]))
    assert sd == pytest.approx(np.std(numbers[0] - numbers[1], ddof=1))
    assert number == 5
    alone = estimate(pd.Series([3.0]))
    assert alone.mean == 3.0
    assert math.isnan(alone.sd)
    assert math.isnan(alone.high)
    assert estimate(pd.Series([], dtype=float)).number == 0
    assert difference(alone, 1) == "+3.0"


OF_TOKENS = {"model": {"objective": "tandem_pl.objectives.CausalLanguageModeling"}}


def test_the_page_says_what_was_measured(tmp_path):
    study = comparison(
        tmp_path, methods=["uniform", "tandem"], seeds=[0, 1, 2], overrides=OF_TOKENS
    )
    losses = runs_of(
        {
            ("tandem", "fresh"): {0: (0.9, 2.9), 1: (1.1, 2.9), 2: (1.0, 2.9)},
            ("uniform", "fresh"): {0: (1.0, 3.0), 1: (1.2, 3.0), 2: (1.1, 3.0)},
        }
    )
    weights, epochs = losses * 0 + 0.5, losses * math.nan
    lines = {
        ("tandem", "fresh"): (math.nan, 0, 60.0),
        ("uniform", "fresh"): (1.0, 0, 60.0),
        ("tandem", "online"): (math.nan, 0, math.nan),
    }
    index = pd.MultiIndex.from_tuples(list(lines), names=NETWORK)
    networks = pd.DataFrame(list(lines.values()), index, ["cost", "extra_runs", "seconds"])
    broken = {("tandem", "online", 0): "it broke."}
    page = markdown(study, Runs(losses, weights, epochs, networks, broken))

    def cells(heading, start):
        lines = page.split(heading)[1].splitlines()
        line = next(line for line in lines if line.startswith(f"| {start} "))
        return [cell.strip() for cell in line.strip("|").split("|")]

    overview, averages = cells("# study", "tandem"), cells("## Test perplexity\n", "tandem")
    assert overview[1] == "1.9500 ± 0.0500"
    assert overview[2] == "**-0.1000** [-0.1000, -0.1000]"
    assert overview[3] == ""  # a cost that nobody stated
    mean = np.mean([np.exp([loss, 2.9]).mean() for loss in (0.9, 1.1, 1.0)])
    assert averages[1].startswith(f"{mean:.3f} ± ")
    assert averages[3].startswith(f"{np.mean(np.exp([1.9, 2.0, 1.95])):.3f} ± ")
    assert cells("# study", "tandem (online)")[1] == "failed"
    assert cells("## Test perplexity by domain", "uniform")[1].startswith(
        f"{np.mean(np.exp([1.0, 1.2, 1.1])):.2f} ± "
    )
    assert "- tandem (online), seed 0: it broke." in page
    assert "bold ones, from 3 seeds on, have an interval without 0." in page


def finished(losses):
    """Runs that all succeeded, with equal weights."""
    networks = losses.groupby(level=NETWORK, sort=False).size().to_frame("cost") * math.nan
    networks["extra_runs"], networks["seconds"] = 0, 60.0
    return Runs(losses, losses * 0 + 0.5, losses * math.nan, networks, {})


def test_two_seeds_mark_nothing_and_images_have_no_perplexity(tmp_path):
    study = comparison(tmp_path, methods=["uniform", "tandem"], seeds=[0, 1])
    seeds = {0: (1.0, 3.0), 1: (1.2, 3.0)}
    runs = finished(
        runs_of(
            {
                ("tandem", "fresh"): {0: (0.9, 2.9), 1: (1.1, 2.9)},
                ("uniform", "fresh"): seeds,
            }
        )
    )
    page, files = write_results(study, runs)
    assert "-0.1000 [-0.1000, -0.1000]" in page
    assert "**" not in page
    assert "perplexity" not in page
    assert {path.name for path in files} >= {"comparison.png", "mixtures.png"}


def test_pictures_without_data_are_not_made(tmp_path):
    study = comparison(tmp_path)
    runs = finished(runs_of({("uniform", "fresh"): {0: (1.0, 3.0)}}))
    _, files = write_results(study, runs)
    assert "comparison.png" not in {path.name for path in files}
    assert all(path.exists() for path in files)
    text = (tmp_path / "out/comparison.md").read_text()
    assert "mixtures.png" in text
    assert "comparison.png" not in text


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


def test_a_run_that_learns_in_fewer_steps_costs_less(tmp_path):
    """Of 20 steps of 32 samples: E = 2, K = 3, V = 3 adds 2 K - 1 + 2/3 V = 7 to each 5 steps."""
    methods = {
        "uniform": None,
        "tandem": None,
        "short": {"method": "tandem", "overrides": {"trainer": {"max_steps": 5}}},
        "small": {"method": "tandem", "overrides": {"data": {"batch_size": 8}}},
    }
    study = comparison(tmp_path, methods=methods, seeds=[0])
    cells = build_cells(study)
    settings = {"free_steps": 2, "probe_steps": 3, "measure_batches": 3}
    shares = {"a": 0.5, "b": 0.5}
    result = {"losses": shares, "weights": shares, "settings": settings, "seconds": 1.0}
    for cell in cells:
        cell.folder.mkdir(parents=True)
        cell.result.write_text(yaml.safe_dump(result))
    cost = collect(study, cells).networks["cost"]
    online = {name: cost[name, "online"] for name in ("tandem", "short", "small")}
    assert online == pytest.approx({"tandem": 12 / 5, "short": 12 / 20, "small": 12 / 20})
    assert cost["short", "fresh"] == pytest.approx(12 / 20 + 1)
    assert cost["uniform", "fresh"] == 1
