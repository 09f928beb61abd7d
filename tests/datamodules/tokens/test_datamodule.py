"""`TokenMixtureDataModule`: blocks, what is held out, vocabularies, and runs."""

import pickle
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import quiet_trainer
from token_files import write_litdata, write_mds, write_megatron, write_nanogpt, write_saved
from torch import nn

from tandem_pl import MixtureModule, TandemModule
from tandem_pl.callbacks import TandemReweighting
from tandem_pl.cli import main
from tandem_pl.datamodules import TokenMixtureDataModule
from tandem_pl.errors import InputError
from tandem_pl.objectives import CausalLanguageModeling
from tandem_pl.yaml_files import read_yaml

CONFIG = str(Path(__file__).parents[3] / "configs" / "quickstart.yaml")
LENGTH = 6000
ADAM = partial(torch.optim.Adam, lr=0.01)


def stream(seed, size=LENGTH, vocabulary=50):
    return np.random.default_rng(seed).integers(0, vocabulary, size=size)


@pytest.fixture
def sources(tmp_path):
    """Five domains, a format each."""
    pieces = [np.split(stream(seed), 6) for seed in range(5)]
    rows = [{"input_ids": piece.tolist()} for piece in pieces[2]]
    tensors = [torch.tensor(piece) for piece in pieces[3]]
    samples = [{"tokens": piece.astype(np.int64)} for piece in pieces[4]]
    return {
        "no": str(write_megatron(tmp_path / "a_document", pieces[0])),
        "1e3": str(write_nanogpt(tmp_path / "b.bin", np.concatenate(pieces[1]))),
        "saved": str(write_saved(tmp_path / "saved", rows)),
        "lit": str(write_litdata(tmp_path / "lit", tensors, chunk_size=2500)),
        "mosaic": str(write_mds(tmp_path / "mds", {"tokens": "bytes"}, samples)),
    }


def opened(**options):
    data = TokenMixtureDataModule(**options)
    data.setup()
    return data


def blocks(samples):
    return [sample["input_ids"].tolist() for sample in samples]


