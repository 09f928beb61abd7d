"""R&B's weights against a transcription, its gradients against those of single samples."""

import copy

import numpy as np
import pytest
import torch
import toy
from helpers import Recorder, parameters_of, quiet_trainer
from torch import nn
from toy import BATCH, DOMAINS, WIDTH, samples, toy_data, toy_module, toy_network

from tandem_pl import InputError
from tandem_pl.callbacks import FixedMixture, RAndBReweighting
from tandem_pl.callbacks.measures.head_gradients import HeadGradients, find_head, sketch_matrix
from tandem_pl.callbacks.methods.r_and_b import r_and_b_weights
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.objectives import CausalLanguageModeling


def weights_by_hand(sums, counts, shares, strength):
    """R&B's equations in loops, for [M][F] sums of gradients of so many samples."""
    size = len(sums)
    gain = []
    for i in range(size):
        total = 0.0
        for j in range(size):
            product = sum(a * b for a, b in zip(sums[i], sums[j], strict=True))
            total += product / (counts[i] * counts[j]) * shares[j]
        gain.append(total)
    length = sum(x**2 for x in gain) ** 0.5
    share = [np.exp(strength * x / length) for x in gain]
    return np.array(share) / sum(share)


@pytest.mark.parametrize("seed", range(4))
def test_the_weights_are_the_papers(seed):
    generator = np.random.default_rng(seed)
    sums, counts = generator.normal(size=(5, 7)), generator.integers(1, 9, 5)
    shares = generator.dirichlet(np.ones(5))
    products = (sums @ sums.T) / np.outer(counts, counts)
    expected = weights_by_hand(sums, counts, shares, 3.0)
    np.testing.assert_allclose(r_and_b_weights(products, shares, 3.0), expected, rtol=1e-12)


def test_gradients_without_products_give_equal_weights():
    np.testing.assert_allclose(r_and_b_weights(np.zeros((4, 4)), np.ones(4)), 0.25)


def head_gradients(network, objective, inputs, labels):
    """Each sample's gradient [B, C (d + 1)] with respect to the head, one backward a sample."""
    rows = []
    for one, label in zip(inputs, labels, strict=True):
        loss = objective(network, (one[None], label[None]))[0]
        weight, bias = torch.autograd.grad(loss, [network[2].weight, network[2].bias])
        rows.append(torch.cat([weight, bias[:, None]], dim=1).flatten())
    return torch.stack(rows)


