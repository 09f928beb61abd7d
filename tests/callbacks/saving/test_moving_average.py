"""The moving average: by hand, after a resume, in evaluation; what it keeps and what it rejects."""

import copy
import sys

import pytest
import torch
from helpers import Recorder, predict_last, quiet_trainer
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy
from module_helpers import WIDTH, adamw, batch_norm_network, fit, make_data, make_reweighting
from ranks import keep_result, run_program
from timm.utils import ModelEmaV3
from torch import nn

from tandem_pl import InputError, MixtureModule, TandemModule
from tandem_pl.callbacks import MovingAverage
from tandem_pl.episode import MEASURE


def make_module(kind=TandemModule, network=None, **options):
    return kind(network or batch_norm_network(), predict_last, adamw, **options)


class States(Callback):
    """Record the network's state after each batch, and whether it was a measure batch."""

    def __init__(self):
        self.states, self.measured = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.states.append(copy.deepcopy(pl_module.network.state_dict()))
        self.measured.append(batch.phase == MEASURE)

    def trained(self):
        """Return the states after the batches that took a step."""
        pairs = zip(self.states, self.measured, strict=True)
        return [state for state, measured in pairs if not measured]


def by_hand(states, decay, warmup=False):
    """Return the average of the states after the training batches, with Python's arithmetic."""
    average = None
    for t, state in enumerate(states):
        if average is None:
            average = {name: value.clone() for name, value in state.items()}
            continue
        d = min(decay, 1 - (1 + t) ** (-2 / 3)) if warmup else decay
        for name, value in state.items():
            whole = not value.is_floating_point()
            average[name] = value if whole else d * average[name] + (1 - d) * value
    return average


def assert_same(one, other, **tolerance):
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], msg=name, **tolerance)


EXACT = {"rtol": 0, "atol": 0}


@pytest.mark.parametrize("warmup", [False, True])
def test_it_is_the_average_over_steps_and_not_over_batches_that_measure(warmup, tmp_path):
    mean, states = MovingAverage(0.8, warmup), States()
    fit(tmp_path, make_module(), make_data(), make_reweighting(), states, mean, max_epochs=3)
    trained = [
        s for s, measured in zip(states.states, states.measured, strict=True) if not measured
    ]
    assert len(trained) == mean.updates == 15
    assert len(states.states) == 18
    assert_same(mean.averages(), by_hand(trained, 0.8, warmup))
    with pytest.raises(AssertionError):  # what it would be if measuring counted
        assert_same(mean.averages(), by_hand(states.states, 0.8, warmup))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_averages_equal_those_of_timm_to_the_bit(dtype, tmp_path):
    mean, states, network = MovingAverage(0.8, True), States(), batch_norm_network().to(dtype)
    module = MixtureModule(network, predict_last, lambda p: torch.optim.SGD(p, 1e-2))
    follower = copy.deepcopy(network)
    lifted = torch.float32 if dtype == torch.bfloat16 else None
    theirs = ModelEmaV3(follower, decay=0.8, use_warmup=True, dtype=lifted)
    fit(tmp_path, module, make_data(dtype), mean, states, max_steps=8)
    for step, state in enumerate(states.states, start=1):
        follower.load_state_dict(state)
        theirs.update(follower, step=step)
    assert_same(mean.averages(), dict(theirs.module.state_dict()), **EXACT)


def test_the_mixture_and_the_network_are_the_same_bits_with_it(tmp_path):
    weights, states = [], []
    for callbacks in ([], [MovingAverage(0.9)]):
        module, reweighting = make_module(), make_reweighting()
        fit(
            tmp_path,
            module,
            make_data(),
            reweighting,
            *callbacks,
            max_epochs=4,
            limit_val_batches=1.0,
            num_sanity_val_steps=1,
        )
        weights.append(reweighting.weights)
        states.append(module.state_dict())
    assert (weights[0] == weights[1]).all()
    assert weights[0][0] != 0.5
    assert_same(*states, **EXACT)


class Save(Callback):
    """Save a checkpoint after so many batches."""

    def __init__(self, path, batches):
        self.path, self.batches = path, batches

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches -= 1
        if self.batches == 0:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("batches", [8, 12])  # within an episode of 6, and at its end
def test_a_resumed_run_has_the_same_average(batches, tmp_path):
    path = tmp_path / "a.ckpt"
    whole, again = MovingAverage(0.7, True), MovingAverage(0.7, True)
    options = {"max_epochs": 4, "limit_val_batches": 1.0}
    fit(
        tmp_path,
        make_module(),
        make_data(),
        make_reweighting(),
        whole,
        Save(path, batches),
        **options,
    )
    torch.load(path, weights_only=True)
    trainer = quiet_trainer(
        tmp_path, callbacks=[make_reweighting(), again], num_sanity_val_steps=1, **options
    )
    trainer.fit(make_module(), datamodule=make_data(), ckpt_path=path)
    assert again.updates == whole.updates == 20
    assert_same(again.averages(), whole.averages(), **EXACT)


