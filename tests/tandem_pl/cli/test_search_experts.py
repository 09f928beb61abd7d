"""`tandem search mixmin` and `merge` on runs of one domain each, and on tables of likelihoods."""

import numpy as np
import pandas as pd
import pytest
import torch

from tandem_pl import Mixture
from tandem_pl.cli import main
from tandem_pl.search import fit_experts, propose
from tandem_pl.search.likelihoods import read_likelihoods

EXPERTS = "{python: runs/python, cpp: runs/cpp}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with runs of two domains, each of four batches."""
    place = tmp_path_factory.mktemp("experts")
    for name in ("python", "cpp"):
        config = f"""
trainer:
  max_steps: 4
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: tandem_pl.callbacks.FixedMixture
  logger:
    class_path: lightning.pytorch.loggers.TensorBoardLogger
    init_args: {{save_dir: {place}, name: runs, version: {name}}}
model:
  class_path: tandem_pl.MixtureModule
  init_args:
    network:
      class_path: tandem_pl.networks.causal_language_model
      init_args:
        model_type: gpt_neox
        config: {{vocab_size: 257, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2,
          intermediate_size: 32, max_position_embeddings: 32}}
    objective: tandem_pl.objectives.CausalLanguageModeling
    optimizer: {{class_path: torch.optim.AdamW, init_args: {{lr: 0.01}}}}
data:
  class_path: tandem_pl.datamodules.EnvironmentCorpus
  init_args:
    preset: restricted
    block_size: 32
    batch_size: 8
    eval_batch_size: 512
    weights: {{python: {float(name == "python")}, cpp: {float(name == "cpp")}, docstrings: 0,
      stubs: 0, javascript: 0, readmes: 0, licences: 0}}
"""
        (place / f"{name}.yaml").write_text(config)
        assert main(["fit", "--config", str(place / f"{name}.yaml")]) == 0
    return place


def test_experts_are_evaluated_on_target_data(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    options = ["--target", "python", "cpp", "--out", "found"]
    assert main(["search", "mixmin", "--experts", EXPERTS, *options]) == 0
    printed = capsys.readouterr().out
    table = read_likelihoods("found/likelihoods.csv")
    assert table.experts == ("python", "cpp")
    own = table.of_targets(["python", "cpp"])
    law = fit_experts(own.values, own.experts, own.samples)
    expected = propose({"target": law}, kl=0.0)
    assert Mixture.load("found/proposal.yaml").weights == pytest.approx(expected.weights, abs=1e-6)
    assert f"{len(own.samples)} target samples" in printed
    assert f"without bounds: {law.held_out.mixture:.4f}" in printed
    # an expert's mean loss on a domain is what `tandem validate` finds
    assert main(["validate", "runs/cpp"]) == 0
    validated = pd.read_csv("runs/cpp/validation.csv").set_index("domain")["loss"]
    for name in ("cpp", "licences"):
        losses = -table.of_targets([name]).values[:, 1]
        assert losses.mean() == pytest.approx(validated[name], rel=1e-5)


def test_experts_are_mixed_token_by_token(folder, monkeypatch):
    monkeypatch.chdir(folder)
    options = ["--per_token", "--target", "licences", "--out", "tokens"]
    assert main(["search", "mixmin", "--experts", EXPERTS, *options]) == 0
    tokens = read_likelihoods("tokens/likelihoods.csv").of_targets(["licences"])
    samples = np.unique(tokens.samples)
    assert len(tokens.samples) == 31 * len(samples)  # a block has no loss of its first token
    law = fit_experts(tokens.values, tokens.experts, tokens.samples)
    each = propose({"t": law}, kl=0.0)
    assert Mixture.load("tokens/proposal.yaml").weights == pytest.approx(each.weights, abs=1e-6)


def test_a_merged_checkpoint_is_tested(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    Mixture({"python": 0.25, "cpp": 0.75}).save("mixture.yaml")
    assert main(["search", "merge", EXPERTS, "mixture.yaml"]) == 0
    assert "tandem test runs/python --ckpt_path merged.ckpt" in capsys.readouterr().out
    paths = [*(f"runs/{name}/checkpoints/last.ckpt" for name in ("python", "cpp")), "merged.ckpt"]
    first, second, merged = (torch.load(path, weights_only=True)["state_dict"] for path in paths)
    for key, value in merged.items():
        assert torch.allclose(value, 0.25 * first[key] + 0.75 * second[key], atol=1e-6)
    assert main(["test", "runs/python", "--ckpt_path", "merged.ckpt"]) == 0


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    table = pd.DataFrame(-generator.gamma(2.0, size=(60, 2)), columns=["web", "code"])
    table.to_csv("plain.csv", index=False)
    table.abs().to_csv("losses.csv", index=False)
    table[["web"]].to_csv("one.csv", index=False)
    table.assign(domain=["math", "law"] * 30, sample=np.arange(60) // 2).to_csv("all.csv")
    (tmp_path / "tokens.yaml").write_text("{web: 500, code: 20}\n")
    return tmp_path


def test_a_table_of_likelihoods_is_read(place, capsys):
    bounds = ["--tokens", "100", "--tokens_per_domain", "tokens.yaml", "--repeats", "2"]
    assert main(["search", "mixmin", "--likelihoods", "plain.csv", *bounds]) == 0
    assert Mixture.load("proposal.yaml")["code"] <= 0.4
    frame = pd.read_csv("all.csv", index_col=0)
    frame.to_csv("own.csv", index=False)
    assert main(["search", "mixmin", "--likelihoods", "own.csv", "--target", "law"]) == 0
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
        (["mixmin", "--likelihoods", "plain.csv", "--per_token"], "--per_token is for --experts"),
        (["mixmin", "--likelihoods", "plain.csv", "--caps", "{web: 0.1, code: 0.1}"], "caps sum"),
        (["mixmin", "--likelihoods", "plain.csv", "--tokens", "9"], "give all three, or none"),
        (["mixmin", "--experts", "{web: none, code: none}"], "run 'none' does not exist"),
        (["merge", "{web: none, code: none}", "uniform"], "run 'none' does not exist"),
    ],
)
def test_bad_input_is_one_sentence(place, capsys, arguments, message):
    assert main(["search", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