class Heads(Recorder):
    """The gradients and domains of each batch, by single samples, before its step."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        network = copy.deepcopy(pl_module.network)
        gradients = head_gradients(network, pl_module.objective, *batch.samples)
        self.rows.append((gradients.numpy(), batch.domains.numpy()))


@pytest.mark.parametrize(("micro", "every"), [(None, 1), (5, 1), (None, 2)])
def test_a_run_gives_the_weights_of_gradients_of_single_samples(micro, every, tmp_path):
    """Of 3 periods; a domain that is not drawn in one keeps its last mean gradient."""
    start = {"twin": 0.6, "other": 0.4, "noise": 0}
    shares = {"twin": 1, "other": 2, "noise": 1}
    method, heads = RAndBReweighting(period=3, shares=shares, every=every), Heads()
    trainer = quiet_trainer(tmp_path, callbacks=[method, heads], max_epochs=3)
    module = toy_module(micro_batch_size=micro)
    trainer.fit(module, datamodule=toy_data(weights=start))
    means = np.zeros((3, heads.rows[0][0].shape[1]))
    for period in range(3):
        steps = [step for step in range(3 * period, 3 * period + 3) if method._reads(step)]
        rows, domains = zip(*(heads.rows[step] for step in steps), strict=True)
        rows, domains = np.concatenate(rows), np.concatenate(domains)
        for m in set(domains.tolist()):
            means[m] = rows[domains == m].mean(axis=0)
        assert (2 in domains) == (period > 0) or every > 1
        expected = weights_by_hand(means, np.ones(3), [0.25, 0.5, 0.25], 3.0)
        np.testing.assert_allclose(method.trajectory[period + 1], expected, rtol=1e-10)
    assert method.signals[0][1].sum() == sum(map(method._reads, range(3))) * BATCH


def test_the_steps_are_those_of_plain_training(tmp_path):
    ends = []
    for method in (RAndBReweighting(period=40), FixedMixture(episode_steps=40)):
        module = toy_module()
        trainer = quiet_trainer(tmp_path, callbacks=[method], max_epochs=1)
        trainer.fit(module, datamodule=toy_data())
        ends.append(parameters_of(module.network))
    assert torch.equal(*ends)


def test_shares_are_those_of_target_domains_of_the_same_names(tmp_path):
    found = []
    for name, options in (
        ("noise", {"target_weights": {"noise": 3, "twin": 1}}),
        ("unknown", {"target_weights": {"unknown": 3, "twin": 1}}),
    ):
        method, data = RAndBReweighting(period=2), toy_data(**options)
        data.target_sets = {n: samples("t", 40, 7) for n in ("twin", name)}
        trainer = quiet_trainer(tmp_path, callbacks=[method], max_epochs=1)
        trainer.fit(toy_module(), datamodule=data)
        found.append(method._p)
    np.testing.assert_allclose(found, [[0.25, 0, 0.75], [1 / 3] * 3])


def test_shares_are_those_of_the_clusters_that_targets_are_nearest_to(tmp_path):
    """Clusters that are no training domains of the run are left out."""
    method, data = RAndBReweighting(period=2), toy_data(target_weights={"one": 3, "noise": 1})
    data.target_sets = {name: samples("t", 40, 7) for name in ("one", "noise")}
    data.target_clusters = {"one": {"twin": 0.4, "other": 0.2, "elsewhere": 0.4}}
    trainer = quiet_trainer(tmp_path, callbacks=[method], max_epochs=1)
    trainer.fit(toy_module(), datamodule=data)
    np.testing.assert_allclose(method._p, np.array([0.3, 0.15, 0.25]) / 0.7)


def test_products_of_sketches_are_products_up_to_noise():
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(200, 300)
    pair = []
    for sketch in (None, 64):
        collector = HeadGradients(head, 3, sketch)
        inputs = torch.randn(6, 9, 200, generator=generator.manual_seed(1))
        with collector.collecting(torch.tensor([0, 0, 1, 1, 2, 2]), 1.0):
            (head(inputs) * torch.randn(6, 9, 300, generator=generator)).sum().backward()
        assert collector.sums.shape == (3, collector.width)
        pair.append(collector.sums.double())
    assert pair[0].shape[1] == 300 * 201
    assert pair[1].shape[1] == 64 * 201
    exact, rough = (sums @ sums.T for sums in pair)
    assert ((rough - exact).abs() / exact.diagonal().mean()).max() < 1 / 8
    signs = sketch_matrix(4000, 64)
    assert (signs[:100] @ signs[:100].T - torch.eye(100)).abs().max() < 0.6


def test_the_bytes_of_the_documented_example():
    head = nn.Linear(768, 50257, device="meta", bias=False)
    for sketch, megabytes in ((64, 39), (None, 30878)):
        width = HeadGradients(head, 100, sketch).width
        assert round(2 * 100 * width * 4 / 1e6) == megabytes


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 6), nn.Linear(6, 11, bias=False)

    def forward(self, input_ids):
        return self.head(self.embed(input_ids))


def test_gradients_of_tokens():
    """Of the mean over a sample's tokens, with a head without bias."""
    network, tokens = Tokens(), torch.randint(0, 11, (4, 5))
    collector = HeadGradients(find_head(network), 2, None)
    with collector.collecting(torch.tensor([0, 1, 1, 0]), 4.0):
        CausalLanguageModeling()(network, {"input_ids": tokens}).mean().backward()
    for domain, rows in ((0, [0, 3]), (1, [1, 2])):
        loss = CausalLanguageModeling()(network, {"input_ids": tokens[rows]}).sum()
        (expected,) = torch.autograd.grad(loss, [network.head.weight])
        found = collector.sums[domain].view(11, 6)
        torch.testing.assert_close(found, expected)


def test_finds_the_head_by_name():
    network = toy_network()
    assert find_head(network) is network[2]
    assert find_head(network, "0") is network[0]
    with pytest.raises(InputError, match=r"head='1' must be the name of a linear layer.*0, 2"):
        find_head(network, "1")
    with pytest.raises(InputError, match="has no linear layer"):
        find_head(nn.Tanh())


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(WIDTH, WIDTH).double(), nn.Linear(WIDTH, 2).double()

    def forward(self, inputs):
        return self.head(self.inner(self.inner(inputs)))


