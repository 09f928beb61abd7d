"""Each data module trains on a target of its own."""

import numpy as np
import pytest
import torch
from helpers import quiet_trainer
from image_helpers import PLAIN, write_noise
from row_files import asks, says, write
from torch import nn

from tandem_pl import TandemModule
from tandem_pl.callbacks import TandemReweighting
from tandem_pl.datamodules import (
    ImageMixtureDataModule,
    InstructionMixtureDataModule,
    TextMixtureDataModule,
)
from tandem_pl.networks import causal_language_model
from tandem_pl.objectives import CausalLanguageModeling, Classification


def language_module():
    size = {"vocab_size": 257, "hidden_size": 16, "num_hidden_layers": 1}
    size |= {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 32}
    network = causal_language_model("qwen2", size)
    return TandemModule(network, CausalLanguageModeling(), lambda p: torch.optim.SGD(p, 0.5))


def image_module():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    return TandemModule(network, Classification(), lambda p: torch.optim.SGD(p, 0.1))


def text_run(tmp_path):
    domains = {name: write(tmp_path / name, says(name, 30)) for name in ("news.jsonl", "a.jsonl")}
    target = {"exam": write(tmp_path / "exam.jsonl", says("exam", 20))}
    options = {"target": target, "block_size": 16, "cache_dir": str(tmp_path / "cache")}
    return TextMixtureDataModule(domains, **options), language_module()


def chat_run(tmp_path):
    domains = {name: write(tmp_path / name, asks(name, 30)) for name in ("news.jsonl", "a.jsonl")}
    target = {"exam": write(tmp_path / "exam.jsonl", asks("exam", 20))}
    options = {"target": target, "cache_dir": str(tmp_path / "cache")}
    return InstructionMixtureDataModule(domains, **options), language_module()


def image_run(tmp_path):
    return ImageMixtureDataModule(**write_noise(tmp_path), batch_size=8, **PLAIN), image_module()


@pytest.mark.parametrize("make", [text_run, chat_run, image_run])
def test_a_mixture_is_learned_for_a_target_of_its_own(make, tmp_path):
    data, module = make(tmp_path)
    reweighting = TandemReweighting(2, 2, 2, learning_rate=1.0)
    trainer = quiet_trainer(tmp_path, callbacks=[reweighting], max_epochs=2, limit_val_batches=1.0)
    data.validate_target = True
    trainer.fit(module, datamodule=data)
    name = data.domain_names("validate")[0]
    assert name not in data.domain_names()
    assert reweighting.mixture.domains == data.domain_names()
    assert np.ptp(np.stack(reweighting.trajectory), axis=0).max() > 0
    assert float(trainer.callback_metrics[f"validation/loss/{name}"]) > 0
    tested = trainer.test(module, datamodule=data, verbose=False)
    assert tested, "the test data of the target are there too"
    assert {f"test/loss/{d}" for d in data.domain_names("test")} <= set(trainer.callback_metrics)
