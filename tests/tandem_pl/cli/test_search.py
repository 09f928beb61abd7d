"""`tandem search fit` prints tables, writes a mixture file, and says what is wrong in a line."""

import sys

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import DOMAINS, draw_mixtures, log_linear

from tandem_pl import Mixture
from tandem_pl.cli import main
from tandem_pl.search import fit_law, propose, read_runs


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Return a folder, now the current one, with runs on four domains and a corpus's tokens."""
    monkeypatch.chdir(tmp_path)
    weights = draw_mixtures(24)
    frame = pd.DataFrame(weights, columns=DOMAINS)
    frame.assign(loss=log_linear(weights), other=2 + weights[:, 1]).to_csv("runs.csv", index=False)
    (tmp_path / "tokens.yaml").write_text("{web: 500, code: 20, books: 50, math: 200}\n")
    return tmp_path


def test_a_fit_prints_and_writes_what_the_functions_return(place, capsys):
    assert main(["search", "fit", "runs.csv", "--metric", "loss", "--out", "found"]) == 0
    printed = capsys.readouterr().out
    assert "24 runs on 4 domains; law log_linear" in printed
    assert "without size" not in printed
    law = fit_law("log_linear", read_runs("runs.csv"), "loss")
    expected = propose({"loss": law})
    assert Mixture.load("found/proposal.yaml").weights == pytest.approx(expected.weights, abs=1e-6)
    assert f"code    {expected.prior['code']:.4f}    {expected.weights['code']:.4f}" in printed
    fits = pd.read_csv("found/fits.csv")
    assert fits["spearman"].tolist() == pytest.approx([law.validation.spearman])
    assert {path.name for path in (place / "found").iterdir()} == {
        *("proposal.yaml", "proposal.png", "fits.csv")
    }


def test_the_final_runs_tokens_bound_the_passes(place, capsys):
    tokens = ["--tokens", "100", "--tokens_per_domain", "tokens.yaml", "--prior", "proportional"]
    options = ["--law", "linear", "--no-worse", "--kl", "0.01", *tokens]
    code = main(["search", "fit", "runs.csv", "--repeats", "2", *options])
    assert code == 0
    weights = Mixture.load("proposal.yaml").weights
    assert weights["code"] <= 0.4
    assert "epochs" in capsys.readouterr().out
    assert main(["search", "fit", "runs.csv", "--repetition", *options]) == 0
    assert main(["search", "fit", "runs.csv", "--repeats", "0.1", *options]) == 2
    assert "the smallest feasible k is 0.1299" in capsys.readouterr().err


def test_several_metrics_are_weighted(place, capsys):
    weights = ["--metric_weights", "{loss: 1, other: -0.1}", "--caps", "{code: 0.5}"]
    assert main(["search", "fit", "runs.csv", "--law", "linear", *weights]) == 0
    assert "weighted sum" in capsys.readouterr().out
    assert Mixture.load("proposal.yaml")["code"] <= 0.5


def test_ratios_of_an_old_mixture_are_kept(place):
    old = Mixture({"web": 3, "books": 1})
    old.save("old.yaml")
    mixtures = draw_mixtures(24, 3)
    weights = np.column_stack([0.75 * mixtures[:, 0], mixtures[:, 1], 0.25 * mixtures[:, 0]])
    frame = pd.DataFrame(weights, columns=["web", "code", "books"]).assign(math=mixtures[:, 2])
    frame.assign(loss=log_linear(frame[list(DOMAINS)].to_numpy())).to_csv("new.csv", index=False)
    assert main(["search", "fit", "new.csv", "--reuse", "old.yaml", "--law", "linear"]) == 0
    weights = Mixture.load("proposal.yaml").weights
    assert weights["web"] == pytest.approx(3 * weights["books"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "run.csv"], "did you mean 'runs.csv'"),
        (["fit", "runs.csv", "--law", "linera"], "law 'linera' is unknown: did you mean 'linear'"),
        (["fit", "runs.csv", "--metric", "lss"], "did you mean 'loss'"),
        (["fit", "runs.csv", "--priro", "x"], "did you mean '--prior'"),
        (["fit", "runs.csv", "--prior", "proportional"], "needs --tokens_per_domain"),
        (["fit", "runs.csv", "--repeats", "4"], "needs --tokens and --tokens_per_domain"),
        (["fit", "runs.csv", "--tokens", "1e9"], "--tokens needs --tokens_per_domain"),
        (["fit", "runs.csv", "--repetition"], "--repetition needs --tokens"),
        (["fit", "runs.csv", "--proxy_tokens", "5"], "is for --repetition"),
        (["fit", "runs.csv", "--tokens_per_domain", "wiki.yaml"], "unknown domain 'web'"),
        (["fti", "runs.csv"], "unknown action 'fti': did you mean 'fit'"),
    ],
)
def test_a_mistake_is_one_line(place, capsys, arguments, message):
    (place / "wiki.yaml").write_text("{wiki: 5, code: 20, books: 50, math: 200}\n")
    assert main(["search", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert error.count("\n") == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--law", "lightgbm"], "needs LightGBM"),
        (["--method", "best"], "method='best' must be one of"),
        (["--kl", "-1"], "kl=-1.0 must be"),
        (["--out", "runs.csv"], "--out runs.csv is a file: give a folder"),
        (
            ["--caps", "{web: 0.1, code: 0.1, books: 0.1, math: 0.2}"],
            "smallest feasible k is 2 times",
        ),
        (["--floor", "0.3"], "floors sum to 1.2"),
        (["--metric_weights", "{los: 1}"], "did you mean 'loss'"),
    ],
)
def test_a_wrong_setting_is_said_before_anything_is_fitted(
    place, monkeypatch, capsys, options, message
):
    monkeypatch.setattr("tandem_pl.search.fitting.fit_law", None)
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    assert main(["search", "fit", "runs.csv", *options]) == 2
    assert message in capsys.readouterr().err


def test_help_is_printed(capsys):
    assert main(["search"]) == 0
    assert "tandem search ACTION" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["search", "fit", "--help"])
    assert "tandem search fit" in capsys.readouterr().out