def test_blocks_of_every_format_and_what_is_held_out(sources):
    data = opened(train=sources, block_size=16, target_fraction=0.1, test_fraction=0.2)
    assert list(data.train_sets) == list(data.target_sets) == list(data.test_sets) == list(sources)
    for seed, name in enumerate(sources):
        expected = stream(seed)[: LENGTH // 16 * 16].reshape(-1, 16).tolist()
        parts = [data.train_sets[name], data.target_sets[name], data.test_sets[name]]
        assert [len(part) for part in parts] == [262, 38, 75]
        found = [block for part in parts for block in blocks(part)]
        assert sorted(found) == sorted(expected)
        starts = [expected.index(block) for block in blocks(data.target_sets[name])]
        assert (np.diff(starts) == 1).all(), "one contiguous piece"
    assert data.vocab_size == 50
    again = opened(train=sources, block_size=16, target_fraction=0.1, test_fraction=0.2)
    assert blocks(again.test_sets["lit"]) == blocks(data.test_sets["lit"])
    assert again._identity() == data._identity()
    other = opened(train=sources, block_size=16, target_fraction=0.1, split_seed=1)
    assert other._identity() != data._identity()


def test_target_and_test_data_of_their_own(sources):
    target, test = {"no": sources["no"]}, {"new": sources["lit"]}
    data = opened(train=sources, target=target, test=test, block_size=16)
    assert [len(s) for s in data.train_sets.values()] == [375] * 5, "nothing is held out"
    assert list(data.target_sets) == ["no"]
    assert blocks(data.test_sets["new"]) == blocks(data.train_sets["lit"])
    alone = opened(train=sources, block_size=16, target_fraction=0, test_fraction=0)
    assert (alone.target_sets, alone.test_sets) == ({}, {})
    assert len(alone.train_sets["no"]) == 375


def test_the_summary(sources):
    data = TokenMixtureDataModule(sources, block_size=64)
    rows = data.summary()
    assert [row["kind"] for row in rows] == ["megatron", "nanogpt", "huggingface", "litdata", "mds"]
    expected = {"tokens": 6000, "samples": 93, "dropped_tokens": 48}
    assert all({key: row[key] for key in expected} == expected for row in rows)


def test_batches_are_the_same_in_worker_processes(sources, tmp_path):
    found = []
    for workers in (0, 2):
        data = opened(train=sources, block_size=16, batch_size=8, num_workers=workers)
        data.trainer = quiet_trainer(tmp_path)
        batches = [batch.samples["input_ids"] for batch in data.train_dataloader()]
        assert all(batch.shape == (8, 16) for batch in batches)
        found.append(torch.cat(batches))
    assert torch.equal(*found)
    samples = data.train_sets["saved"]
    assert blocks(pickle.loads(pickle.dumps(samples))) == blocks(samples)  # noqa: S301
    assert len(pickle.dumps(samples)) < 5000


def test_rows_with_labels_are_padded(tmp_path, sources):
    rows = [
        {"input_ids": [1, 2, 3], "labels": [-100, 2, 3], "attention_mask": [1, 1, 1]},
        {"input_ids": [4, 5, 0], "labels": [-100, 5, -100], "attention_mask": [1, 1, 0]},
    ] * 20
    answers = str(write_saved(tmp_path / "answers", rows))
    data = opened(
        train={"answers": answers, "web": sources["1e3"]},
        block_size=5,
        batch_size=4,
        weights={"answers": 1, "web": 1},
    )
    assert len(data.train_sets["answers"]) == 36
    data.trainer = quiet_trainer(tmp_path)
    batch = next(iter(data.train_dataloader()))
    assert batch.samples.keys() == {"input_ids", "labels", "attention_mask"}
    assert batch.samples["input_ids"].shape == (4, 5)
    for row, domain in enumerate(batch.domains.tolist()):
        ids, labels, mask = (
            batch.samples[k][row].tolist() for k in ("input_ids", "labels", "attention_mask")
        )
        if domain == 1:
            assert (labels, mask) == (ids, [1] * 5)
        else:
            expected = ([-100, 2, 3], [1, 1, 1]) if ids[0] == 1 else ([-100, 5], [1, 1])
            assert labels == expected[0] + [-100] * (5 - len(expected[0]))
            assert mask == expected[1] + [0] * (5 - len(expected[1]))
    with pytest.raises(InputError, match=r"train\['answers'\] has a row of 3 tokens"):
        opened(train={"answers": answers}, block_size=2)
    joined = opened(
        train={"a": {"path": answers, "rows": False}},
        block_size=5,
        target_fraction=0,
        test_fraction=0,
    )
    assert joined.train_sets["a"][0]["input_ids"].tolist() == [1, 2, 3, 4, 5]
    assert joined.train_sets["a"][0]["labels"].tolist() == [-100, 2, 3, -100, 5]


def test_the_vocabulary_is_asked_for_or_found(sources, tmp_path):
    assert TokenMixtureDataModule(sources).vocab_size == 50
    assert TokenMixtureDataModule(sources, vocab_size=64).vocab_size == 64
    assert TokenMixtureDataModule(sources, tokenizer="bytes").vocab_size == 257
    data = opened(train=sources, vocab_size=40, block_size=16)
    with pytest.raises(InputError, match=r"train\['no'\] has the token \d+ in sample"):
        blocks(data.train_sets["no"])
    wide = write_nanogpt(tmp_path / "wide.bin", stream(0) + 2**16, "uint32")
    wrong = TokenMixtureDataModule({"wide": {"path": str(wide), "dtype": "int64"}})
    with pytest.raises(
        InputError, match=r"train\['wide'\] has the token \d+; give the type of its"
    ):
        _ = wrong.vocab_size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_size": 1}, "block_size=1 must be at least 2"),
        ({"vocab_size": 0}, "vocab_size=0 must be at least 1"),
        ({"target_fraction": 1.0}, r"target_fraction=1\.0 must be 0 or more and below 1"),
        ({"test": {True: "x"}}, "test has the name True, which is no text"),
    ],
)
def test_settings_that_cannot_be(options, message):
    with pytest.raises(InputError, match=message):
        TokenMixtureDataModule({"a": "b"}, **options)


