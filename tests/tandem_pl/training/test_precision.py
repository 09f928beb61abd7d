"""Half precision, its scaler, and bfloat16."""

import math

import pytest
import torch
from helpers import Recorder, predict_last, small_network
from lightning.pytorch import Callback
from lightning.pytorch.plugins import MixedPrecision
from module_helpers import (
    POISON,
    WIDTH,
    fit,
    has_marker,
    make_data,
    make_reweighting,
    sgd,
    with_marker,
)

from tandem_pl import MixtureModule, TandemModule
from tandem_pl.episode import MEASURE, PROBE
from tandem_pl.training.gradients import mean_gradient


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


def fused_sgd(parameters):
    """Unscales gradients in its own step, after clipping."""
    return torch.optim.SGD(parameters, 0.1, momentum=0.9, fused=True)


@pytest.mark.parametrize("make_optimizer", [sgd, fused_sgd])
def test_the_scale_does_not_change_the_steps(make_optimizer, tmp_path) -> None:
    """Clipping sees unscaled gradients: with fp16's scaler the steps are those without."""
    ends = []
    for scale in (1.0, 2.0**12):
        module = TandemModule(
            small_network(WIDTH, dtype=torch.float32),
            predict_last,
            make_optimizer,
            gradient_clip_val=0.1,
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
    assert reweighting.skipped_updates == 0


def test_gradients_for_comparing_domains_do_not_underflow(tmp_path) -> None:
    """Those of losses so small that half precision would round them to 0."""
    factor, networks = 1e-7, []

    class Grab(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            with trainer.precision_plugin.forward_context():
                self.gradient, _ = mean_gradient(pl_module, batch.samples, 8, batch.step)
            losses = factor * predict_last(networks[0], batch.samples)
            self.exact = torch.autograd.grad(losses.mean(), list(networks[0].parameters()))

    networks.append(small_network(WIDTH, dtype=torch.float32))
    module = MixtureModule(networks[0], lambda n, s: factor * predict_last(n, s), sgd)
    grab, scaler = Grab(), half_precision(2.0**16)
    data = make_data(torch.float32, epoch_batches=1)
    fit(tmp_path, module, data, grab, max_steps=1, plugins=[scaler])
    for got, exact in zip(grab.gradient, grab.exact, strict=True):
        torch.testing.assert_close(got, exact, rtol=0.02, atol=0.02 * float(exact.abs().max()))
