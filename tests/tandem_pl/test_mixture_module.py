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
from lightning.pytorch.plugins import MixedPrecision
from torch import nn

from tandem_pl import InputError, MixtureModule, TandemModule
from tandem_pl.callbacks import TandemReweighting
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.episode import MEASURE, PROBE, TRAIN

WIDTH = 4


def adamw(parameters) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, 0.05, weight_decay=0.1)


def sgd(parameters) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, 0.05, momentum=0.9)


def falling(optimizer):
    """Rate / (1 + batches done)."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))


def make_data(dtype=torch.float64, **options) -> MixtureDataModule:
    train = {name: random_rows(20, WIDTH, seed, dtype) for seed, name in enumerate("ab")}
    target = {"t": random_rows(30, WIDTH, 7, dtype)}
    return MixtureDataModule(
        train, **{"target": target, "batch_size": 8, "validate_target": True, **options}
    )


def make_reweighting(free=2, probe=3, measure=1) -> TandemReweighting:
    return TandemReweighting(free, probe, measure, learning_rate=1.0)


def fit(folder, module, data, *callbacks, **options):
    trainer = quiet_trainer(folder, callbacks=list(callbacks), **options)
    trainer.fit(module, datamodule=data)
    return trainer


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
            target = objective(self.reference, batch.target_samples).mean()
            self.update(target + self.penalty * training, self.reference, self.second)
        self.update(objective(self.proxy, batch.samples).mean(), self.proxy, self.first)
        self.done += 1


def batch_norm_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(WIDTH - 1, 5, bias=False), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 1)
    ).double()  # a bias before BatchNorm has gradient 0: Adam would blow up its rounding error


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
            r"gave \(\) for 8 samples, not one loss",
        ),
        (lambda network, samples: predict_last(network, samples)[:, None], r"gave \(8, 1\)"),
        (lambda network, samples: 1.0, "gave float"),
    ],
)
@pytest.mark.parametrize("ours", [MixtureModule, TandemModule])
def test_an_objective_without_one_loss_a_sample_is_refused(tmp_path, ours, objective, got) -> None:
    callbacks = [make_reweighting()] if ours is TandemModule else []
    module = ours(small_network(WIDTH), objective, sgd)
    with pytest.raises(InputError, match=got):
        fit(tmp_path, module, make_data(), *callbacks, max_epochs=1)


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


# ---- losses that are not finite ----

POISON = 1e6


def poisoned(network, samples):
    """NaN for the samples that start with the marker."""
    marked = samples[:, 0] == POISON
    losses = predict_last(network, samples.where(~marked[:, None], torch.zeros_like(samples)))
    return losses * torch.where(marked, math.nan, 1.0)


def with_marker(rows: Rows, index: int) -> Rows:
    marked = rows.rows.clone()
    marked[index, 0] = POISON
    return Rows(marked)


def has_marker(samples) -> bool:
    return samples is not None and bool((samples[:, 0] == POISON).any())


@pytest.mark.parametrize("where", ["train", "target"])
@pytest.mark.parametrize("make_optimizer", [adamw, sgd])
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


def test_a_measured_loss_that_is_not_finite_leaves_the_weights(tmp_path) -> None:
    module, data = TandemModule(small_network(WIDTH), poisoned, sgd), make_data(batch_size=8)
    data.train_sets["a"] = with_marker(data.train_sets["a"], 3)
    recorder, reweighting = Recorder(), make_reweighting(1, 1)
    with pytest.warns(UserWarning, match="a measured loss is not finite"):
        fit(tmp_path, module, data, reweighting, recorder, max_epochs=6)
    bad = [has_marker(b.samples) for b in recorder.batches if b.phase == MEASURE]
    assert 0 < sum(bad) < len(bad)
    assert reweighting.skipped_episodes == sum(bad)
    pairs = zip(reweighting.trajectory, reweighting.trajectory[1:], strict=False)
    same = [bool((old == new).all()) for old, new in pairs]
    assert all(still for still, skipped in zip(same, bad, strict=True) if skipped)
    assert not all(same)


def test_too_many_skips_in_a_row_stop_the_run_with_a_checkpoint(tmp_path) -> None:
    def always(network, samples):
        return predict_last(network, samples) * math.nan

    module = TandemModule(small_network(WIDTH), always, adamw, max_skipped_updates=3)
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


# ---- validation, test and prediction ----


def mean_losses(network, sets) -> dict[str, float]:
    network = copy.deepcopy(network).eval()
    return {
        name: predict_last(network, torch.stack([rows[i] for i in range(len(rows))])).mean().item()
        for name, rows in sets.items()
    }


def expected_metrics(stage, losses, label="loss", perplexity="perplexity") -> dict[str, float]:
    values = list(losses.values())
    return {f"{stage}/{label}/{name}": value for name, value in losses.items()} | {
        f"{stage}/{label}": math.fsum(values) / len(values),  # domains count alike, not samples
        f"{stage}/{perplexity}": math.fsum(math.exp(value) for value in values) / len(values),
    }


def uneven_sets() -> dict[str, Rows]:
    return {"t": random_rows(9, WIDTH, 5), "v": random_rows(3, WIDTH, 6)}


def test_metrics_of_a_test_are_means_by_domain(tmp_path) -> None:
    module, sets = MixtureModule(batch_norm_network(), predict_last, sgd), uneven_sets()
    trainer = quiet_trainer(tmp_path)
    trainer.test(module, datamodule=make_data(test=sets), verbose=False)
    got = {key: value.item() for key, value in trainer.callback_metrics.items()}
    expected = expected_metrics("test", mean_losses(module.network, sets))
    assert got == pytest.approx(expected, rel=1e-6)


def test_metrics_of_a_validation_show_both_twins(tmp_path) -> None:
    module, sets = TandemModule(small_network(WIDTH), predict_last, sgd), uneven_sets()
    data = make_data(target=sets)
    trainer = fit(tmp_path, module, data, make_reweighting(), max_epochs=2, limit_val_batches=1.0)
    got = {key: value.item() for key, value in trainer.callback_metrics.items()}
    expected = expected_metrics("validation", mean_losses(module.network, sets))
    expected |= expected_metrics(
        "validation", mean_losses(module.reference, sets), "loss_reference", "perplexity_reference"
    )
    assert got == pytest.approx(expected, rel=1e-6)


def test_validating_does_not_change_the_training(tmp_path) -> None:
    ends = []
    for limit in (0, 1.0):
        module = TandemModule(batch_norm_network(), predict_last, adamw)
        options = {"max_epochs": 2, "limit_val_batches": limit}
        fit(tmp_path, module, make_data(), make_reweighting(), **options)
        ends.append(torch.cat([v.flatten().double() for v in module.state_dict().values()]))
    assert torch.equal(*ends)


def test_predictions_are_losses_with_their_domain(tmp_path) -> None:
    module, sets = MixtureModule(small_network(WIDTH), predict_last, sgd), uneven_sets()
    data = make_data(test=sets)
    data.setup("fit")
    parts = quiet_trainer(tmp_path).predict(module, dataloaders=data.test_dataloader())
    losses = torch.cat([part["losses"] for part in parts])
    domains = torch.cat([part["domains"] for part in parts])
    assert domains.tolist() == 9 * [0] + 3 * [1]
    expected = torch.cat([predict_last(module.network, rows.rows) for rows in sets.values()])
    assert torch.allclose(losses, expected)


# ---- precision ----


def half_precision(scale: float = 2.0**10) -> MixedPrecision:
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))


def explosive(network, samples):
    """A finite loss whose scaled gradient is not, for marked samples."""
    marked = samples[:, 0] == POISON
    losses = predict_last(network, samples.where(~marked[:, None], torch.ones_like(samples)))
    return losses.float() * torch.where(marked, 1e37, 1.0)


@pytest.mark.parametrize("where", ["train", "target"])
def test_an_overflow_skips_both_twins_alike(tmp_path, where) -> None:
    scaler = half_precision()
    module = TandemModule(small_network(WIDTH, dtype=torch.float32), explosive, sgd)
    data, recorder = make_data(torch.float32, batch_size=4), Recorder()
    sets = data.train_sets if where == "train" else data.target_sets
    name = next(iter(sets))
    sets[name] = with_marker(sets[name], 3)
    fit(tmp_path, module, data, make_reweighting(1, 4), recorder, max_epochs=4, plugins=[scaler])
    overflows, apart = 0, 0
    for batch, before, after in zip(recorder.batches, recorder.before, recorder.after, strict=True):
        if batch.phase == MEASURE:
            continue
        bad = has_marker(batch.samples) or has_marker(batch.target_samples)
        overflows += bad
        assert torch.equal(before[0], after[0]) == bad
        if batch.phase == PROBE and not batch.first:
            assert torch.equal(before[1], after[1]) == bad
            apart += bad
    assert apart
    assert scaler.scaler.get_scale() == 2.0**10 / 2**overflows  # once an overflow, not once a twin


def test_the_scale_does_not_change_the_steps(tmp_path) -> None:
    """Clipping sees unscaled gradients: with fp16's scaler the steps are those without."""
    ends = []
    for scale in (1.0, 2.0**12):
        module = TandemModule(
            small_network(WIDTH, dtype=torch.float32), predict_last, sgd, gradient_clip_val=0.1
        )
        recorder = Recorder()
        fit(
            tmp_path,
            module,
            make_data(torch.float32),
            make_reweighting(),
            recorder,
            max_epochs=2,
            plugins=[half_precision(scale)],
        )
        ends.append(recorder)
    moved = (ends[0].after[-1][0] - ends[0].before[0][0]).abs().max()
    assert moved > 1e-2
    for mine, other in zip(ends[0].after, ends[1].after, strict=True):
        assert max((a - b).abs().max() for a, b in zip(mine, other, strict=True)) < 2e-3 * moved


