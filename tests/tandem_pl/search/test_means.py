"""A loss over several domains is fitted domain by domain."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import DOMAINS, draw_mixtures

from tandem_pl import InputError, Mixture
from tandem_pl.cli import main
from tandem_pl.search import fit_law, propose, read_runs
from tandem_pl.search.fitting import Law
from tandem_pl.search.means import find_parts
from tandem_pl.search.reuse import FrozenDomains
from tandem_pl.search.validation import rank_correlation
from tandem_pl.simplex import Array

SHARES = {"web": 0.5, "code": 0.25, "math": 0.25}


def table(number: int = 30, name: str = "metric/loss", mean: str = "metric/loss") -> pd.DataFrame:
    """Return runs whose losses each fall steeply with their own domain's share."""
    weights = draw_mixtures(number, seed=3)
    columns = {f"weight/{domain}": weights[:, m] for m, domain in enumerate(DOMAINS)}
    columns |= {f"{name}/{d}": loss_of(weights, d) for d in SHARES}
    columns[mean] = sum(share * columns[f"{name}/{d}"] for d, share in SHARES.items())
    return pd.DataFrame(columns)


def loss_of(weights: Array, domain: str) -> Array:
    return 0.5 + np.exp(-6.0 * weights[:, DOMAINS.index(domain)])


def write(folder, runs: pd.DataFrame):
    runs.to_csv(folder / "runs.csv", index=False)
    return folder / "runs.csv"


def law_of_mean(folder, runs: pd.DataFrame, law: str = "log_linear") -> Law:
    return fit_law(law, read_runs(write(folder, runs), metrics=["metric/loss"]), "metric/loss")


def true_loss(weights: Array) -> Array:
    return sum(share * loss_of(weights, domain) for domain, share in SHARES.items())


@pytest.mark.parametrize(("name", "mean"), [("metric/loss", "metric/loss"), ("loss", "loss/mean")])
def test_the_law_of_a_mean_adds_up_those_of_its_parts(tmp_path, name, mean):
    runs = read_runs(write(tmp_path, table(name=name, mean=mean)), metrics=[mean])
    assert list(runs.metrics) == [mean]
    law = fit_law("log_linear", runs, mean)
    shares = {part: share for part, (share, _) in law.parts.items()}
    assert shares == pytest.approx({f"{name}/{d}": s for d, s in SHARES.items()})
    points = draw_mixtures(50, seed=9)
    np.testing.assert_allclose(law.predict(points), true_loss(points), atol=1e-3)
    assert law.validation.spearman > 0.999
    every = read_runs(tmp_path / "runs.csv")
    parts = [s * fit_law("log_linear", every, part).predict(points) for part, s in shares.items()]
    np.testing.assert_allclose(law.predict(points), np.sum(parts, axis=0), atol=1e-9)
    moved = points[:1] + 1e-5 * np.eye(len(DOMAINS))
    slopes = (law.predict_by(law.model, moved) - law.predict(points[:1])) / 1e-5
    np.testing.assert_allclose(law.gradient(points[0]), slopes, atol=1e-3)


def test_a_curve_of_the_mean_itself_is_worse(tmp_path):
    runs = table()
    law = law_of_mean(tmp_path, runs.drop(columns=["metric/loss/web"]))
    assert not law.parts  # not the mean of what is left
    assert law.validation.spearman < 0.97
    assert law_of_mean(tmp_path, runs).parts


def test_a_proposal_is_the_optimum_of_the_sum_and_names_the_parts(tmp_path):
    found = propose({"metric/loss": law_of_mean(tmp_path, table(60))}, kl=0.0)
    line = np.linspace(0, 1, 201)
    grid = [(a, b, 0, 1 - a - b) for a in line for b in line if a + b <= 1]
    best = true_loss(np.array(grid)).min()
    assert true_loss(np.array([list(found.weights.values())])) < best + 1e-3
    assert found.settings["sums"] == {"metric/loss": [f"metric/loss/{d}" for d in SHARES]}


@pytest.mark.parametrize("change", ["another", "missing", "few"])
def test_what_is_no_mean_is_fitted_by_itself(tmp_path, change):
    runs = table(7 if change == "few" else 30)
    if change == "another":
        runs["metric/loss"] += 0.01 * np.arange(len(runs))
    elif change == "missing":
        runs.loc[3, "metric/loss/web"] = np.nan
    else:
        others = {f"metric/loss/{n}": np.random.default_rng(n).normal(size=7) for n in range(9)}
        runs = runs.assign(**others)
    assert not law_of_mean(tmp_path, runs, "linear").parts


