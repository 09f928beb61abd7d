"""Twins that share a frozen backbone: the same numbers as full twins, for one more adapter set."""

import copy

import numpy as np
import pytest
import torch
from helpers import Rows, quiet_trainer
from torch import nn

from tandem_pl import InputError, MixtureModule, TandemModule
from tandem_pl.callbacks import TandemReweighting
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.networks import causal_language_model
from tandem_pl.networks.adapters import lora
from tandem_pl.objectives import CausalLanguageModeling
from tandem_pl.training.twins import make_twin, separate_parameters

pytest.importorskip("peft")
SIZES = {"vocab_size": 37, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2}


def adapted(dropout=0.1):
    network = lora(causal_language_model("qwen2", SIZES), rank=2, dropout=dropout, seed=1)
    with torch.random.fork_rng():  # B starts at 0: some adapter gradients would too
        torch.manual_seed(2)
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.2)
    return network


class Blocks(Rows):
    def __getitem__(self, index):
        return {"input_ids": self.rows[index]}


def blocks(seed, low, high):
    generator = torch.Generator().manual_seed(seed)
    return Blocks(torch.randint(low, high, (24, 8), generator=generator))


def data():
    train = {"low": blocks(0, 0, 12), "mid": blocks(1, 8, 25), "high": blocks(2, 20, 37)}
    return MixtureDataModule(train, {"t": blocks(3, 0, 20)}, batch_size=6)


def tandem(network, reference=None, **options):
    module = TandemModule(
        network, CausalLanguageModeling(), lambda params: torch.optim.AdamW(params, 0.01), **options
    )
    if reference is not None:
        module.reference = reference
    return module


def learn(module, folder, epochs=3, ckpt_path=None, **options):
    method = TandemReweighting(2, 3, 2, learning_rate=5.0)
    trainer = quiet_trainer(folder, max_epochs=epochs, callbacks=[method], **options)
    trainer.fit(module, data(), ckpt_path=ckpt_path)
    return np.stack(method.trajectory), trainer


def test_the_reference_shares_the_backbone_and_nothing_else():
    network = adapted()
    twin = make_twin(network)
    for (name, mine), theirs in zip(network.named_parameters(), twin.parameters(), strict=True):
        assert (mine is theirs) == ("lora" not in name), name
    mine = {id(module) for module in network.modules()}
    assert not mine & {id(module) for module in twin.modules()}


def test_adapters_learn_the_same_weights_as_full_twins(tmp_path):
    network = adapted()
    shared, _ = learn(tandem(copy.deepcopy(network)), tmp_path)
    full, _ = learn(tandem(copy.deepcopy(network), copy.deepcopy(network)), tmp_path)
    np.testing.assert_array_equal(shared, full)
    assert np.abs(shared[-1] - 1 / 3).max() > 1e-3  # they did move


def test_only_adapters_train(tmp_path):
    network = adapted()
    before = copy.deepcopy(network)
    module = tandem(network)
    learn(module, tmp_path)
    for (name, old), new in zip(before.named_parameters(), network.parameters(), strict=True):
        assert torch.equal(old, new) == ("lora" not in name), name
    assert all("lora" in n for n, p in module.named_parameters() if p.grad is not None)


def stored_bytes(module, trainer):
    """Bytes of the distinct storages of parameters, buffers, gradients and optimizer state."""
    tensors = [*module.parameters(), *module.buffers()]
    tensors += [p.grad for p in module.parameters() if p.grad is not None]
    for state in trainer.optimizers[0].state.values():
        tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
    return sum(
        {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values()
    )


def test_the_price_is_one_adapter_set_with_its_gradients_and_moments(tmp_path):
    plain = MixtureModule(
        adapted(), CausalLanguageModeling(), lambda params: torch.optim.AdamW(params, 0.01)
    )
    trainer = quiet_trainer(tmp_path, max_steps=3)
    trainer.fit(plain, data())
    alone = stored_bytes(plain, trainer)
    twins = tandem(adapted())
    _, trainer = learn(twins, tmp_path, epochs=1)
    pairs = separate_parameters(twins.network, twins.reference)
    adapters = sum(mine.numel() * mine.element_size() for mine, _ in pairs)
    buffers = sum(b.numel() * b.element_size() for b in plain.buffers())
    steps = 4 * len(pairs)  # AdamW's step counts
    assert stored_bytes(twins, trainer) - alone == 4 * adapters + steps + buffers


def small_checkpoint(tmp_path, **options):
    module = tandem(adapted(), checkpoint_frozen=False)
    _, trainer = learn(module, tmp_path, epochs=2, **options)
    trainer.save_checkpoint(tmp_path / "small.ckpt")
    return module, tmp_path / "small.ckpt"


def test_a_checkpoint_without_the_backbone_resumes_exactly(tmp_path):
    whole, _ = learn(tandem(adapted()), tmp_path, epochs=4)
    _, path = small_checkpoint(tmp_path)
    names = torch.load(path, weights_only=True)["state_dict"].keys()
    assert names
    assert all("lora" in name for name in names if "inv_freq" not in name)
    method = TandemReweighting(2, 3, 2, learning_rate=5.0)
    trainer = quiet_trainer(tmp_path, max_epochs=4, callbacks=[method])
    trainer.fit(tandem(adapted(), checkpoint_frozen=False), data(), ckpt_path=path)
    np.testing.assert_array_equal(np.stack(method.trajectory), whole)


def test_a_checkpoint_without_the_backbone_resumes_in_half_precision(tmp_path):
    """Such a module is converted after the checkpoint is read."""
    whole, _ = learn(tandem(adapted()), tmp_path, epochs=4, precision="bf16-true")
    _, path = small_checkpoint(tmp_path, precision="bf16-true")
    module = tandem(adapted(), checkpoint_frozen=False)
    resumed, _ = learn(module, tmp_path, epochs=4, precision="bf16-true", ckpt_path=path)
    np.testing.assert_array_equal(resumed, whole)


def test_another_backbone_is_refused(tmp_path):
    _, path = small_checkpoint(tmp_path)
    other = lora(causal_language_model("qwen2", SIZES, seed=9), rank=2)
    trainer = quiet_trainer(tmp_path, max_epochs=4, callbacks=[TandemReweighting(2, 3, 2)])
    with pytest.raises(InputError, match=r"frozen parameters .* differ from them"):
        trainer.fit(tandem(other, checkpoint_frozen=False), data(), ckpt_path=path)


def test_a_frozen_backbone_needs_no_peft():
    network = nn.Sequential(
        nn.Linear(3, 4).requires_grad_(False), nn.BatchNorm1d(4), nn.Linear(4, 1)
    )
    twin = make_twin(network)
    assert twin[0].weight is network[0].weight
    assert twin[1].running_mean is not network[1].running_mean
    with pytest.raises(InputError, match="no parameter that trains"):
        tandem(nn.Linear(2, 2).requires_grad_(False)).parameter_groups()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank=0 must be at least 1"),
        ({"target_modules": ["nope"]}, "set target_modules"),
        ({"lora_config": {"nope": 1}}, "fields of peft.LoraConfig"),
    ],
)
def test_bad_settings_are_one_sentence(options, message):
    with pytest.raises(InputError, match=message) as caught:
        lora(causal_language_model("qwen2", SIZES), **options)
    assert "\n" not in str(caught.value)