def test_a_bad_loss_is_skipped_under_the_scaler_even_with_finite_gradients(tmp_path) -> None:
    def constant(network, samples):
        return predict_last(network, samples).float() + math.inf

    module = TandemModule(small_network(WIDTH, dtype=torch.float32), constant, sgd)
    recorder = Recorder()
    fit(
        tmp_path,
        module,
        make_data(torch.float32),
        make_reweighting(),
        recorder,
        max_epochs=1,
        plugins=[half_precision()],
    )
    assert module.skipped_updates == 5
    assert torch.equal(recorder.before[0][0], recorder.after[-1][0])


def test_bf16_mixed_trains_float32_weights(tmp_path) -> None:
    seen = []

    def objective(network, samples):
        output = network(samples[:, :-1])
        seen.append(output.dtype)
        return (output.squeeze(1).float() - samples[:, -1]).square()

    module = TandemModule(small_network(WIDTH, dtype=torch.float32), objective, sgd)
    recorder, reweighting = Recorder(), make_reweighting()
    fit(
        tmp_path,
        module,
        make_data(torch.float32),
        reweighting,
        recorder,
        max_epochs=2,
        precision="bf16-mixed",
    )
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert not torch.equal(recorder.before[0][0], recorder.after[-1][0])
    assert len(reweighting.trajectory) == 3
    assert reweighting.skipped_episodes == 0


def test_fit_validates_on_the_target_only_when_asked(tmp_path) -> None:
    class Count(Callback):
        batches = 0

        def on_validation_batch_end(self, *args) -> None:
            self.batches += 1

    for asked in (False, True):
        data = make_data(validate_target=asked, epoch_batches=1)
        count = Count()
        module = MixtureModule(small_network(WIDTH), predict_last, sgd)
        trainer = quiet_trainer(tmp_path, callbacks=[count], max_epochs=1, limit_val_batches=1.0)
        trainer.fit(module, datamodule=data)
        assert (count.batches > 0) is asked
        trainer.validate(module, datamodule=data, verbose=False)
        assert count.batches > 0
