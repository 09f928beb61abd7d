"""DGA against its equations in NumPy and autograd on the whole."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import Recorder, quiet_trainer
from torch.nn import functional as F
from toy import flat_gradient, toy_data, toy_network, with_parameters

from tandem_pl import InputError, MixtureModule
from tandem_pl.callbacks import DGAReweighting
from tandem_pl.callbacks.methods.dga import dga_step
from tandem_pl.objectives import Classification


def sgd(parameters):
    return torch.optim.SGD(parameters, 0.1)


def run(tmp_path, method, epochs=3, data=None, **options):
    module, record = MixtureModule(toy_network(), Classification(), sgd, **options), Recorder()
    trainer = quiet_trainer(tmp_path, callbacks=[method, record], max_epochs=epochs)
    trainer.fit(module, datamodule=data or toy_data())
    return module, record


def by_hand(shares, smoothed, scores, eta, ema, basis):
    grown = [s * math.exp(eta * a) for s, a in zip(shares, scores, strict=True)]
    shares = [g / sum(grown) for g in grown]
    weights = [sum(s * row[m] for s, row in zip(shares, basis, strict=True))
               for m in range(len(smoothed))]  # fmt: skip
    return shares, [ema * old + (1 - ema) * new for old, new in zip(smoothed, weights, strict=True)]


def test_the_update_is_the_papers() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        shares, smoothed = generator.dirichlet(np.ones(4)), generator.dirichlet(np.ones(4))
        products, eta, ema = (
            generator.normal(size=4),
            generator.uniform(0.1, 3),
            generator.uniform(),
        )
        found = dga_step(shares, smoothed, products, eta, ema)
        expected = by_hand(shares, smoothed, products, eta, ema, np.eye(4))
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-12)
        basis, three = generator.dirichlet(np.ones(4), size=3), generator.dirichlet(np.ones(3))
        scores = [float(np.dot(row, products)) for row in basis]
        found = dga_step(three, smoothed, products, eta, ema, basis)
        expected = by_hand(three, smoothed, scores, eta, ema, basis)
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-12)


def test_limits_of_the_update() -> None:
    alpha, products = np.array([0.5, 0.3, 0.2]), np.array([1.0, 2.0, 3.0])
    shares, weights = dga_step(alpha, alpha, products, 1.0, 0.0)
    np.testing.assert_allclose(shares, weights, rtol=1e-12)
    np.testing.assert_allclose(dga_step(alpha, alpha, 0 * products, 1.0, 0.5)[1], alpha, rtol=1e-12)
    np.testing.assert_allclose(  # exp would overflow
        dga_step(alpha, alpha, 1e5 * products, 1.0, 0.0)[1], [0, 0, 1], atol=1e-12
    )


@pytest.mark.parametrize("unit", [1.0, 1e6, 1e-6])
def test_the_scale_free_step_is_that_of_the_products(unit):
    """shares exp(c a / sqrt(S (1 + n0 / t))) / Z, whatever the gradients' unit."""
    method = DGAReweighting(ema=0.0)
    method.domains = method.tags = ("a", "b", "c")
    method.reset_state()
    method.weights = method.shares = shares = np.full(3, 1 / 3)
    method.record.start(shares)
    total = 0.0
    for t, products in enumerate(np.random.default_rng(0).normal(size=(5, 3)), 1):
        method._products = [np.stack([unit * products, np.ones(3)])]
        method.weights, _ = method.update(SimpleNamespace(global_step=t), None)
        total += ((products - products.mean()) ** 2).mean()
        shares = shares * np.exp(2.0 * products / np.sqrt(total * (1 + 100 / t)))
        shares = shares / shares.sum()
        np.testing.assert_allclose(method.weights, shares, rtol=1e-9)


def products_of(record, places):
    """Mean over the measure batches that have a domain of <g_m, g_target>."""
    sums, counts = np.zeros(3), np.zeros(3)
    for place in places:
        network, batch = with_parameters(record.before[place][0]), record.batches[place]

        def losses(pair, network=network):
            return F.cross_entropy(network(pair[0]), pair[1], reduction="none")

        target = flat_gradient(losses(batch.target_samples).mean(), network)
        for m in range(3):
            rows = batch.domains == m
            if rows.any():
                gradient = flat_gradient(losses(batch.samples)[rows].mean(), network)
                sums[m] += gradient @ target
                counts[m] += 1
    return sums / counts