@pytest.mark.parametrize(
    ("module", "settings", "message"),
    [
        ({"compile": True}, {}, r"compile=True hides.*compile=false"),
        ({"network": Twice()}, {"head": "inner"}, r"ran on 24 rows for 12 samples"),
        ({}, {"shares": {"nowhere": 1}}, "shares"),
    ],
)
def test_refuses_what_it_cannot_read(module, settings, message, tmp_path):
    trainer = quiet_trainer(tmp_path, callbacks=[RAndBReweighting(**settings)], max_epochs=1)
    with pytest.raises(InputError, match=message):
        trainer.fit(toy_module(**module), datamodule=toy_data())


def test_refuses_periods_without_a_gradient():
    with pytest.raises(InputError, match="every=51 must be at most period=50"):
        RAndBReweighting(every=51)


def test_refuses_other_layouts(tmp_path):
    module = toy_module()
    module.objective = CausalLanguageModeling(layout="packed")
    trainer = quiet_trainer(tmp_path, callbacks=[RAndBReweighting()], max_epochs=1)
    with pytest.raises(InputError, match="layout='packed': set it to 'padded'"):
        trainer.fit(module, datamodule=toy_data())


def test_a_gradient_that_is_not_finite_changes_no_weight(tmp_path):
    method, data = RAndBReweighting(period=4), toy_data()
    bad = samples("noise", 120, 2)
    bad.tensors[0][:] = torch.nan
    data.train_sets["noise"] = bad
    module = toy_module(max_skipped_updates=100)
    trainer = quiet_trainer(tmp_path, callbacks=[method], max_epochs=2)
    trainer.fit(module, datamodule=data)
    assert method.skipped_updates == 2
    assert np.ptp(method.trajectory, axis=0).max() == 0
    assert tuple(method.domains) == DOMAINS


def test_mixed_precision_gives_the_weights_of_full_precision(tmp_path, monkeypatch):
    """The hooks run inside the trainer's autocast, and the sums stay in float32."""
    monkeypatch.setattr(toy, "DTYPE", torch.float32)
    found = []
    for precision in ("32-true", "bf16-mixed"):
        method = RAndBReweighting(period=6, every=1)
        trainer = quiet_trainer(tmp_path, callbacks=[method], max_epochs=1, precision=precision)
        trainer.fit(toy_module(), datamodule=toy_data())
        assert method._means.dtype == torch.float32
        found.append(method.weights)
    np.testing.assert_allclose(*found, atol=0.03)


def test_steps_that_are_read_do_not_follow_the_turns_of_domains(tmp_path):
    """24 domains in batches of 12 are drawn in every second batch, each half in its turn."""
    train = {f"d{n:02}": samples("twin", 20, n) for n in range(24)}
    data = MixtureDataModule(train, batch_size=12)
    method = RAndBReweighting(period=40)
    trainer = quiet_trainer(tmp_path, callbacks=[method], max_epochs=1)
    trainer.fit(toy_module(), datamodule=data)
    counted = method.signals[0][1]
    assert (counted > 0).all()
    assert counted.sum() == 20 * 12
    method.data.seed, method.period, method.every = 3, 7, 3
    read = [[method._reads(7 * period + place) for place in range(7)] for period in range(50)]
    assert all(2 <= sum(row) <= 3 for row in read)
    assert np.mean(read, axis=0)[:3] == pytest.approx(1 / 3, abs=0.2)


@pytest.mark.parametrize("other", [{"sketch": None}, {"head": "0"}])
def test_refuses_to_resume_with_other_gradients(other, tmp_path):
    path = tmp_path / "run.ckpt"
    for more in ({}, other):
        method = RAndBReweighting(**{"period": 3, "sketch": 1, **more})
        epochs = 1 + bool(more)
        trainer = quiet_trainer(tmp_path, callbacks=[method], max_epochs=epochs)
        if more:
            with pytest.raises(InputError, match=r"head 2 \(17 numbers\), and this run"):
                trainer.fit(toy_module(), datamodule=toy_data(), ckpt_path=path)
        else:
            trainer.fit(toy_module(), datamodule=toy_data())
            trainer.save_checkpoint(path)
