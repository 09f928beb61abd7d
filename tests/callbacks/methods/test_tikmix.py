"""TiKMiX-D's influences against finite differences, its mixture against a search of the simplex."""

import copy
import math

import numpy as np
import pytest
import torch
from helpers import Recorder, parameters_of, predict_last, quiet_trainer, random_rows, small_network
from lightning.pytorch import Callback
from module_helpers import (
    WIDTH,
    adamw,
    batch_norm_network,
    fit,
    make_data,
    poisoned,
    sgd,
    with_marker,
)

from tandem_pl import InputError, MixtureModule
from tandem_pl.callbacks import TiKMiXReweighting
from tandem_pl.callbacks.measures.influence import (
    means_or_row_mean,
    scaled_influence,
    second_moment_scale,
    tikmix_objective,
    tikmix_weights,
)


def value_by_hand(weights, influence, a, b, c):
    """b sum P_hat - a std(P_hat) + c H(w), in loops; for rows that some domain helps."""
    shares = []
    for row in influence:
        total = sum(s * w for s, w in zip(row, weights, strict=True))
        shares.append(total / (max(row) + 1e-8))
    mean = sum(shares) / len(shares)
    deviation = math.sqrt(sum((share - mean) ** 2 for share in shares) / len(shares))
    entropy = -sum(w * math.log(w) for w in weights if w > 0)
    return b * sum(shares) - a * deviation + c * entropy


def grid(size, parts):
    """All mixtures of `size` domains in steps of 1 / parts."""
    if size == 1:
        return [[1.0]]
    found = []
    for first in range(parts + 1):
        rest = parts - first
        if rest == 0:
            found.append([1.0] + [0.0] * (size - 1))
            continue
        for other in grid(size - 1, rest):
            found.append([first / parts] + [w * rest / parts for w in other])
    return found


def random_influence(seed, targets, domains):
    influence = np.random.default_rng(seed).normal(size=(targets, domains))
    influence[:, 0] += 1.5  # some domain helps every target
    return np.abs(influence[:, :1]) * 0.1 + influence


def test_the_objective_is_the_formula_and_its_slope_a_finite_difference():
    for seed in range(5):
        influence = random_influence(seed, 3, 4)
        weights = np.random.default_rng(seed).dirichlet(np.ones(4))
        scaled = scaled_influence(influence)
        value, slope = tikmix_objective(weights, scaled, 0.7, 1.3, 0.4)
        assert value == pytest.approx(value_by_hand(weights, influence, 0.7, 1.3, 0.4))
        for m in range(4):
            step = np.eye(4)[m] * 1e-6
            ends = [
                tikmix_objective(weights + sign * step, scaled, 0.7, 1.3, 0.4)[0]
                for sign in (1, -1)
            ]
            assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(slope[m], rel=1e-5)