@pytest.mark.parametrize("basis", [None, [[2, 1, 1], [0, 1, 1]]])
@pytest.mark.parametrize(("batch", "micro"), [(12, 5), (2, None)])
def test_every_update_is_the_papers(basis, batch, micro, tmp_path) -> None:
    method = DGAReweighting(3, 2, learning_rate=2.0, ema=0.4, distributions=basis)
    _, record = run(tmp_path, method, data=toy_data(batch_size=batch), micro_batch_size=micro)
    rows = np.eye(3) if basis is None else np.array([[0.5, 0.25, 0.25], [0.0, 0.5, 0.5]])
    shares = np.full(len(rows), 1 / len(rows))
    weights = shares @ rows
    np.testing.assert_allclose(method.trajectory[0], weights, rtol=1e-12)
    measured = [i for i, got in enumerate(record.batches) if got.phase == "measure"]
    assert measured == [3, 4, 8, 9, 13, 14]
    for number in range(3):
        products = products_of(record, measured[2 * number : 2 * number + 2])
        np.testing.assert_allclose(method.signals[number][0], products, rtol=1e-9, atol=1e-12)
        shares, weights = by_hand(shares, weights, rows @ products, 2.0, 0.4, rows)
        np.testing.assert_allclose(method.trajectory[number + 1], weights, rtol=1e-9)
    assert method.steps == [0, 3, 6, 9]


def test_measuring_moves_nothing_and_training_follows_the_weights(tmp_path) -> None:
    method = DGAReweighting(10, 3, learning_rate=20.0, ema=0.0)
    module, record = run(tmp_path, method)
    drawn = np.zeros(3)
    for place, batch in enumerate(record.batches):
        if batch.phase == "measure":
            assert torch.equal(record.before[place][0], record.after[place][0])
        elif 13 <= place < 23:
            drawn += np.bincount(batch.domains, minlength=3)
    assert np.abs(method.trajectory[1] - 1 / 3).max() > 0.1
    np.testing.assert_allclose(drawn / 120, method.trajectory[1], atol=2 / 120)
    assert module.network.training


def test_the_domains_as_their_own_distributions(tmp_path) -> None:
    plain, same = (DGAReweighting(3, 2, distributions=rows) for rows in (None, np.eye(3).tolist()))
    run(tmp_path, plain)
    run(tmp_path, same)
    np.testing.assert_allclose(plain.trajectory, same.trajectory, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"measure_batches": 2}, r"measure_batches=2 hold 2 samples, fewer than the 3 domains"),
        (
            {"distributions": [[1, 0, 0], [1, 1]]},
            r"distributions\[1\] has 2 numbers and there",
        ),
        ({"distributions": [[1, -1, 0]]}, r"distributions\[0\]=\[1, -1, 0\] must be finite, 0 or"),
        ({"distributions": [[0, 0, 0]]}, r"distributions\[0\]=\[0, 0, 0\] must be"),
        ({"distributions": []}, r"distributions is empty"),
    ],
)
def test_refuses_what_does_not_fit_the_data(settings, message, tmp_path) -> None:
    with pytest.raises(InputError, match=message):
        run(tmp_path, DGAReweighting(**settings), data=toy_data(batch_size=1))


def test_a_domain_that_was_not_measured_moves_with_the_others() -> None:
    method = DGAReweighting(learning_rate=2.0, ema=0.0)
    method.domains = ("a", "b", "c")
    method.weights = method.shares = np.full(3, 1 / 3)
    method._products = [
        np.array([[1.0, 0.0, 0.0], [4, 0, 0]]),
        np.array([[2.0, 0.5, 0.0], [4, 4, 0]]),
    ]
    weights, _ = method.update(SimpleNamespace(global_step=7), None)
    grown = np.exp(2.0 * np.array([1.5, 0.5, 1.0]))
    np.testing.assert_allclose(weights, grown / grown.sum(), rtol=1e-12)


def test_an_ema_of_one_is_refused() -> None:
    with pytest.raises(InputError, match=r"ema=1\.0 must be at least 0 and below 1"):
        DGAReweighting(ema=1.0)


def test_gradients_that_are_not_finite_leave_the_weights(tmp_path) -> None:
    method, data = DGAReweighting(2, 1), toy_data()
    data.target_sets["t"].tensors[0][5] = math.nan
    with pytest.warns(
        UserWarning,
        match="product of gradients is not finite, .*: twin, other, noise; 1 update ",
    ):
        _, record = run(tmp_path, method, epochs=5, data=data)
    bad = [bool(b.target_samples[0].isnan().any()) for b in record.batches if b.phase == "measure"]
    assert sum(bad) == method.skipped_updates > 0
    for stays, old, new in zip(bad, method.trajectory[:-1], method.trajectory[1:], strict=True):
        assert np.array_equal(old, new) == stays
    assert len(method.signals) == 5 - sum(bad)
