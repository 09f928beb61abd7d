"""What a step does, and which settings are refused."""

import copy
import math

import pytest
import torch
from helpers import (
    QuadraticNetwork,
    Recorder,
    Rows,
    half_squared_distance,
    parameters_of,
    predict_last,
    quiet_trainer,
    random_rows,
    small_network,
)
from lightning.pytorch import Callback
from module_helpers import (
    WIDTH,
    adamw,
    batch_norm_network,
    falling,
    fit,
    make_data,
    make_reweighting,
    sgd,
)
from torch import nn

from tandem_pl import InputError, MixtureModule, TandemModule
from tandem_pl.callbacks import DoGEReweighting
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.episode import MEASURE, PROBE, TRAIN

# ---- what a step does ----


class ByHand:
    """The twins' episode written out with one plain optimizer for each twin."""

    def __init__(self, network, make_optimizer, penalty=1.0, clip=None, scheduled=False) -> None:
        self.proxy, self.reference = network, copy.deepcopy(network)
        self.first = make_optimizer(self.proxy.parameters())
        self.second = make_optimizer(self.reference.parameters())
        self.penalty, self.clip, self.scheduled, self.done = penalty, clip, scheduled, 0
        self.base = self.first.param_groups[0]["lr"]

    def update(self, loss, network, optimizer) -> None:
        parameters = list(network.parameters())
        gradients = list(torch.autograd.grad(loss, parameters))
        if self.clip is not None:
            norm = math.sqrt(sum(float((g * g).sum()) for g in gradients))
            if norm > self.clip:
                gradients = [g * (self.clip / (norm + 1e-6)) for g in gradients]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.param_groups[0]["lr"] = self.base / (1 + self.done if self.scheduled else 1)
        optimizer.step()

    def step(self, batch, objective=predict_last) -> None:
        if batch.phase == MEASURE:
            return
        if batch.phase == PROBE:
            if batch.first:
                self.reference.load_state_dict(self.proxy.state_dict())
                self.second.load_state_dict(copy.deepcopy(self.first.state_dict()))
            training = objective(self.reference, batch.samples).mean()
            statistics = [buffer.clone() for buffer in self.reference.buffers()]
            target = objective(self.reference, batch.target_samples).mean()
            self.update(target + self.penalty * training, self.reference, self.second)
            for buffer, value in zip(self.reference.buffers(), statistics, strict=True):
                buffer.copy_(value)  # the statistics are of training batches
        self.update(objective(self.proxy, batch.samples).mean(), self.proxy, self.first)
        self.done += 1


@pytest.mark.parametrize("make_optimizer", [adamw, sgd])
@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("make_network", [lambda: small_network(WIDTH), batch_norm_network])
def test_twins_train_as_two_optimizers_would_by_hand(
    tmp_path, make_network, clip, make_optimizer
) -> None:
    """Sync, joint step, shared first gradient, clipping of each twin and the schedule at once."""
    network, recorder = make_network(), Recorder()
    hand = ByHand(copy.deepcopy(network), make_optimizer, 2.5, clip, scheduled=True)
    module = TandemModule(
        network, predict_last, make_optimizer, falling, penalty=2.5, gradient_clip_val=clip
    )
    fit(tmp_path, module, make_data(), make_reweighting(), recorder, max_epochs=3)
    assert [b.phase for b in recorder.batches] == 3 * (2 * [TRAIN] + 3 * [PROBE] + [MEASURE])
    for batch, (proxy, reference) in zip(recorder.batches, recorder.after, strict=True):
        hand.step(batch)
        assert (proxy - parameters_of(hand.proxy)).abs().max() < 1e-12
        if batch.phase != TRAIN:
            assert (reference - parameters_of(hand.reference)).abs().max() < 1e-12
    for mine, other in ((module.network, hand.proxy), (module.reference, hand.reference)):
        for buffer, expected in zip(mine.buffers(), other.buffers(), strict=True):
            assert torch.allclose(buffer, expected, rtol=0, atol=1e-12)


