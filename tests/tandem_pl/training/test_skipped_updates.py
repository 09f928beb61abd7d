"""Losses that are not finite."""

import copy
import math

import pytest
import torch
from helpers import Recorder, parameters_of, predict_last, small_network
from lightning.pytorch import Callback
from module_helpers import (
    WIDTH,
    adamw,
    fit,
    has_marker,
    make_data,
    make_reweighting,
    poisoned,
    sgd,
    with_marker,
)

from tandem_pl import InputError, MixtureModule, TandemModule
from tandem_pl.episode import MEASURE, PROBE


def fused(parameters) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, 0.05, fused=True)


@pytest.mark.parametrize("where", ["train", "target"])
@pytest.mark.parametrize("make_optimizer", [adamw, sgd, fused])
def test_a_loss_that_is_not_finite_skips_the_update(tmp_path, where, make_optimizer) -> None:
    """Neither weight decay nor momentum moves a twin in a skipped batch, whichever was bad."""
    module = TandemModule(small_network(WIDTH), poisoned, make_optimizer)
    data, recorder = make_data(batch_size=4), Recorder()
    sets = data.train_sets if where == "train" else data.target_sets
    name = next(iter(sets))
    sets[name] = with_marker(sets[name], 3)
    moments = []

    class Moments(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            self.state = copy.deepcopy(trainer.optimizers[0].state_dict()["state"])

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            now = trainer.optimizers[0].state_dict()["state"]
            keys = [(number, key) for number in self.state for key in self.state[number]]
            moments.append(
                all(torch.equal(self.state[number][key], now[number][key]) for number, key in keys)
            )

    trainer = fit(tmp_path, module, data, make_reweighting(3, 3), recorder, Moments(), max_epochs=6)
    skipped = 0
    rows = zip(recorder.batches, recorder.before, recorder.after, moments, strict=True)
    for batch, before, after, same_moments in rows:
        if batch.phase == MEASURE:
            continue
        bad = has_marker(batch.samples) or has_marker(batch.target_samples)
        skipped += bad
        assert torch.equal(before[0], after[0]) == bad
        if batch.phase == PROBE and not batch.first:
            assert torch.equal(before[1], after[1]) == bad
            assert same_moments == bad
    assert skipped >= 2
    assert module.skipped_updates == skipped
    assert trainer.global_step == 6 * 6
    assert all(torch.isfinite(state).all() for states in recorder.after for state in states)


def test_a_measured_loss_that_is_not_finite_leaves_the_weights(tmp_path, caplog) -> None:
    module, data = TandemModule(small_network(WIDTH), poisoned, sgd), make_data(batch_size=8)
    data.train_sets["a"] = with_marker(data.train_sets["a"], 3)
    recorder, reweighting = Recorder(), make_reweighting(1, 1)
    said = r"a measured loss is not finite, .* change \(domains: a; 1 update skipped so far\)"
    caplog.set_level("INFO")
    with pytest.warns(UserWarning, match=said):
        fit(tmp_path, module, data, reweighting, recorder, max_epochs=6)
    bad = [has_marker(b.samples) for b in recorder.batches if b.phase == MEASURE]
    assert reweighting.skipped_updates == sum(bad) == 1
    assert "\n1 of 6 updates was skipped\n" in caplog.text
    pairs = zip(reweighting.trajectory, reweighting.trajectory[1:], strict=False)
    same = [bool((old == new).all()) for old, new in pairs]
    assert all(still for still, skipped in zip(same, bad, strict=True) if skipped)
    assert not all(same)


@pytest.mark.parametrize("make_optimizer", [adamw, fused])
def test_too_many_skips_in_a_row_stop_the_run_with_a_checkpoint(tmp_path, make_optimizer) -> None:
    def always(network, samples):
        return predict_last(network, samples) * math.nan

    module = TandemModule(small_network(WIDTH), always, make_optimizer, max_skipped_updates=3)
    start = copy.deepcopy(module.network.state_dict())
    with pytest.raises(InputError, match="not finite in 3 batches in a row") as raised:
        fit(tmp_path, module, make_data(), make_reweighting(9, 1), max_epochs=5)
    (path,) = tmp_path.rglob("*.ckpt")
    assert str(path) in str(raised.value)
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["global_step"] == 3
    assert checkpoint["skipped_updates"] == [3, 3]
    for name, value in start.items():
        assert torch.equal(checkpoint["state_dict"][f"network.{name}"], value)


def test_skips_apart_from_each_other_do_not_stop_the_run(tmp_path) -> None:
    calls = []

    def every_other(network, samples):
        calls.append(1)
        return predict_last(network, samples) * (math.nan if len(calls) % 2 else 1.0)

    module = MixtureModule(small_network(WIDTH), every_other, sgd, max_skipped_updates=2)
    fit(tmp_path, module, make_data(epoch_batches=10), max_epochs=1)
    assert (module.skipped_updates, module.skipped_in_a_row) == (5, 0)


def test_a_fused_optimizer_that_skips_itself_does_what_one_does_that_is_told(tmp_path) -> None:
    """The same as waiting for the losses, to the bit."""
    ends = []
    for number, at_hand in enumerate((True, False)):
        module = TandemModule(small_network(WIDTH), poisoned, fused)
        data = make_data(batch_size=4)
        data.train_sets["a"] = with_marker(data.train_sets["a"], 3)
        reweighting = make_reweighting(3, 3)
        with pytest.MonkeyPatch.context() as patch:
            if not at_hand:
                patch.setattr(
                    "tandem_pl.training.skipped_updates.skips_on_device", lambda optimizer: False
                )
            fit(tmp_path / str(number), module, data, reweighting, max_epochs=6)
        ends.append((module.state_dict(), reweighting.trajectory, module.skipped_updates))
    (first, weights, skipped), (second, same_weights, same_skipped) = ends
    assert skipped == same_skipped > 0
    assert all((a == b).all() for a, b in zip(weights, same_weights, strict=True))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_second_fit_counts_anew(tmp_path) -> None:
    module, data = MixtureModule(small_network(WIDTH), poisoned, sgd), make_data(epoch_batches=10)
    name = next(iter(data.train_sets))
    sound = data.train_sets[name]
    data.train_sets[name] = with_marker(sound, 3)
    fit(tmp_path, module, data, max_epochs=2)
    assert module.skipped_updates > 0
    data.train_sets[name] = sound
    fit(tmp_path, module, data, max_epochs=1)
    assert module.skipped_updates == 0


@pytest.mark.parametrize("fused", [False, True])
def test_momentum_is_sound_after_a_bad_first_batch(tmp_path, fused) -> None:
    """Which a fused kernel of SGD would leave unset."""
    calls = []

    def first_bad(network, samples):
        calls.append(1)
        return predict_last(network, samples) * (math.nan if len(calls) == 1 else 1.0)

    def momentum(parameters):
        return torch.optim.SGD(parameters, 0.05, momentum=0.9, fused=fused)

    module = MixtureModule(small_network(WIDTH), first_bad, momentum)
    start = parameters_of(module.network)
    fit(tmp_path, module, make_data(epoch_batches=3), max_epochs=1)
    moved = (parameters_of(module.network) - start).abs().max()
    assert 0 < moved < 1
    assert module.skipped_updates == 1
