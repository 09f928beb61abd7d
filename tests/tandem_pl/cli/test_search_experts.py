"""`tandem search mixmin` and `merge` on runs of one domain each, and on tables of likelihoods."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_experts import train_experts

from tandem_pl import Mixture
from tandem_pl.cli import main
from tandem_pl.cli.expert_losses import expert_likelihoods
from tandem_pl.search import fit_experts, propose
from tandem_pl.search.likelihoods import read_likelihoods

BOTH = "{web: none, code: none}"  # not to be reached if a setting is wrong
EXPERTS = "{low: runs/low, high: runs/high}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a run of each of two domains."""
    place = tmp_path_factory.mktemp("experts")
    train_experts(place)
    return place


def test_experts_are_evaluated_on_target_data(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    options = ["--target", "both", "--out", "found"]
    assert main(["search", "mixmin", "--experts", EXPERTS, *options]) == 0
    printed = capsys.readouterr().out
    table = read_likelihoods("found/likelihoods.csv")
    assert table.experts == ("low", "high")
    assert len(table.samples) == 36
    own = table.of_targets(["both"])
    law = fit_experts(own.values, own.experts)
    weights = Mixture.load("found/proposal.yaml").weights
    assert weights == pytest.approx(propose({"target": law}, kl=0.0).weights, abs=1e-6)
    assert 0.3 < weights["low"] < 0.7  # half of the samples are like each domain
    assert "30 target samples" in printed
    assert f"without bounds: {law.held_out.mixture:.4f}" in printed
    # an expert's mean loss on a domain is what `tandem validate` finds
    assert main(["validate", "runs/high"]) == 0
    validated = pd.read_csv("runs/high/validation.csv").set_index("domain")["loss"]
    for name in ("both", "few"):
        losses = -table.of_targets([name]).values[:, 1]
        assert losses.mean() == pytest.approx(validated[name], rel=1e-5)


def test_experts_are_mixed_token_by_token(folder, monkeypatch):
    monkeypatch.chdir(folder)
    expert_likelihoods({"low": "runs/low", "high": "runs/high"}).save("each.csv")
    options = ["--per_token", "--out", "tokens"]
    assert main(["search", "mixmin", "--experts", EXPERTS, *options]) == 0
    tokens, samples = read_likelihoods("tokens/likelihoods.csv"), read_likelihoods("each.csv")
    counts = np.bincount(tokens.samples)
    assert sorted(counts) == [3] * 6 + [11] * 30  # a text has no loss of its first token
    sums = np.stack([np.bincount(tokens.samples, column) for column in tokens.values.T], axis=1)
    assert sums / counts[:, None] == pytest.approx(samples.values, rel=1e-5)
    law = fit_experts(tokens.values, tokens.experts, tokens.samples)
    weights = propose({"t": law}, kl=0.0).weights
    assert Mixture.load("tokens/proposal.yaml").weights == pytest.approx(weights, abs=1e-6)


def test_a_merged_checkpoint_is_written(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    Mixture({"low": 0.25, "high": 0.75}).save("mixture.yaml")
    assert main(["search", "merge", EXPERTS, "mixture.yaml"]) == 0
    assert "tandem test runs/low --ckpt_path merged.ckpt" in capsys.readouterr().out
    paths = [*(f"runs/{name}/checkpoints/last.ckpt" for name in ("low", "high")), "merged.ckpt"]
    first, second, merged = (torch.load(path, weights_only=True)["state_dict"] for path in paths)
    for key, value in merged.items():
        assert torch.allclose(value, 0.25 * first[key] + 0.75 * second[key], atol=1e-6)


def test_averages_of_experts_are_searched_in_rounds(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    rounds = ["--rounds", "[8, 4]", "--law", "gaussian_process", "--out", "rounds"]
    assert main(["search", "rounds", EXPERTS, "--target", "both", *rounds]) == 0
    assert "12 averages of networks" in capsys.readouterr().out
    table = pd.read_csv("rounds/runs.csv")
    assert list(table) == ["weight/low", "weight/high", "metric/loss/both"]
    assert len(table) == 12
    weights = Mixture.load("rounds/proposal.yaml").weights
    assert 0.3 < weights["low"] < 0.7  # half of the samples are like each domain
    # an average's loss is what `tandem test` finds for the merged checkpoint
    row = table.iloc[3]
    Mixture({"low": row["weight/low"], "high": row["weight/high"]}).save("row.yaml")
    assert main(["search", "merge", EXPERTS, "row.yaml", "--out", "row.ckpt"]) == 0
    assert main(["validate", "runs/low", "--ckpt_path", "row.ckpt"]) == 0
    validated = pd.read_csv("runs/low/validation.csv").set_index("domain")["loss"]
    assert row["metric/loss/both"] == pytest.approx(validated["both"], rel=1e-5)
    for verb in (["rounds", EXPERTS, "--law", "linear"], ["mixmin", "--experts", EXPERTS]):
        assert main(["search", *verb, "--target", "bth", "--out", "never"]) == 2
        assert "target='bth' is unknown: did you mean 'both'?" in capsys.readouterr().err
    assert not (folder / "never").exists()


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    table = pd.DataFrame(-generator.gamma(2.0, size=(60, 2)), columns=["web", "code"])
    table.to_csv("plain.csv", index=False)
    table.abs().to_csv("losses.csv", index=False)
    table[["web"]].to_csv("one.csv", index=False)
    table.assign(sample=[None, *range(59)]).to_csv("gap.csv", index=False)
    table.assign(domain=["math", "law"] * 30, sample=np.arange(60) // 2).to_csv("all.csv")
    (tmp_path / "tokens.yaml").write_text("{web: 500, code: 20}\n")
    return tmp_path


def test_a_table_of_likelihoods_is_read(place, capsys):
    bounds = ["--tokens", "100", "--tokens_per_domain", "tokens.yaml", "--repeats", "2"]
    assert main(["search", "mixmin", "--likelihoods", "plain.csv", *bounds]) == 0
    assert Mixture.load("proposal.yaml")["code"] <= 0.4
    frame = pd.read_csv("all.csv", index_col=0)  # the number of a row is no expert
    assert main(["search", "mixmin", "--likelihoods", "all.csv", "--target", "law"]) == 0
    assert "30 target samples, 30 rows of likelihoods, 2 experts" in capsys.readouterr().out
    rows = frame[frame["domain"] == "law"]
    law = fit_experts(rows[["web", "code"]].to_numpy(), ["web", "code"])
    expected = propose({"t": law}, kl=0.0).weights
    assert Mixture.load("proposal.yaml").weights == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mixmin"], "give either --experts, the runs of each domain, or --likelihoods FILE"),
        (["mixmin", "--likelihoods", "plan.csv"], "did you mean 'plain.csv'"),
        (["mixmin", "--likelihoods", "one.csv"], "for each of two experts or more"),
        (["mixmin", "--likelihoods", "losses.csv"], "minus the losses"),
        (["mixmin", "--likelihoods", "plain.csv", "--target", "math"], "needs a column 'domain'"),
        (["mixmin", "--likelihoods", "all.csv", "--target", "maths"], "did you mean 'math'"),
        (["mixmin", "--likelihoods", "gap.csv"], "gap.csv has rows without a sample"),
        (["mixmin", "--likelihoods", "plain.csv", "--per_token"], "--per_token is for --experts"),
        (["mixmin", "--likelihoods", "plain.csv", "--caps", "{web: 0.1, code: 0.1}"], "caps sum"),
        (["mixmin", "--likelihoods", "plain.csv", "--tokens", "9"], "give all three, or none"),
        (["mixmin", "--experts", "{web: none}"], "the runs of two or more domains"),
        (["mixmin", "--experts", BOTH, "--caps", "{web: 0.1, code: 0.1}"], "caps sum to 0.2"),
        (["mixmin", "--experts", BOTH, "--prior", "nofile.yaml"], "nofile.yaml"),
        (["mixmin", "--experts", BOTH, "--kl", "-1"], "kl=-1.0 must be"),
        (["rounds", BOTH], "the law 'lightgbm' needs LightGBM"),
        (["rounds", BOTH, "--law", "linera"], "did you mean 'linear'"),
        (["rounds", BOTH, "--law", "linear", "--rounds", "[2, 9]"], "needs at least 3 mixtures"),
        (["rounds", BOTH, "--law", "linear", "--caps", "{web: 0.1, code: 0.1}"], "caps sum to 0.2"),
        (["mixmin", "--experts", BOTH], "run 'none' does not exist"),
        (["mixmin", "--experts", BOTH, "--out", "plain.csv"], "is a file: give a folder"),
        (["rounds", BOTH, "--law", "linear", "--out", "plain.csv"], "is a file: give a folder"),
        (["merge", BOTH, "uniform", "--out", "."], "--out . is a folder: give a file"),
        (["merge", BOTH, "uniform"], "run 'none' does not exist"),
    ],
)
def test_bad_input_is_one_sentence(place, monkeypatch, capsys, arguments, message):
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    assert main(["search", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