def test_outputs_are_the_losses_before_the_step(tmp_path) -> None:
    hand, outputs = ByHand(small_network(WIDTH), sgd), []

    class Compare(Callback):
        def on_train_batch_end(self, trainer, pl_module, got, batch, batch_idx) -> None:
            expected = {"losses": predict_last(hand.proxy, batch.samples)}
            if batch.phase == PROBE:
                network = hand.proxy if batch.first else hand.reference
                expected["reference_losses"] = predict_last(network, batch.samples)
                expected["target_losses"] = predict_last(network, batch.target_samples)
            if batch.phase == MEASURE:
                expected["reference_losses"] = predict_last(hand.reference, batch.samples)
            expected["loss"] = expected["losses"].mean()
            hand.step(batch)
            assert got.keys() == expected.keys()
            for key, value in expected.items():
                assert (got[key] - value).abs().max() < 1e-12
                assert not got[key].requires_grad
            outputs.append(got)

    module = TandemModule(small_network(WIDTH), predict_last, sgd)
    fit(tmp_path, module, make_data(), make_reweighting(), Compare(), max_epochs=2)
    assert len(outputs) == 12


def test_measuring_is_in_eval_mode_and_changes_no_buffer(tmp_path) -> None:
    module, seen = TandemModule(batch_norm_network(), predict_last, sgd), []

    class Watch(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            self.before = [b.clone() for b in pl_module.buffers()]

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            assert all(part.training for part in pl_module.modules())
            if batch.phase == MEASURE:
                pairs = zip(self.before, pl_module.buffers(), strict=True)
                assert all(torch.equal(old, new) for old, new in pairs)
                twin = copy.deepcopy(pl_module.reference).eval()
                expected = predict_last(twin, batch.samples).detach()
                assert torch.allclose(outputs["reference_losses"], expected, rtol=1e-12)
                seen.append(batch.step)

    fit(tmp_path, module, make_data(), make_reweighting(), Watch(), max_epochs=2)
    assert seen == [5, 11]


@pytest.mark.parametrize("ours", [MixtureModule, TandemModule])
@pytest.mark.parametrize("size", [1, 3, 4])
def test_micro_batches_do_not_change_the_training(tmp_path, ours, size) -> None:
    """A batch of 8 in parts of 1, 3+3+2 or 4: the same gradients, the shared first one too."""
    runs = []
    for micro in (None, size):
        module = ours(small_network(WIDTH), predict_last, sgd, micro_batch_size=micro)
        recorder = Recorder()
        callbacks = [make_reweighting(), recorder] if ours is TandemModule else [recorder]
        fit(tmp_path, module, make_data(), *callbacks, max_epochs=2)
        runs.append(recorder)
    moved = [state[0] for state in runs[0].after]
    assert (moved[0] - moved[-1]).abs().max() > 1e-3
    for whole, parts in zip(runs[0].after, runs[1].after, strict=True):
        assert max((a - b).abs().max() for a, b in zip(whole, parts, strict=True)) < 1e-12


def test_micro_batches_are_what_the_network_sees(tmp_path) -> None:
    sizes = []

    def objective(network, samples):
        sizes.append(len(samples))
        return predict_last(network, samples)

    module = MixtureModule(small_network(WIDTH), objective, sgd, micro_batch_size=3)
    fit(tmp_path, module, make_data(epoch_batches=1), max_epochs=1)
    assert sizes == [3, 3, 2]


def test_clipping_scales_each_twin_to_the_norm(tmp_path) -> None:
    """With plain SGD and rate 1 the step's length is the clipped norm, for each twin."""
    module = TandemModule(
        QuadraticNetwork(WIDTH),
        half_squared_distance,
        lambda parameters: torch.optim.SGD(parameters, 1.0),
        gradient_clip_val=0.125,
    )
    recorder = Recorder()
    train = {"a": Rows(torch.full((8, WIDTH), 100.0, dtype=torch.float64))}
    target = {"t": Rows(torch.full((8, WIDTH), -300.0, dtype=torch.float64))}
    data = MixtureDataModule(train, target, batch_size=4)
    fit(tmp_path, module, data, make_reweighting(1, 2), recorder, max_epochs=1)
    for batch, before, after in zip(recorder.batches, recorder.before, recorder.after, strict=True):
        proxy, reference = ((b - a) for a, b in zip(before, after, strict=True))
        if batch.phase == PROBE:
            assert proxy.norm() == pytest.approx(0.125, rel=1e-5)
            assert (proxy > 0).all()
            assert (reference < 0).all()
            if not batch.first:  # where it is also synced
                assert reference.norm() == pytest.approx(0.125, rel=1e-5)


def test_steps_and_epochs_count_proxy_batches_and_episodes(tmp_path) -> None:
    module, recorder = TandemModule(small_network(WIDTH), predict_last, sgd, falling), Recorder()
    reweighting = make_reweighting(2, 3, 2)
    trainer = fit(tmp_path, module, make_data(), reweighting, recorder, max_epochs=4)
    assert trainer.global_step == 4 * (2 + 3)
    assert trainer.current_epoch == 4
    assert len(reweighting.trajectory) == 5
    assert reweighting.steps == [0, 5, 10, 15, 20]
    done = 0
    for batch, rates, step in zip(
        recorder.batches, recorder.rates, recorder.global_steps, strict=True
    ):
        assert rates == pytest.approx(2 * [0.05 / (1 + done)])  # one clock for both twins
        done += batch.phase != MEASURE
        assert step == done


@pytest.mark.parametrize("steps", [7, 10])
def test_max_steps_counts_proxy_batches(tmp_path, steps) -> None:
    module, recorder = TandemModule(small_network(WIDTH), predict_last, sgd), Recorder()
    trainer = fit(tmp_path, module, make_data(), make_reweighting(), recorder, max_steps=steps)
    assert trainer.global_step == steps
    assert sum(batch.phase != MEASURE for batch in recorder.batches) == steps


def test_plain_training_is_plain_training(tmp_path) -> None:
    network, recorder = small_network(WIDTH), Recorder()
    hand = ByHand(copy.deepcopy(network), adamw, clip=0.1, scheduled=True)
    module = MixtureModule(network, predict_last, adamw, falling, gradient_clip_val=0.1)
    trainer = fit(tmp_path, module, make_data(epoch_batches=4), recorder, max_epochs=2)
    assert trainer.global_step == 8
    for batch, (after, _) in zip(recorder.batches, recorder.after, strict=True):
        hand.step(batch)
        assert (after - parameters_of(hand.proxy)).abs().max() < 1e-12


def test_dropout_of_the_twins_is_shared_and_repeatable(tmp_path) -> None:
    """While w = u, both see the same masks; and the global generator is left alone."""
    network = nn.Sequential(nn.Linear(WIDTH - 1, 50), nn.Dropout(0.5), nn.Linear(50, 1)).double()
    outputs, start = [], copy.deepcopy(network)

    class Keep(Callback):
        def on_train_batch_end(self, trainer, pl_module, got, batch, batch_idx) -> None:
            if batch.phase == PROBE:
                outputs.append({key: value.clone() for key, value in got.items()})

    def zero_rate(parameters):
        return torch.optim.SGD(parameters, 0.0)

    for seed in (1, 2):  # of the global generator
        torch.manual_seed(seed)
        expected = torch.rand(1, generator=torch.Generator().manual_seed(seed))
        module = TandemModule(copy.deepcopy(start), predict_last, zero_rate)
        fit(tmp_path, module, make_data(), make_reweighting(), Keep(), max_epochs=1)
        assert torch.equal(torch.rand(1), expected)
    for got, again in zip(outputs[:3], outputs[3:], strict=True):
        assert torch.equal(got["losses"], got["reference_losses"])
        assert torch.equal(got["losses"], again["losses"])
    assert not torch.equal(outputs[0]["losses"], outputs[1]["losses"])


# ---- wrong input ----


@pytest.mark.parametrize(
    ("objective", "got"),
    [
        (
            lambda network, samples: predict_last(network, samples).mean(),
            "gave one number for 8 samples, not one loss a sample: leave out its mean or sum, for "
            "example by reduction='none'.",
        ),
        (
            lambda network, samples: predict_last(network, samples)[:, None],
            "gave shape [8, 1] for 8 samples, not one loss a sample: take the mean over the other "
            "dimensions, by .mean(1).",
        ),
        (
            lambda network, samples: (
                predict_last(network, samples).repeat(3, 5, 1).permute(2, 1, 0)
            ),
            "gave shape [8, 5, 3] for 8 samples, not one loss a sample: take the mean over the "
            "other dimensions, by .flatten(1).mean(1).",
        ),
        (
            lambda network, samples: predict_last(network, samples).repeat(3, 1),
            "gave shape [3, 8] for 8 samples, not one loss a sample: return a tensor of shape [8], "
            "one loss for each sample in their order.",
        ),
        (
            lambda network, samples: predict_last(network, samples).repeat_interleave(4),
            "gave 32 losses for 8 samples, not one loss a sample: if each has 4 in a row, take "
            "their mean by .view(8, -1).mean(1).",
        ),
        (
            lambda network, samples: predict_last(network, samples)[:7],
            "gave 7 losses for 8 samples, not one loss a sample: return a tensor of shape [8], in "
            "their order.",
        ),
        (
            lambda network, samples: 1.0,
            "gave a float for 8 samples, not one loss a sample: return a tensor of shape [8].",
        ),
    ],
)
@pytest.mark.parametrize("ours", [MixtureModule, TandemModule])
def test_an_objective_without_one_loss_a_sample_is_refused(tmp_path, ours, objective, got) -> None:
    callbacks = [make_reweighting()] if ours is TandemModule else []
    module = ours(small_network(WIDTH), objective, sgd)
    with pytest.raises(InputError) as refusal:
        fit(tmp_path, module, make_data(), *callbacks, max_epochs=1)
    assert str(refusal.value) == f"objective=<lambda> {got}"


def test_an_objective_with_another_number_of_losses_is_refused(tmp_path) -> None:
    """Losses of 4 pairs for 8 samples would be booked to wrong domains."""

    def pairs(network, samples):
        return predict_last(network, samples).view(-1, 2).mean(dim=1)

    with pytest.raises(InputError, match="one loss a sample"):
        fit(tmp_path, MixtureModule(small_network(WIDTH), pairs, sgd), make_data(), max_epochs=1)


def test_validation_checks_the_objective_too(tmp_path) -> None:
    module = MixtureModule(small_network(WIDTH), lambda n, s: predict_last(n, s).mean(), sgd)
    data = make_data(test={"x": random_rows(4, WIDTH, 3)})
    with pytest.raises(InputError, match="one loss a sample"):
        quiet_trainer(tmp_path).test(module, datamodule=data, verbose=False)


@pytest.mark.parametrize(
    ("ours", "options", "message"),
    [
        (MixtureModule, {"gradient_clip_val": 0.0}, "gradient_clip_val=0.0 must be positive"),
        (MixtureModule, {"micro_batch_size": 0}, "micro_batch_size=0 must be positive"),
        (MixtureModule, {"max_skipped_updates": -1}, "max_skipped_updates=-1 must be positive"),
        (TandemModule, {"gradient_clip_val": math.nan}, "gradient_clip_val=nan must be positive"),
        (TandemModule, {"penalty": 0.0}, "penalty=0.0 must be positive"),
        (TandemModule, {"penalty": math.nan}, "penalty=nan must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(ours, options, message) -> None:
    with pytest.raises(InputError, match=message):
        ours(small_network(WIDTH), predict_last, sgd, **options)


def test_one_network_cannot_probe(tmp_path) -> None:
    module = MixtureModule(small_network(WIDTH), predict_last, sgd)
    with pytest.raises(InputError, match="twin networks, which MixtureModule does not have"):
        fit(tmp_path, module, make_data(), make_reweighting(), max_epochs=1)


def test_what_a_method_does_with_batches_ends_with_its_fit(tmp_path) -> None:
    """A second fit without the method trains as if there had been none."""
    module = MixtureModule(small_network(WIDTH), predict_last, sgd)
    fit(tmp_path, module, make_data(), DoGEReweighting(), max_steps=4)
    assert module.handlers
    fit(tmp_path, module, make_data(target=None, epoch_batches=3), max_epochs=1)
    assert module.handlers == {}


def test_a_checkpoint_of_one_network_does_not_resume_twins(tmp_path) -> None:
    module = MixtureModule(small_network(WIDTH), predict_last, sgd)
    trainer = fit(tmp_path, module, make_data(epoch_batches=2), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    checkpoint = torch.load(tmp_path / "one.ckpt", weights_only=True)
    twins = TandemModule(small_network(WIDTH), predict_last, sgd)
    with pytest.raises(InputError, match="1 parameter groups and this run's has 2: resume with"):
        twins.on_load_checkpoint(checkpoint)
