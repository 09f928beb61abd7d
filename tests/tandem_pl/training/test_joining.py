"""The reference's training and target samples in one forward, against one forward for each."""

import numpy as np
import pytest
import torch
from helpers import predict_last, quiet_trainer, random_rows, small_network
from module_helpers import WIDTH, adamw, batch_norm_network, make_data, make_reweighting, sgd
from torch import nn
from transformers import BatchEncoding

from tandem_pl import InputError, TandemModule
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.networks import causal_language_model
from tandem_pl.training.joining import check_joinable, join_samples
from tandem_pl.training.micro_batches import split_batch
from tandem_pl.training.sample_weights import LossBasedWeights

EPISODES, PROBE = 3, 3


class Counted(nn.Module):
    """A network that counts the forwards of its copies too, by rows."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.rows = small_network(WIDTH), []

    def forward(self, inputs):
        if self.training:
            self.rows.append(len(inputs))
        return self.inner(inputs)


def run(folder, join, data=None, **options):
    module = TandemModule(
        Counted(), predict_last, options.pop("optimizer", sgd), join_probe=join, **options
    )
    method = make_reweighting(free=2, probe=PROBE)
    trainer = quiet_trainer(folder, callbacks=[method], max_epochs=EPISODES)
    trainer.fit(module, datamodule=data or make_data())
    return module, method


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": adamw, "gradient_clip_val": 0.1, "penalty": 1.7},
        {"micro_batch_size": 3},
        {"sample_weights": LossBasedWeights(), "optimizer": adamw},
    ],
    ids=["plain", "clipped", "micro-batches", "sample weights"],
)
def test_it_is_what_separate_forwards_do(options, tmp_path) -> None:
    (joined, signal), (apart, expected) = (
        run(tmp_path / str(join), join, **dict(options)) for join in (True, False)
    )
    for mine, theirs in zip(joined.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
    np.testing.assert_allclose(signal.weights, expected.weights, rtol=0, atol=1e-12)
    assert np.abs(expected.weights - 0.5).max() > 1e-6
    assert len(joined.reference.rows) < len(apart.reference.rows)


def test_one_forward_of_both_after_an_episodes_first_probe_step(tmp_path) -> None:
    module, _ = run(tmp_path, True)
    assert module.reference.rows == [8, 16, 16] * EPISODES  # the first needs target samples alone


def test_other_shapes_are_not_joined(tmp_path) -> None:
    """Samples are cut to the network's width in its forward: rows of target data are wider."""

    def collate(rows):
        return torch.stack(rows)

    train = {name: random_rows(20, WIDTH, seed) for seed, name in enumerate("ab")}
    target = {"t": random_rows(30, WIDTH + 1, 7)}
    data = MixtureDataModule(train, target=target, batch_size=8, collate_fn=collate)

    def cut(network, samples):
        return predict_last(network, samples[:, :WIDTH])

    module = TandemModule(Counted(), cut, sgd, join_probe=True)
    trainer = quiet_trainer(tmp_path, callbacks=[make_reweighting(free=2, probe=3)], max_epochs=1)
    with pytest.warns(UserWarning, match="such batches take a forward each"):
        trainer.fit(module, datamodule=data)
    assert module.reference.rows == [8] * 5


def test_a_language_model_with_both_rows_in_one(tmp_path) -> None:
    a, b = ({"input_ids": torch.full((2, 4), n), "labels": torch.ones(2, 4)} for n in (1, 2))
    joined = join_samples(a, b)
    assert joined["input_ids"][:, 0].tolist() == [1, 1, 2, 2]
    assert join_samples(a, {"input_ids": b["input_ids"]}) is None
    assert join_samples(a, b | {"labels": torch.ones(2, 4).long()}) is None
    assert join_samples([a, "text"], [b, "text"]) is None


def test_what_collators_of_transformers_return() -> None:
    """A BatchEncoding is a UserDict, which torch's trees do not look into."""
    a, b = (BatchEncoding({"input_ids": torch.full((2, 4), n)}) for n in (1, 2))
    joined = join_samples(a, b)
    assert isinstance(joined, BatchEncoding)
    assert joined["input_ids"][:, 0].tolist() == [1, 1, 2, 2]
    assert join_samples(a, dict(b)) is None
    parts = split_batch(joined, 4, 3)
    assert [(type(part), part.input_ids[:, 0].tolist(), size) for part, size in parts] == [
        (BatchEncoding, [1, 1, 2], 3),
        (BatchEncoding, [2], 1),
    ]


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (batch_norm_network(), "without BatchNorm"),
        (nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.1)), r"without dropout, and 1\.p is 0\.1"),
        (nn.MultiheadAttention(4, 2, dropout=0.5), "without dropout, and dropout is 0.5"),
    ],
)
def test_networks_whose_samples_are_not_apart_are_refused(network, message) -> None:
    with pytest.raises(InputError, match=message):
        TandemModule(network, predict_last, sgd, join_probe=True)


def test_the_rates_of_a_language_model_are_found() -> None:
    sizes = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    for model_type in ("gpt_neox", "llama"):
        check_joinable(causal_language_model(model_type, sizes | {"intermediate_size": 8}))
    dropout = {"intermediate_size": 8, "attention_dropout": 0.1}
    with pytest.raises(InputError, match="without dropout"):
        check_joinable(causal_language_model("llama", sizes | dropout))
