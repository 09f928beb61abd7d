"""The hyper-gradient against an independent plain-PyTorch episode, and the quadratic oracle."""

import copy

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import nn
from torch.utils.data import Dataset

from tandem_pl import InputError, MixtureModule, TandemModule
from tandem_pl.callbacks import TandemReweighting
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.objectives import Classification
from tandem_pl.randomness import seed_generators
from tandem_pl.training.tandem_module import TARGET_SALT


class Rows(Dataset):
    """Tensors by row, a batch at a time."""

    def __init__(self, *columns):
        self.columns = columns

    def __len__(self):
        return len(self.columns[0])

    def __getitem__(self, index):
        rows = tuple(column[index] for column in self.columns)
        return rows[0] if len(rows) == 1 else rows

    def __getitems__(self, indices):
        columns = [column[indices] for column in self.columns]
        return list(columns[0]) if len(columns) == 1 else list(zip(*columns, strict=True))


class Recorder(Callback):
    def __init__(self):
        self.batches, self.deltas = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches.append(batch)
        if batch.last:
            method = next(c for c in trainer.callbacks if isinstance(c, TandemReweighting))
            self.deltas.append(method.signal.delta)


def train(module, data, callbacks, tmp_path, **more):
    settings = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu"}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(callbacks=callbacks, default_root_dir=tmp_path, **(settings | quiet | more))
    trainer.fit(module, data)
    return trainer