def evaluated(module, rows):
    with torch.no_grad():
        return predict_last(module.network.eval(), rows).mean().item()


def with_state(module, state):
    module.network.load_state_dict(state)
    return module


def test_validation_and_test_use_the_average_and_leave_the_network(tmp_path):
    mean, module, path = MovingAverage(0.9), make_module(), tmp_path / "a.ckpt"
    rows = make_data().target_sets["t"].rows
    data = make_data(test={"t": make_data().target_sets["t"]})
    addresses = [value.data_ptr() for value in module.network.state_dict().values()]
    recorder = Recorder()
    trainer = fit(
        tmp_path,
        module,
        data,
        make_reweighting(),
        mean,
        recorder,
        Save(path, 17),
        max_epochs=3,
        limit_val_batches=1.0,
    )
    own = copy.deepcopy(module.network.state_dict())
    expected = evaluated(with_state(make_module(), mean.averages()), rows)
    assert trainer.callback_metrics["validation/loss"].item() == pytest.approx(expected, rel=1e-6)
    assert evaluated(make_module(), rows) != pytest.approx(expected, rel=1e-3)
    assert evaluated(with_state(make_module(), own), rows) != pytest.approx(expected, rel=1e-3)
    # a fresh process: the average is the checkpoint's
    other, fresh = MovingAverage(0.9), make_module()
    trainer = quiet_trainer(tmp_path, callbacks=[other], limit_val_batches=1.0)
    for verb, key in ((trainer.validate, "validation/loss"), (trainer.test, "test/loss")):
        verb(fresh, datamodule=data, ckpt_path=path, verbose=False)
        assert trainer.callback_metrics[key].item() == pytest.approx(expected, rel=1e-6)
    checkpoint = torch.load(path, weights_only=True)["state_dict"]
    assert_same(dict(fresh.state_dict()), dict(checkpoint), **EXACT)
    assert [value.data_ptr() for value in module.network.state_dict().values()] == addresses
    # the next training step starts from the network's own values
    for before, after in zip(recorder.before[6:], recorder.after[5:], strict=False):
        assert torch.equal(before[0], after[0])


class SaveWhileEvaluating(Callback):
    def __init__(self, path, fail=False):
        self.path, self.fail = path, fail

    def on_validation_batch_end(self, trainer, pl_module, *_):
        trainer.save_checkpoint(self.path)
        if self.fail:
            raise KeyError("stop")