def test_without_spread_it_is_a_softmax():
    """max b s w + c H(w) on the simplex has w in proportion to exp(b s / c)."""
    influence = np.array([[3.0, 1.0, -1.0, 0.0]])
    for b, c in ((1.0, 1.0), (2.0, 0.5)):
        expected = np.exp(b * influence[0] / 3.0 / c)
        found = tikmix_weights(influence, np.full(4, 0.25), spread=1.0, gain=b, entropy=c)
        np.testing.assert_allclose(found, expected / expected.sum(), atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_no_mixture_of_a_fine_grid_is_better(seed):
    influence = random_influence(seed, 2, 3)
    prior = np.random.default_rng(seed + 9).dirichlet(np.ones(3))
    found = tikmix_weights(influence, prior)
    best = max(
        value_by_hand(weights, influence, 1, 1, 1)
        for weights in grid(3, 100)
        if (influence @ weights >= influence @ prior).all()
    )
    assert value_by_hand(found, influence, 1, 1, 1) >= best - 1e-6
    assert (influence @ found >= influence @ prior - 1e-6 * np.abs(influence).max()).all()


def test_the_constraint_holds_where_it_binds():
    """Without it, the second target would get e / (2 e + 1) = 0.42, less than the prior gave it."""
    influence, prior = np.array([[1.0, 0.0, 0.0], [0.0, 0.1, 0.0]]), np.array([0.1, 0.5, 0.4])
    free = tikmix_weights(influence, np.full(3, 1 / 3))
    np.testing.assert_allclose(free[:2], math.e / (2 * math.e + 1), atol=1e-4)
    found = tikmix_weights(influence, prior)
    assert found[1] == pytest.approx(0.5, abs=1e-6)
    assert found[0] > found[2]


@pytest.mark.parametrize("seed", range(20))
def test_no_target_loses_and_weights_are_a_mixture(seed):
    generator = np.random.default_rng(seed)
    influence = generator.normal(size=(generator.integers(1, 5), 6)) * 10.0 ** (seed % 9 - 4)
    prior = generator.dirichlet(np.ones(6))
    found = tikmix_weights(influence, prior)
    if found is not None:
        scale = np.abs(influence).max(axis=1)
        assert (influence @ (found - prior) >= -1e-6 * scale).all()
        assert found.min() >= 0
        assert abs(found.sum() - 1) < 1e-12
    assert found is not None or seed != 0


def test_a_target_that_no_domain_helps_prefers_what_harms_least():
    found = tikmix_weights(np.array([[-1.0, -3.0]]), np.array([0.5, 0.5]))
    assert found[0] > 0.6


def test_equal_influences_give_the_most_even_mixture():
    found = tikmix_weights(np.ones((2, 3)), np.array([0.6, 0.3, 0.1]))
    np.testing.assert_allclose(found, 1 / 3, atol=1e-4)


def test_an_entry_without_a_measurement_moves_with_the_others():
    mean = means_or_row_mean(
        np.array([[6.0, 1.0, 0.0], [0.0, 0.0, 0.0]]), np.array([[2, 1, 0], [0, 0, 0.0]])
    )
    assert mean.tolist() == [[3.0, 1.0, 2.0], [0.0, 0.0, 0.0]]


def test_the_scale_is_what_adam_divides_by():
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = torch.optim.Adam([parameter], 0.1, betas=(0.0, 0.9), eps=0.3)  # no momentum
    for gradient in ([1.0, 2.0], [0.5, -3.0], [2.0, 0.1]):
        before = parameter.detach().clone()
        parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        scale = second_moment_scale(optimizer.state[parameter], optimizer.param_groups[0])
        torch.testing.assert_close(before - parameter.detach(), 0.1 * parameter.grad / scale)


# ---- runs ----


class Sums(Callback):
    """What each measure batch added, with the network and optimizer at that time."""

    def __init__(self, method):
        self.method, self.kept = method, []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.before = self.method._sums.copy()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch.phase == "measure" and not batch.last:
            total, count = self.method._sums - self.before
            network = copy.deepcopy(pl_module.network).eval()
            optimizer = trainer.optimizers[0]
            states = [dict(optimizer.state[p]) for p in pl_module.network.parameters()]
            scales = [
                (s["exp_avg_sq"] / (1 - 0.999 ** float(s["step"]))).sqrt() + 1e-8
                for s in states
                if "exp_avg_sq" in s
            ]
            self.kept.append((batch, total, count, network, scales, outputs))


def two_targets():
    return {"t": random_rows(30, WIDTH, 7), "s": random_rows(11, WIDTH, 8)}


@pytest.mark.parametrize("hessian", ["identity", "adam", "norm"])
@pytest.mark.parametrize("kind", ["plain", "batch norm", "micro-batches"])
def test_influence_is_a_finite_difference(hessian, kind, tmp_path):
    """S_im = - d/dt L_i(theta - t H^-1 g_m) at 0."""
    network = batch_norm_network() if kind == "batch norm" else small_network(WIDTH)
    options = {"micro_batch_size": 3} if kind == "micro-batches" else {}
    module = MixtureModule(network, predict_last, adamw, **options)
    method = TiKMiXReweighting(3, 3, hessian, damping=0.7)
    sums = Sums(method)
    fit(tmp_path, module, make_data(target=two_targets()), sums, method, max_epochs=1)
    assert len(sums.kept) == 2
    for batch, total, count, network, scales, outputs in sums.kept:
        assert count.tolist() == [[1, 1], [1, 1]]
        parameters = list(network.parameters())
        torch.testing.assert_close(
            outputs["losses"].double(), predict_last(network, batch.samples).detach(), rtol=1e-6,
            atol=1e-6,
        )  # fmt: skip
        for m in range(2):
            loss = predict_last(network, batch.samples[batch.domains == m]).mean()
            gradient = list(torch.autograd.grad(loss, parameters))
            if hessian == "norm":
                size = sum(g.square().sum() for g in gradient)
                gradient = [g / (0.7 + size) for g in gradient]
            if hessian == "adam":
                gradient = [g / scale for g, scale in zip(gradient, scales, strict=True)]
            h = 1e-4 / math.sqrt(sum(float(g.square().sum()) for g in gradient))
            for i in range(2):
                ends = []
                for t in (h, -h):
                    moved = copy.deepcopy(network)
                    with torch.no_grad():
                        for p, g in zip(moved.parameters(), gradient, strict=True):
                            p -= t * g
                        rows = batch.target_samples[batch.target_domains == i]
                        ends.append(predict_last(moved, rows).mean().item())
                expected = (ends[1] - ends[0]) / (2 * h)
                assert total[i, m] == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_a_batch_without_a_domain_adds_nothing_for_it(tmp_path):
    train = {name: random_rows(20, WIDTH, seed) for seed, name in enumerate("abc")}
    data = make_data(target=two_targets(), batch_size=2)
    data.train_sets = train
    method = TiKMiXReweighting(1, 4)
    sums = Sums(method)
    module = MixtureModule(small_network(WIDTH), predict_last, adamw)
    fit(tmp_path, module, data, sums, method, max_epochs=1)
    for batch, total, count, *_ in sums.kept:
        absent = [m not in batch.domains.tolist() for m in range(3)]
        assert any(absent)
        assert (count[:, absent] == 0).all()
        assert (total[:, absent] == 0).all()
        assert (count[:, ~np.array(absent)] == 1).all()


def test_a_run_solves_for_the_running_mean(tmp_path):
    method = TiKMiXReweighting(2, 2, ema=0.25)
    module = MixtureModule(small_network(WIDTH), predict_last, adamw)
    data = make_data(target=two_targets(), weights={"a": 3, "b": 1})
    measured = []
    update = method.update
    method.update = lambda *a: (measured.append(method._sums.copy()), update(*a))[1]
    recorder = Recorder()
    fit(tmp_path, module, data, recorder, method, max_epochs=3)
    assert [batch.phase for batch in recorder.batches[:4]] == ["train"] * 2 + ["measure"] * 2
    mean, expected = None, [np.array([0.75, 0.25])]
    for total, count in measured:
        assert (count == 2).all()
        mean = total / count if mean is None else 0.75 * total / count + 0.25 * mean
        expected.append(tikmix_weights(mean, np.array([0.75, 0.25])))
    np.testing.assert_allclose(method.trajectory, expected, atol=1e-9)
    np.testing.assert_allclose(method.signals[-1][0], scaled_influence(mean).sum(axis=0))
    assert recorder.global_steps[-1] == 6


def test_measuring_leaves_training_as_it_was(tmp_path):
    """Network, buffers and moments after the first period are those of a run without measuring."""
    ends = []
    for method in (TiKMiXReweighting(5, 2), None):
        module = MixtureModule(batch_norm_network(), predict_last, adamw)
        data = make_data(target=two_targets(), epoch_batches=5)
        fit(tmp_path, module, data, *([method] if method else []), max_epochs=1)
        ends.append(module)
    first, second = (module.state_dict() for module in ends)
    for key in first:
        assert torch.equal(first[key], second[key]), key


def test_resumes_exactly_from_inside_the_measuring(tmp_path):
    steps = (3, 4, 7, 8)

    class Save(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if batch.step in steps:
                trainer.save_checkpoint(tmp_path / f"{batch.step}.ckpt")

    def run(folder, *callbacks, ckpt_path=None):
        module = MixtureModule(small_network(WIDTH), predict_last, adamw)
        method = TiKMiXReweighting(2, 3, "adam")
        trainer = quiet_trainer(folder, callbacks=[method, *callbacks], max_epochs=3)
        trainer.fit(module, datamodule=make_data(target=two_targets()), ckpt_path=ckpt_path)
        return np.stack(method.trajectory), np.stack(method.signals), parameters_of(module.network)

    whole = run(tmp_path, Save())
    for step in steps:
        torch.load(tmp_path / f"{step}.ckpt", weights_only=True)
        again = run(tmp_path / "again", ckpt_path=tmp_path / f"{step}.ckpt")
        for mine, theirs in zip(again, whole, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_an_influence_that_is_not_finite_leaves_the_weights_alone(tmp_path):
    target = {"t": with_marker(random_rows(8, WIDTH, 7), 0)}
    method = TiKMiXReweighting(2, 1)
    module = MixtureModule(small_network(WIDTH), poisoned, adamw)
    with pytest.warns(UserWarning, match="influence is not finite, .*domains: a, b; 1 update "):
        fit(tmp_path, module, make_data(target=target), method, max_epochs=2)
    assert method.skipped_updates == 2
    np.testing.assert_array_equal(method.trajectory, np.full((3, 2), 0.5))


@pytest.mark.parametrize(
    ("settings", "optimizer", "data", "message"),
    [
        ({"hessian": "adam"}, sgd, {}, "hessian='adam' needs the second moments .* SGD"),
        ({"measure_batches": 1}, adamw, {"batch_size": 1}, "measure_batches=1 of batch_size=1"),
        ({"hessian": "full"}, adamw, {}, "hessian='full' must be one of"),
        ({}, adamw, {"target": None}, "target data"),
    ],
)
def test_refuses_what_cannot_work(settings, optimizer, data, message, tmp_path):
    module = MixtureModule(small_network(WIDTH), predict_last, optimizer)
    with pytest.raises(InputError, match=message):
        fit(tmp_path, module, make_data(**data), TiKMiXReweighting(**settings), max_epochs=1)