def images(seed, shift, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(23, 6, generator=generator, dtype=dtype) + shift
    return Rows(inputs, torch.randint(3, (23,), generator=generator))


def network(kind, dtype=torch.float64):
    torch.manual_seed(5)
    middle = {
        "plain": [],
        "dropout": [nn.Dropout(0.4)],
        "batchnorm": [nn.BatchNorm1d(12)],
        "both": [nn.BatchNorm1d(12), nn.Dropout(0.4)],
    }[kind]
    return nn.Sequential(nn.Linear(6, 12), *middle, nn.Tanh(), nn.Linear(12, 3)).to(dtype)


OPTIMIZERS = {
    "sgd": lambda params: torch.optim.SGD(params, 0.1),
    "momentum": lambda params: torch.optim.SGD(params, 0.05, momentum=0.9),
    "adamw": lambda params: torch.optim.AdamW(params, 0.01),
}


def plain_episodes(net, make_optimizer, batches, penalty, size, objective, clip=None):
    """TANDEM as its equations say, with two optimizers and a separate pass for every loss."""
    u, w, deltas = copy.deepcopy(net), None, []
    u_optimizer = make_optimizer(u.parameters())
    rows = []

    def loss(model, samples, step, *salt):
        seed_generators(torch.device("cpu"), 0, step, 0, 0, *salt)
        return objective(model, samples)

    def step(model, optimizer, total):
        optimizer.zero_grad()
        total.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()

    for batch in batches:
        if batch.phase == "measure":
            u.eval()
            w.eval()
            with torch.no_grad():
                gap = loss(w, batch.samples, batch.step) - loss(u, batch.samples, batch.step)
            u.train()
            rows += zip(batch.domains.tolist(), gap.tolist(), strict=True)
            if batch.last:
                by_domain = [[g for d, g in rows if d == m] for m in range(size)]
                deltas.append(np.array([np.mean(values) for values in by_domain]))
                rows = []
            continue
        if batch.phase == "probe":
            if batch.first:
                w = copy.deepcopy(u)
                w_optimizer = make_optimizer(w.parameters())
                w_optimizer.load_state_dict(copy.deepcopy(u_optimizer.state_dict()))
            train_loss = loss(w, batch.samples, batch.step).mean()
            statistics = copy.deepcopy(dict(w.named_buffers()))
            target_loss = loss(w, batch.target_samples, batch.step, TARGET_SALT).mean()
            step(w, w_optimizer, target_loss + penalty * train_loss)
            for name, buffer in w.named_buffers():  # the statistics are of training batches
                buffer.copy_(statistics[name])
        step(u, u_optimizer, loss(u, batch.samples, batch.step).mean())
    return deltas, u


@pytest.mark.parametrize("kind", ["plain", "dropout", "batchnorm", "both"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_hyper_gradient_equals_an_independent_episode(kind, optimizer, tmp_path):
    train_sets = {f"d{m}": images(m, 0.3 * m) for m in range(3)}
    data = MixtureDataModule(train_sets, {"t": images(9, 1.0)}, batch_size=12)
    net, recorder = network(kind), Recorder()
    module = TandemModule(
        copy.deepcopy(net), Classification(), OPTIMIZERS[optimizer], penalty=1.7,
        gradient_clip_val=0.8,
    )  # fmt: skip
    method = TandemReweighting(3, 4, 2, learning_rate=2.0)
    train(module, data, [method, recorder], tmp_path, max_epochs=3)
    deltas, u = plain_episodes(
        net, OPTIMIZERS[optimizer], recorder.batches, 1.7, 3, Classification(), clip=0.8
    )
    assert len(deltas) == 3
    np.testing.assert_allclose(recorder.deltas, deltas, rtol=0, atol=1e-9)
    assert np.abs(deltas).min() > 1e-6  # the twins did part
    for mine, theirs in zip(module.network.state_dict().values(), u.state_dict().values(),
                            strict=True):  # fmt: skip
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)


def test_hyper_gradient_in_float32_equals_to_1e_6(tmp_path):
    float32 = torch.float32
    train_sets = {f"d{m}": images(m, 0.3 * m, float32) for m in range(3)}
    data = MixtureDataModule(train_sets, {"t": images(9, 1.0, float32)}, batch_size=12)
    net, recorder = network("both", float32), Recorder()
    module = TandemModule(copy.deepcopy(net), Classification(), OPTIMIZERS["adamw"])
    train(module, data, [TandemReweighting(5, 5, 2), recorder], tmp_path, max_epochs=2)
    deltas, _ = plain_episodes(net, OPTIMIZERS["adamw"], recorder.batches, 1.0, 3, Classification())
    np.testing.assert_allclose(recorder.deltas, deltas, rtol=0, atol=1e-6)


def test_sync_copies_parameters_buffers_and_moments(tmp_path):
    class AtSync(TandemModule):
        checked = 0

        def sync(self):
            super().sync()
            twins = zip(self.network.state_dict().items(), self.reference.state_dict().values(),
                        strict=True)  # fmt: skip
            for (key, u), w in twins:
                assert torch.equal(u, w), key
                assert u.data_ptr() != w.data_ptr()
            optimizer = self.optimizers().optimizer
            for u, w in zip(*(g["params"] for g in optimizer.param_groups), strict=True):
                assert optimizer.state[u].keys() == optimizer.state[w].keys()
                for key, value in optimizer.state[u].items():
                    assert torch.equal(value, optimizer.state[w][key])
                    assert value.data_ptr() != optimizer.state[w][key].data_ptr()
            self.checked += 1

    module = AtSync(network("both"), Classification(), OPTIMIZERS["adamw"])
    data = MixtureDataModule({"a": images(0, 0.0)}, {"t": images(1, 1.0)}, batch_size=8)
    train(module, data, [TandemReweighting(2, 2, 1)], tmp_path, max_epochs=3)
    assert module.checked == 3


def test_the_reference_rests_in_free_steps(tmp_path):
    class Watch(Callback):
        before = None

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.before = copy.deepcopy(pl_module.reference.state_dict())

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            after = pl_module.reference.state_dict()
            same = all(torch.equal(after[key], value) for key, value in self.before.items())
            assert same == (batch.phase != "probe")

    data = MixtureDataModule({"a": images(0, 0.0)}, {"t": images(1, 1.0)}, batch_size=8)
    module = TandemModule(network("both"), Classification(), OPTIMIZERS["adamw"])
    train(module, data, [TandemReweighting(3, 2, 2), Watch()], tmp_path, max_epochs=2)


def test_without_extra_information_in_the_target_nothing_moves(tmp_path):
    """With the target gradient zero, w takes gamma = 1 times u's steps: Delta = 0."""

    def objective(net, samples):
        return (samples[:, :1] * net.weight + samples[:, 1:]).square().sum(1)

    rows = torch.randn(40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    data = MixtureDataModule(
        {"a": Rows(rows), "b": Rows(rows + 1)}, {"t": Rows(0.0 * rows)}, batch_size=8
    )
    method = TandemReweighting(2, 3, 2, learning_rate=100.0)
    module = TandemModule(nn.Linear(1, 1, bias=False).double(), objective, OPTIMIZERS["sgd"])
    train(module, data, [method], tmp_path, max_epochs=3)
    assert method.mixture.weights == {"a": 0.5, "b": 0.5}


# ---- the quadratic oracle: methods.md section 1 ----

ALPHA = np.array([0.40, 0.25, 0.20, 0.10, 0.05])
CURVATURE = torch.linspace(0.2, 2.0, 8, dtype=torch.float64)
CENTRES = torch.randn(5, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
TARGET = torch.from_numpy(ALPHA) @ CENTRES


class Point(nn.Module):
    def __init__(self):
        super().__init__()
        self.place = nn.Parameter(torch.zeros(8, dtype=torch.float64))


def bowl(net, centres):
    """1/2 (w - a)' H (w - a) for each row a."""
    return 0.5 * ((net.place - centres).square() * CURVATURE).sum(dim=1)


def bowl_data(noise, batch_size=256):
    generator = torch.Generator().manual_seed(4)

    def around(centre):
        spread = noise * torch.randn(512, 8, generator=generator, dtype=torch.float64)
        return Rows(centre + spread - spread.mean(0))

    train_sets = {f"d{m}": around(centre) for m, centre in enumerate(CENTRES)}
    return MixtureDataModule(train_sets, {"target": around(TARGET)}, batch_size=batch_size)


def test_recovers_the_bilevel_optimum_of_quadratics_without_noise(tmp_path):
    method = TandemReweighting(10, 5, 1, learning_rate=0.2)
    module = TandemModule(Point(), bowl, lambda params: torch.optim.SGD(params, 0.1))
    train(module, bowl_data(0.0), [method], tmp_path, max_epochs=120)
    assert np.abs(np.array(list(method.mixture.weights.values())) - ALPHA).max() < 5e-3
    assert np.abs(np.array(list(method.mixture.average.values())) - ALPHA).max() < 1e-3


def test_recovers_the_bilevel_optimum_of_quadratics_with_noise(tmp_path):
    method = TandemReweighting(10, 5, 1, learning_rate=0.1)
    module = TandemModule(Point(), bowl, lambda params: torch.optim.SGD(params, 0.05))
    train(module, bowl_data(1.0), [method], tmp_path, max_epochs=100)
    assert np.abs(np.array(list(method.mixture.average.values())) - ALPHA).max() < 0.02


def learn_bowl(folder, unit, epochs, noise=0.0, **settings):
    """Learn with losses in another unit; the network's rate is in the same unit."""

    def objective(net, centres):
        return unit * bowl(net, centres)

    method = TandemReweighting(free_steps=10, measure_batches=1, **settings)
    module = TandemModule(Point(), objective, lambda params: torch.optim.SGD(params, 0.1 / unit))
    train(module, bowl_data(noise), [method], folder, max_epochs=epochs)
    return method


def test_needs_no_settings_to_recover_the_bilevel_optimum(tmp_path):
    method = learn_bowl(tmp_path, unit=100.0, epochs=120)
    assert np.abs(np.array(list(method.mixture.weights.values())) - ALPHA).max() < 5e-3
    assert np.abs(np.array(list(method.mixture.average.values())) - ALPHA).max() < 3e-3


def test_needs_no_settings_with_noise_either(tmp_path):
    method = learn_bowl(tmp_path, unit=1.0, epochs=120, noise=0.3)
    assert np.abs(np.array(list(method.mixture.average.values())) - ALPHA).max() < 0.03


@pytest.mark.parametrize("update", ["projected", "exponentiated"])
def test_the_unit_of_the_losses_changes_nothing(update, tmp_path):
    one, other = (learn_bowl(tmp_path, unit, 12, 0.3, update=update) for unit in (1.0, 0.01))
    np.testing.assert_allclose(other.trajectory, one.trajectory, rtol=1e-9)
    assert abs(one.trajectory[-1] - 0.2).max() > 0.02


@pytest.mark.parametrize(("probe_steps", "least"), [(1, 0.97), (50, 0.99)])
def test_delta_points_along_the_exact_hyper_gradient(probe_steps, least, tmp_path):
    """a_i' H (u - v), centred, at a uniform mixture with u at its inner optimum."""
    point = Point()
    point.place.data = CENTRES.mean(0)
    recorder = Recorder()
    method = TandemReweighting(0, probe_steps, 2)
    module = TandemModule(point, bowl, lambda params: torch.optim.SGD(params, 0.05))
    train(module, bowl_data(0.0, 250), [method, recorder], tmp_path, max_epochs=1)
    exact = (CENTRES @ (CURVATURE * (CENTRES.mean(0) - TARGET))).numpy()
    exact, delta = exact - exact.mean(), recorder.deltas[0] - recorder.deltas[0].mean()
    assert exact @ delta / np.linalg.norm(exact) / np.linalg.norm(delta) > least


# ---- bad input ----


def test_needs_twins(tmp_path):
    module = MixtureModule(Point(), bowl, OPTIMIZERS["sgd"])
    with pytest.raises(InputError, match="MixtureModule does not have: use TandemModule"):
        train(module, bowl_data(0.0), [TandemReweighting()], tmp_path, max_epochs=1)


def test_needs_target_data(tmp_path):
    data = MixtureDataModule({"a": Rows(CENTRES)}, batch_size=4)
    module = TandemModule(Point(), bowl, OPTIMIZERS["sgd"])
    with pytest.raises(InputError, match="'probe' batches need target data"):
        train(module, data, [TandemReweighting()], tmp_path, max_epochs=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"probe_steps": 0}, "probe_steps=0 must be at least 1"),
        ({"measure_batches": 0}, "measure_batches=0 must be at least 1"),
        ({"free_steps": -1}, "free_steps=-1 must be at least 0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be 'auto' or a positive number"),
        ({"learning_rate": "fast"}, "learning_rate='fast' must be 'auto' or a positive number"),
        ({"learning_rate": True}, "learning_rate=True must be 'auto' or a positive number"),
        ({"free_steps": "many"}, "free_steps='many' must be 'auto' or a number"),
        ({"update": "newton"}, "update='newton' must be one of"),
    ],
)
def test_refuses_settings_by_name(settings, message):
    with pytest.raises(InputError, match=message):
        TandemReweighting(**settings)


def test_refuses_a_floor_that_leaves_no_mixture(tmp_path):
    module = TandemModule(Point(), bowl, OPTIMIZERS["sgd"])
    with pytest.raises(InputError, match=r"floor=0.3 leaves no mixture of 5 domains"):
        train(module, bowl_data(0.0), [TandemReweighting(floor=0.3)], tmp_path, max_epochs=1)


def test_refuses_a_penalty_of_zero():
    with pytest.raises(InputError, match=r"penalty=0\.0 must be positive"):
        TandemModule(Point(), bowl, OPTIMIZERS["sgd"], penalty=0.0)
