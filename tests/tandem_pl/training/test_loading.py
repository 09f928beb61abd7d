"""Checkpoints that do not fit the run that loads them: one sentence, and what fits still loads."""

import pytest
import torch
from helpers import parameters_of, predict_last, quiet_trainer, random_rows, small_network
from module_helpers import WIDTH, adamw, make_data, make_reweighting
from torch import nn

from tandem_pl import InputError, MixtureModule, TandemModule
from tandem_pl.datamodules import MixtureDataModule

ADVICE = "use the configuration of the run that made it, RUN/config.yaml."


def module_of(network=None, kind=MixtureModule):
    return kind(network or small_network(WIDTH), predict_last, adamw)


def data_of(width=WIDTH):
    sets = {name: random_rows(20, width, seed) for seed, name in enumerate("ab")}
    return MixtureDataModule(sets, test=sets, batch_size=8, epoch_batches=4)


def trainer_of(folder, *callbacks, **options):
    return quiet_trainer(folder, callbacks=list(callbacks), **({"limit_val_batches": 1} | options))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint of one network, at step 4."""
    folder = tmp_path_factory.mktemp("run")
    trainer = trainer_of(folder, max_steps=4)
    trainer.fit(module_of(), data_of())
    trainer.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_a_checkpoint_of_another_size_is_one_sentence(verb, checkpoint, tmp_path):
    trainer = trainer_of(tmp_path, max_steps=9)
    module = module_of(small_network(WIDTH + 1))
    with pytest.raises(InputError) as raised:
        getattr(trainer, verb)(module, data_of(WIDTH + 1), ckpt_path=checkpoint)
    assert str(raised.value) == (
        "the checkpoint is of another network: network.0.weight has shape [5, 3] there and "
        f"[5, 4] here; {ADVICE}"
    )


def test_a_checkpoint_of_another_kind_of_network_is_one_sentence(checkpoint, tmp_path):
    network = nn.Sequential(nn.Linear(WIDTH - 1, 5), nn.LayerNorm(5), nn.Linear(5, 1)).double()
    with pytest.raises(InputError) as raised:
        trainer_of(tmp_path, max_steps=9).fit(module_of(network), data_of(), ckpt_path=checkpoint)
    assert str(raised.value) == (
        "the checkpoint is of another network: it lacks 2 of the network's 6 tensors, such as "
        f"network.1.weight; {ADVICE}"
    )


@pytest.mark.parametrize("mine", [MixtureModule, TandemModule])
def test_one_network_and_twins_are_kept_apart(mine, tmp_path):
    other = TandemModule if mine is MixtureModule else MixtureModule
    state = module_of(kind=other).state_dict()
    with pytest.raises(InputError, match=r"(lacks 4 of .*|has 4 others), such as reference\.0"):
        module_of(kind=mine).load_state_dict(state)
    loaded = module_of(small_network(WIDTH, seed=1), kind=mine)
    loaded.load_state_dict(state, strict=False)
    assert torch.equal(parameters_of(loaded.network), parameters_of(small_network(WIDTH)))


def test_modules_that_rename_keys_load_as_before(tmp_path):
    """The keys of the checkpoint differ, and a hook of the network makes them fit."""
    network = small_network(WIDTH, seed=1)

    def rename(module, state, prefix, *others):
        for key in [key for key in state if key.startswith("network.old")]:
            state[key.replace("old", "")] = state.pop(key)

    network.register_load_state_dict_pre_hook(rename)
    state = module_of().state_dict()
    module = module_of(network)
    module.load_state_dict({k.replace("network.", "network.old"): v for k, v in state.items()})
    assert torch.equal(parameters_of(module.network), parameters_of(small_network(WIDTH)))


@pytest.mark.parametrize(
    ("steps", "how"),
    [(3, "max_steps=3 ends before it"), (4, "max_steps=4 is reached, so the run is finished")],
)
def test_a_run_that_cannot_continue_says_so(steps, how, checkpoint, tmp_path):
    with pytest.raises(InputError) as raised:
        trainer_of(tmp_path, max_steps=steps).fit(module_of(), data_of(), ckpt_path=checkpoint)
    assert str(raised.value) == (
        f"ckpt_path is at step 4 and {how}: raise max_steps, or leave ckpt_path out."
    )


def test_a_run_that_can_continue_does(checkpoint, tmp_path):
    for options in ({"max_steps": 5}, {"max_epochs": 2}):
        trainer = trainer_of(tmp_path, **options)
        trainer.fit(module_of(), data_of(), ckpt_path=checkpoint)
        assert trainer.global_step == options.get("max_steps", 8)
    trainer = trainer_of(tmp_path, max_steps=3)
    assert trainer.test(module_of(), data_of(), ckpt_path=checkpoint, verbose=False)


def test_twins_are_resumed_and_tested_as_before(tmp_path):
    trainer = trainer_of(tmp_path, make_reweighting(), max_steps=5)
    trainer.fit(module_of(kind=TandemModule), make_data())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    trainer = trainer_of(tmp_path, make_reweighting(), max_steps=10)
    trainer.fit(module_of(kind=TandemModule), make_data(), ckpt_path=tmp_path / "a.ckpt")
    assert trainer.global_step == 10
