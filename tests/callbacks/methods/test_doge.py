"""DoGE against its equations, autograd on the whole, finite differences and TANDEM."""

import math
import weakref

import numpy as np
import pytest
import torch
from helpers import Rows, quiet_trainer
from lightning.pytorch import Callback
from torch import nn
from torch.nn import functional as F
from toy import Steps, flat_gradient, toy_data, toy_network, with_parameters

import tandem_pl.callbacks.measures.alignment as alignment_module
import tandem_pl.training.gradients as gradients_module
from tandem_pl import InputError, MixtureModule, TandemModule
from tandem_pl.callbacks import DoGEReweighting, TandemReweighting
from tandem_pl.callbacks.measures.alignment import align
from tandem_pl.callbacks.methods.doge import official_scores
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.objectives import Classification
from tandem_pl.simplex import projected_step
from tandem_pl.training.sample_weights import LossBasedWeights

RATE = 0.1


def sgd(parameters):
    return torch.optim.SGD(parameters, RATE)


def halving(optimizer):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))


def run(tmp_path, method, batch_size=12, steps=6, network=None, target=True, **options):
    module = MixtureModule(network or toy_network(), Classification(), sgd, **options)
    record = Steps(method)
    trainer = quiet_trainer(tmp_path, callbacks=[method, record], max_steps=steps)
    trainer.fit(module, datamodule=toy_data(target, batch_size=batch_size))
    return module, record


def losses_of(network, pair):
    return F.cross_entropy(network(pair[0]), pair[1], reduction="none")


def gradients(record, number, kind, max_norm=None):
    """[M, P] mean gradients of the domains (NaN where absent), and the target's [P]."""
    network, batch = with_parameters(record.before[number][0]), record.batches[number]

    def clipped(loss):
        gradient = flat_gradient(loss, network)
        return gradient * min(1.0, (max_norm or math.inf) / gradient.norm().item())

    parts = []
    for m in range(3):
        rows = batch.domains == m
        absent = torch.full_like(record.before[number][0], math.nan)
        parts.append(
            clipped(losses_of(network, batch.samples)[rows].mean()) if rows.any() else absent
        )
    parts = torch.stack(parts)
    if kind == "target":
        return parts, clipped(losses_of(network, batch.target_samples).mean()).expand(3, -1)
    whole = parts.nan_to_num().sum(0)
    return parts, torch.stack([whole - (part if kind == "others" else 0.0) for part in parts])


# ---- scores ----


def test_official_scores_are_those_of_the_code() -> None:
    products, norms = np.array([0.3, -2.0, 9.0, 0.0]), np.array([1.0, 0.5, 0.9, 0.0])
    present = np.array([True, True, True, False])
    found = official_scores(products, norms, present, 0.2)
    mean = (1.0 + 0.5 + 0.9) / 3 + 1e-6
    np.testing.assert_allclose(found, [0.2 * 0.3 / mean, 0.0, 1.0, 0.0], rtol=1e-12)


