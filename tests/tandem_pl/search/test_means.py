"""A loss over several domains is fitted domain by domain."""

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import DOMAINS, draw_mixtures

from tandem_pl import Mixture
from tandem_pl.cli import main
from tandem_pl.search import fit_law, propose, read_runs
from tandem_pl.search.reuse import FrozenDomains
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


def true_loss(weights: Array) -> Array:
    return sum(share * loss_of(weights, domain) for domain, share in SHARES.items())


@pytest.mark.parametrize(("name", "mean"), [("metric/loss", "metric/loss"), ("loss", "loss/mean")])
def test_the_law_of_a_mean_adds_up_those_of_its_parts(tmp_path, name, mean):
    runs = read_runs(write(tmp_path, table(name=name, mean=mean)), metrics=[mean])
    assert list(runs.metrics) == [mean]
    assert runs.means[mean] == pytest.approx({f"{name}/{d}": s for d, s in SHARES.items()})
    law = fit_law("log_linear", runs, mean)
    points = draw_mixtures(50, seed=9)
    np.testing.assert_allclose(law.predict(points), true_loss(points), atol=1e-3)
    assert law.validation.spearman > 0.999
    every = read_runs(tmp_path / "runs.csv")
    parts = [
        share * fit_law("log_linear", every, part).predict(points)
        for part, share in runs.means[mean].items()
    ]
    np.testing.assert_allclose(law.predict(points), np.sum(parts, axis=0), atol=1e-9)
    moved = points[:1] + 1e-5 * np.eye(len(DOMAINS))
    slopes = (law.predict_by(law.model, moved) - law.predict(points[:1])) / 1e-5
    np.testing.assert_allclose(law.gradient(points[0]), slopes, atol=1e-3)


def test_a_curve_of_the_mean_itself_is_worse(tmp_path):
    runs = table()
    whole = read_runs(write(tmp_path, runs.drop(columns=["metric/loss/web"])))
    assert whole.means == {}  # not the mean of what is left
    law = fit_law("log_linear", whole, "metric/loss")
    assert not law.parts
    assert law.validation.spearman < 0.97
    assert fit_law("log_linear", read_runs(write(tmp_path, runs)), "metric/loss").parts


def test_a_proposal_is_the_optimum_of_the_sum(tmp_path):
    law = fit_law("log_linear", read_runs(write(tmp_path, table(60))), "metric/loss")
    found = propose({"metric/loss": law}, kl=0.0)
    grid = np.array(
        [
            (a, b, 0.0, 1.0 - a - b)
            for a in np.linspace(0, 1, 201)
            for b in np.linspace(0, 1 - a, 201)
        ]
    )
    assert true_loss(np.array([list(found.weights.values())])) < true_loss(grid).min() + 1e-3


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
    assert read_runs(write(tmp_path, runs), metrics=["metric/loss"]).means == {}


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


def test_the_command_says_so(tmp_path, capsys):
    path = write(tmp_path, table())
    assert (
        main(["search", "fit", str(path), "--metric", "metric/loss", "--out", str(tmp_path)]) == 0
    )
    assert (
        "law of metric/loss adds up those of the 3 metrics it is a mean of"
        in capsys.readouterr().out
    )