def test_sources_that_are_too_small(sources):
    with pytest.raises(InputError, match=r"train\['no'\] has 6,000 tokens, fewer than a block"):
        opened(train=sources, block_size=6001)
    with pytest.raises(InputError, match=r"train\['no'\] has 2 samples, too few to hold out"):
        opened(train=sources, block_size=3000)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 50))

    def get_input_embeddings(self):
        return self.layers[0]

    def forward(self, input_ids):
        return self.layers(input_ids)


def test_a_run_resumes_and_refuses_other_tokens(sources, tmp_path):
    def run(steps, data, path=None):
        module = TandemModule(Network(), CausalLanguageModeling(), ADAM, penalty=1.0)
        method = TandemReweighting(free_steps=4, probe_steps=2)
        trainer = quiet_trainer(
            tmp_path, max_steps=steps, callbacks=[method], use_distributed_sampler=False
        )
        trainer.fit(module, data, ckpt_path=path)
        return trainer, method, torch.cat([p.detach().flatten() for p in module.parameters()])

    def data(**options):
        return TokenMixtureDataModule(sources, block_size=16, batch_size=5, **options)

    _, whole, end = run(24, data())
    trainer, _, _ = run(12, data())
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    _, halves, resumed = run(24, data(), tmp_path / "half.ckpt")
    assert torch.equal(end, resumed)
    assert np.array_equal(whole.weights, halves.weights)
    write_nanogpt(tmp_path / "b.bin", stream(9))
    with pytest.raises(InputError, match="the checkpoint was made with tokens="):
        run(24, data(), tmp_path / "half.ckpt")


def test_a_network_with_too_small_a_vocabulary(sources, tmp_path):
    module = MixtureModule(Network(), CausalLanguageModeling(), ADAM)
    write_nanogpt(tmp_path / "b.bin", stream(0, vocabulary=80))
    trainer = quiet_trainer(tmp_path, max_steps=1, use_distributed_sampler=False)
    data = TokenMixtureDataModule(sources, block_size=16)
    with pytest.raises(InputError, match="a vocabulary of 80 tokens and the network embeds 50"):
        trainer.fit(module, data)


def test_the_command_line(sources, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = "".join(f"      {name}: {path}\n" for name, path in sources.items())
    (tmp_path / "tokens.yaml").write_text(
        "data:\n  class_path: tandem_pl.datamodules.TokenMixtureDataModule\n  init_args:\n"
        f"    train:\n{lines}    block_size: 16\n    batch_size: 5\n    vocab_size: 64\n"
    )
    small = ["--model.network.config.hidden_size", "16", "--model.network.config.vocab_size", "64"]
    small += ["--model.network.config.num_hidden_layers", "1", "--trainer.max_steps", "55"]
    small += ["--model.network.config.max_position_embeddings", "16"]
    small += ["--trainer.limit_val_batches", "2"]
    assert main(["fit", "--config", CONFIG, "--config", "tokens.yaml", *small]) == 0
    run = tmp_path / "runs/quickstart/version_0"
    mixture = read_yaml(run / "mixture.yaml")
    assert list(mixture["weights"]) == list(sources)
    last = ["--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints/last.ckpt")]
    capsys.readouterr()
    assert main(["test", *last]) == 0
    assert all(re.search(rf"^{name} +\d", capsys.readouterr().out, re.M) for name in ["no"])