@pytest.mark.parametrize("kind", ["target", "train", "others"])
@pytest.mark.parametrize("score", ["plain", "official"])
@pytest.mark.parametrize(("batch", "micro"), [(12, 5), (2, None)])
def test_every_step_is_the_papers(kind, score, batch, micro, tmp_path) -> None:
    """Scores, weights, parameters; with micro-batches, a schedule, and domains that are absent."""
    mu, bound = 0.03, 0.4
    method = DoGEReweighting(kind, score, mu, bound, smoothing=0.02, episode_steps=3)
    _, record = run(tmp_path, method, batch, micro_batch_size=micro, lr_scheduler=halving)
    alpha, scores, alphas, long = np.full(3, 1 / 3), np.zeros(3), [], 0
    for number in range(len(record.batches)):
        rate = RATE / (1 + number)
        assert record.rates[number] == [pytest.approx(rate)]
        parts, target = gradients(record, number, kind, bound if score == "official" else None)
        present = ~parts[:, 0].isnan()
        products = (parts * target).sum(1).numpy()
        lengths = parts[present].norm(dim=1)
        long += (lengths > 0.99 * bound).sum()
        if score == "official":
            now = rate * products / (lengths.mean().item() + 1e-6)
            now = np.clip(now, 0, 5 * rate)
        else:
            now = rate * products
        scores = np.where(present.numpy(), now, scores)
        grown = alpha * np.exp(scores / mu)
        alpha = 0.98 * grown / grown.sum() + 0.02 / 3
        alphas.append(alpha)
        np.testing.assert_allclose(record.scores[number], scores, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(record.alphas[number], alpha, rtol=1e-9)
        plain, _ = gradients(record, number, "target" if kind == "target" else "train")
        step = (torch.from_numpy(alpha)[:, None] * plain.nan_to_num()).sum(0)
        after = record.before[number][0] - rate * step
        torch.testing.assert_close(record.after[number][0], after, rtol=0, atol=1e-12)
    assert long or score == "plain"  # some gradient was clipped
    average = np.array(list(method.mixture.average.values()))
    np.testing.assert_allclose(average, np.mean(alphas, axis=0), rtol=1e-9)


def test_the_universal_form_needs_no_target_data(tmp_path) -> None:
    run(tmp_path, DoGEReweighting("train", episode_steps=3), target=False)
    run(tmp_path, DoGEReweighting("others", episode_steps=3), target=False)
    with pytest.raises(InputError, match="need target data"):
        run(tmp_path, DoGEReweighting(episode_steps=3), target=False)


def test_a_module_that_weighs_samples_is_refused(tmp_path) -> None:
    with pytest.raises(
        InputError, match="sample_weights of the module and DoGEReweighting both weight"
    ):
        run(tmp_path, DoGEReweighting(), sample_weights=LossBasedWeights())


# ---- gradients ----


class Align(Callback):
    def __init__(self, **options) -> None:
        self.options = options

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.batch = batch
        self.found = align(pl_module, batch, 3, **self.options)


def aligned(tmp_path, network, target=True, **options):
    """What `align` finds after a first step."""
    grab, method = Align(**options), DoGEReweighting(episode_steps=1)
    module = MixtureModule(network, Classification(), sgd)
    trainer = quiet_trainer(tmp_path, callbacks=[method, grab], max_steps=1)
    trainer.fit(module, datamodule=toy_data(target))
    return module.network, grab


def test_products_are_finite_differences(tmp_path) -> None:
    """<g_m, g_target> = d/dt L_m(theta + t g_target) at 0, in eval mode."""
    torch.manual_seed(0)
    middle = [nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Tanh()]
    network = nn.Sequential(nn.Linear(4, 8), *middle, nn.Linear(8, 2)).double()
    network, got = aligned(tmp_path, network)
    assert network.training
    network.eval()
    start = nn.utils.parameters_to_vector(network.parameters()).detach().clone()
    target = flat_gradient(losses_of(network, got.batch.target_samples).mean(), network)
    ends = []
    for t in (1e-5, -1e-5):
        with_parameters(start + t * target, network)
        with torch.no_grad():
            losses = losses_of(network, got.batch.samples)
        ends.append([losses[got.batch.domains == m].mean().item() for m in range(3)])
    difference = (np.array(ends[0]) - np.array(ends[1])) / 2e-5
    np.testing.assert_allclose(got.found.products, difference, rtol=1e-3, atol=1e-9)
    with_parameters(start, network)
    np.testing.assert_allclose(
        got.found.losses, losses_of(network, got.batch.samples).detach(), rtol=1e-12
    )


def test_two_sets_of_gradients_are_alive_at_most(tmp_path, monkeypatch) -> None:
    """Whatever the number of domains."""
    made, alive = [], []
    summed, product = gradients_module.summed_gradient, alignment_module.dot

    def noting(*arguments, **more):
        gradient, losses = summed(*arguments, **more)
        made.append(weakref.ref(gradient[0]))
        return gradient, losses

    def counting(first, second):
        alive.append(sum(one() is not None for one in made))
        return product(first, second)

    monkeypatch.setattr(gradients_module, "summed_gradient", noting)
    monkeypatch.setattr(alignment_module, "dot", counting)
    for own in (None, "sum", "others"):
        aligned(tmp_path, toy_network(), own=own)
    assert len(made) > 20
    assert set(alive) == {2}


# ---- one update, three directions ----


def test_one_projected_update_with_doges_direction(tmp_path) -> None:
    """Delta = -<g_m, g_target>, in TANDEM's update with eta = rate / mu."""
    method = DoGEReweighting(score="plain", mu=0.2, update="projected", episode_steps=3)
    _, record = run(tmp_path, method)
    alpha = np.full(3, 1 / 3)
    for number, got in enumerate(record.alphas):
        parts, target = gradients(record, number, "target")
        delta = -(parts * target).sum(1).numpy()
        alpha = projected_step(alpha, delta, RATE / 0.2)
        np.testing.assert_allclose(got, alpha, rtol=0, atol=1e-12)
    assert np.abs(alpha - 1 / 3).max() > 0.05


CURVATURE = torch.linspace(0.2, 2.0, 8, dtype=torch.float64)
CENTRES = torch.randn(5, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
TARGET = torch.tensor([0.40, 0.25, 0.20, 0.10, 0.05], dtype=torch.float64) @ CENTRES


class Point(nn.Module):
    def __init__(self, place) -> None:
        super().__init__()
        self.place = nn.Parameter(place.clone())


def bowl(net, centres):
    """1/2 (w - a)' H (w - a) for each row a."""
    return 0.5 * ((net.place - centres).square() * CURVATURE).sum(dim=1)


def bowls() -> MixtureDataModule:
    train = {f"d{m}": Rows(centre.repeat(10, 1)) for m, centre in enumerate(CENTRES)}
    return MixtureDataModule(train, {"t": Rows(TARGET.repeat(10, 1))}, batch_size=50)


def centred(values) -> np.ndarray:
    values = np.asarray(values) - np.mean(values)
    return values / np.linalg.norm(values)


def test_tandem_with_one_small_step_points_as_doge_does(tmp_path) -> None:
    """Delta ~ -eta_w <g_m, g_target>, centred; both are exact on bowls at the inner optimum."""

    def small(params):
        return torch.optim.SGD(params, 1e-3)

    start = CENTRES.mean(0)
    tandem = TandemReweighting(0, 1, 1)
    module = TandemModule(Point(start), bowl, small)
    quiet_trainer(tmp_path, callbacks=[tandem], max_epochs=1).fit(module, datamodule=bowls())
    doge = DoGEReweighting(score="plain", episode_steps=1)
    module = MixtureModule(Point(start), bowl, small)
    quiet_trainer(tmp_path, callbacks=[doge], max_epochs=1).fit(module, datamodule=bowls())
    target = CURVATURE * (start - TARGET)
    exact = ((start - CENTRES) * CURVATURE) @ target
    np.testing.assert_allclose(doge.signal.products, exact, rtol=1e-9)
    assert centred(tandem.signal.delta) @ centred(-doge.signal.products) > 0.95
    assert np.abs(exact - exact.mean()).min() > 1e-3  # a direction that means something


# ---- not finite ----


def test_gradients_that_are_not_finite_leave_the_weights(tmp_path) -> None:
    method = DoGEReweighting(score="plain", episode_steps=4)
    data = toy_data(batch_size=6)
    data.target_sets["t"].tensors[0][:6] = math.nan
    module, record = MixtureModule(toy_network(), Classification(), sgd), Steps(method)
    trainer = quiet_trainer(tmp_path, callbacks=[method, record], max_steps=12)
    with pytest.warns(UserWarning, match="alignment is not finite, .*: twin, other, noise; 1"):
        trainer.fit(module, datamodule=data)
    before = [np.full(3, 1 / 3), *record.alphas[:-1]]
    marked = [bool(batch.target_samples[0].isnan().any()) for batch in record.batches]
    assert 0 < sum(marked) < 12
    for stays, old, new in zip(marked, before, record.alphas, strict=True):
        assert np.array_equal(old, new) == stays
    assert method.skipped_updates == sum(marked)
    assert module.skipped_updates == 0  # the training losses are sound