@pytest.mark.parametrize("fail", [False, True])
def test_a_checkpoint_or_an_error_in_the_middle_of_validation(fail, tmp_path):
    mean, module, states = MovingAverage(0.9), make_module(), States()
    callbacks = [make_reweighting(), mean, states, SaveWhileEvaluating(tmp_path / "a.ckpt", fail)]
    options = {"max_epochs": 1, "limit_val_batches": 1.0}
    if fail:
        with pytest.raises(KeyError):
            fit(tmp_path, module, make_data(), *callbacks, **options)
    else:
        fit(tmp_path, module, make_data(), *callbacks, **options)
    own = states.states[-1]
    assert_same(dict(module.network.state_dict()), dict(own), **EXACT)
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    state = checkpoint["state_dict"]
    saved = {k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")}
    assert_same(saved, dict(own), **EXACT)
    average = checkpoint["callbacks"][mean.state_key]["average"]
    assert_same(average, mean.averages(), **EXACT)
    assert any(not torch.equal(value, own[name]) for name, value in average.items())


def test_frozen_parameters_are_not_held(tmp_path):
    network = batch_norm_network()
    network[0].requires_grad_(False)
    mean, module = MovingAverage(0.5), make_module(MixtureModule, network)
    trainer = fit(tmp_path, module, make_data(), mean, max_steps=4, limit_val_batches=1.0)
    assert "0.weight" not in mean.averages()
    assert {"1.weight", "1.running_mean", "3.bias"} <= mean.averages().keys()
    state = {**network.state_dict(), **mean.averages()}
    expected = evaluated(with_state(make_module(), state), make_data().target_sets["t"].rows)
    trainer.validate(module, datamodule=make_data(), verbose=False)
    assert trainer.callback_metrics["validation/loss"].item() == pytest.approx(expected, rel=1e-6)


def test_parameters_that_are_unfrozen_during_fit_are_refused(tmp_path):
    network = batch_norm_network()
    network[0].requires_grad_(False)

    class Unfreeze(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            pl_module.network[0].requires_grad_(True)

    with pytest.raises(InputError, match=r"'0.weight' is missing there .* unfreeze parameters"):
        fit(
            tmp_path, make_module(network=network), make_data(), make_reweighting(), Unfreeze(),
            MovingAverage(), max_epochs=2,
        )  # fmt: skip


def test_a_network_in_16_bits_is_averaged_in_32(tmp_path):
    network = nn.Sequential(nn.Linear(WIDTH - 1, 1)).bfloat16()
    module = MixtureModule(network, predict_last, lambda p: torch.optim.SGD(p, 1e-2))
    mean, states, data = MovingAverage(0.99), States(), make_data(torch.bfloat16)
    trainer = fit(tmp_path, module, data, mean, states, max_steps=8)
    expected = by_hand([{k: v.float() for k, v in s.items()} for s in states.states], 0.99)
    assert_same(mean.averages(), expected, rtol=0, atol=1e-6)
    before, own = mean.averages()["0.weight"].clone(), network[0].weight.detach().clone()
    trainer.limit_val_batches = 1.0
    trainer.validate(module, datamodule=data, verbose=False)
    assert torch.equal(mean.averages()["0.weight"], before)
    assert torch.equal(network[0].weight, own)


def test_a_compiled_network(tmp_path):
    mean, module = MovingAverage(0.8), make_module(compile={"backend": "eager"})
    states = States()
    fit(tmp_path, module, make_data(), make_reweighting(), states, mean, max_epochs=2)
    trained = [
        s for s, measured in zip(states.states, states.measured, strict=True) if not measured
    ]
    assert_same(mean.averages(), by_hand(trained, 0.8))


def test_what_is_refused(tmp_path):
    for decay in (1.0, -0.1, 2, float("nan")):
        with pytest.raises(InputError, match="must be at least 0 and below 1"):
            MovingAverage(decay)
    path = tmp_path / "a.ckpt"
    fit(
        tmp_path,
        make_module(),
        make_data(),
        make_reweighting(),
        MovingAverage(),
        Save(path, 3),
        max_epochs=1,
    )
    checkpoint = torch.load(path, weights_only=True)
    average = checkpoint["callbacks"][MovingAverage().state_key]["average"]
    average["3.weight"] = average["3.weight"][:, :2]
    torch.save(checkpoint, path)
    trainer = quiet_trainer(tmp_path, callbacks=[MovingAverage()], limit_val_batches=1.0)
    with pytest.raises(
        InputError, match=r"another network: '3.weight' is \(1, 2\) there and \(1, 5\)"
    ):
        trainer.validate(make_module(), datamodule=make_data(), ckpt_path=path)


def test_without_a_network(tmp_path):
    trainer = quiet_trainer(tmp_path)
    with pytest.raises(InputError, match="which LightningModule does not have"):
        MovingAverage().setup(trainer, LightningModule(), "fit")


def test_without_an_average_the_network_is_evaluated_with_a_warning(tmp_path):
    data, module = make_data(), make_module()
    trainer = quiet_trainer(tmp_path, callbacks=[MovingAverage()], limit_val_batches=1.0)
    with pytest.warns(UserWarning, match="there is no moving average yet"):
        trainer.validate(module, datamodule=data, verbose=False)
    expected = evaluated(make_module(), data.target_sets["t"].rows)
    assert trainer.callback_metrics["validation/loss"].item() == pytest.approx(expected, rel=1e-6)


class Look(Callback):
    """Record the network's state in validation."""

    def on_validation_batch_end(self, trainer, pl_module, *_):
        self.state = {k: v.tolist() for k, v in pl_module.network.state_dict().items()}


def main(folder):
    """Run one of two ranks."""
    mean, look = MovingAverage(0.8), Look()
    options = {"devices": 2, "use_distributed_sampler": False, "limit_val_batches": 1.0}
    callbacks = [make_reweighting(), mean, look]
    fit(folder, make_module(), make_data(), *callbacks, max_epochs=2, strategy="ddp", **options)
    average = {name: value.tolist() for name, value in mean.averages().items()}
    strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
    refused = ""
    try:
        fit(folder, make_module(), make_data(), MovingAverage(), strategy=strategy, **options)
    except InputError as error:
        refused = str(error)
    keep_result(folder, {"average": average, "seen": look.state, "refused": refused})


def test_two_ranks_have_one_average_and_shards_are_refused(tmp_path):
    first, second = run_program(__file__, tmp_path)
    assert first["average"] == second["average"]
    assert first["seen"] == second["seen"] == first["average"]  # statistics too
    assert first["refused"] == "MovingAverage cannot average sharded networks: use strategy=ddp."


if __name__ == "__main__":
    main(*sys.argv[1:])