def test_zeros_are_no_mean():
    zeros = {"loss": np.zeros(3), "loss/a": np.ones(3), "loss/b": np.arange(3.0)}
    assert find_parts("loss", zeros) == {}


def test_other_columns_do_not_count(tmp_path):
    runs = table()
    runs["metric/loss/mean"] = runs["metric/loss"]  # a copy
    runs["metric/loss/web/en"] = 2 * runs["metric/loss/web"]  # of another level
    runs["metric/loss/std"] = [np.nan, *range(29)]
    assert list(law_of_mean(tmp_path, runs, "linear").parts) == [f"metric/loss/{d}" for d in SHARES]


def test_nested_domains_are_parts(tmp_path):
    runs = table().rename(columns=lambda name: name.replace("loss/web", "loss/web/en"))
    names = {f"metric/loss/{domain}" for domain in ("web/en", "code", "math")}
    assert set(law_of_mean(tmp_path, runs, "linear").parts) == names


def test_a_metric_that_was_changed_is_no_mean_any_more(tmp_path):
    runs = read_runs(write(tmp_path, table()), metrics=["metric/loss"])
    moved = replace(runs, metrics={"metric/loss": 200 * runs.metrics["metric/loss"]})
    law = fit_law("log_linear", moved, "metric/loss")
    assert not law.parts
    assert law.predict(runs.weights).mean() == pytest.approx(law.values.mean(), rel=0.1)


def test_a_part_that_cannot_be_fitted_leaves_one_curve(tmp_path):
    runs = table()
    change = np.linspace(-1, 1, 30) - runs["metric/loss/math"]
    runs["metric/loss/math"] += change
    runs["metric/loss"] += SHARES["math"] * change
    law = law_of_mean(tmp_path, runs)
    assert not law.parts
    assert "metric 'metric/loss/math' is -1 in a run" in law.note


def test_several_sizes_keep_the_order_of_the_mean(tmp_path):
    small, large = table(20).assign(size=1e6), table(20).assign(size=6e7)
    for number, domain in enumerate(SHARES):
        small[f"metric/loss/{domain}"] *= 1.0 + number
    small["metric/loss"] = sum(s * small[f"metric/loss/{d}"] for d, s in SHARES.items())
    law = law_of_mean(tmp_path, pd.concat([small, large]), "linear")
    levels = np.sum([share * values for share, values in law.parts.values()], axis=0)
    np.testing.assert_allclose(levels, law.values)
    own = law.runs.size == 1e6
    assert own.sum() == 20
    assert rank_correlation(law.values[own], law.runs.metrics["metric/loss"][own]) > 0.999


def test_parts_go_with_their_runs(tmp_path):
    runs = read_runs(write(tmp_path, table()), metrics=["metric/loss"])
    some = runs.take([4, 7])
    for part, values in runs.parts.items():
        assert some.parts[part].tolist() == values[[4, 7]].tolist()
    both = runs.weights[:, :2].sum(axis=1)  # one virtual domain keeps the ratio
    runs.weights[:, :2] = both[:, None] * [0.75, 0.25]
    collapsed = FrozenDomains(Mixture({"web": 0.75, "code": 0.25})).collapse(runs)
    assert len(collapsed.domains) == 3
    assert fit_law("linear", collapsed, "metric/loss").parts.keys() == runs.parts.keys()
    with pytest.raises(InputError, match="'metric/loss/web' has 3 values for 30 runs"):
        replace(runs, parts={"metric/loss/web": np.zeros(3)})


def test_laws_of_the_length_know_the_domain_of_each_part(tmp_path):
    short, long = table(24).assign(steps=100), table(24).assign(steps=400)
    short[list(short.filter(like="loss"))] *= 1.5
    runs = pd.concat([short, long])
    assert len(law_of_mean(tmp_path, runs, "bimix").parts) == 3


def test_the_command_says_so(tmp_path, capsys):
    path, out = write(tmp_path, table()), ["--out", str(tmp_path)]
    assert main(["search", "fit", str(path), "--metric", "metric/loss", *out]) == 0
    said = "the law of metric/loss is the sum of the laws of the 3 metrics that it is the mean of"
    assert said in capsys.readouterr().out
