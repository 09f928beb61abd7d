"""Aioli's mixing matrix and weights against the equations written out."""

import math

import numpy as np
import pytest
import torch
from helpers import Recorder, parameters_of, predict_last, quiet_trainer, random_rows, small_network
from lightning.pytorch import Callback
from module_helpers import WIDTH, adamw, falling, fit, make_data, poisoned, with_marker

from tandem_pl import InputError, MixtureModule
from tandem_pl.callbacks import AioliReweighting
from tandem_pl.callbacks.methods.aioli import (
    aioli_weights,
    draw_visits,
    mixing_matrix,
    normalise,
    smoothed_one_hot,
)


def by_hand(order, losses, counts):
    """B and W summed visit by visit, then W a_i = b_i for every target i."""
    domains, targets = len(counts[0]), len(losses[0])
    rounds = len(order) // domains
    gains, shares = np.zeros((targets, domains)), np.zeros((domains, domains))
    for n, domain in enumerate(order):
        for i in range(targets):
            gains[i, domain] += (losses[n][i] - losses[n + 1][i]) / rounds
        for j in range(domains):
            shares[domain, j] += counts[n][j] / sum(counts[n]) / rounds
    return np.stack([np.linalg.solve(shares, row) for row in gains])


def weights_by_hand(before, matrix, rate, ema=None, previous=None):
    """The official code's steps 3 and 4; gives p and the running mean."""
    matrix = np.array(matrix)
    if matrix.min() < 0:
        matrix = matrix - matrix.min()
    matrix = matrix / matrix.sum()
    if ema is not None and previous is not None:
        matrix = (1 - ema) * matrix + ema * previous
    prefactor = before if ema is None else np.ones(len(before))
    grown = [
        p * math.exp(rate * sum(column)) for p, column in zip(prefactor, matrix.T, strict=True)
    ]
    return np.array(grown) / sum(grown), matrix


def build(objective=predict_last, **data):
    target = {"t": random_rows(30, WIDTH, 7), "s": random_rows(11, WIDTH, 8)}
    module = MixtureModule(small_network(WIDTH), objective, adamw, falling)
    return module, make_data(**{"target": target, **data})


def test_the_matrix_is_the_linear_system_with_the_drawn_shares():
    generator = np.random.default_rng(1)
    for domains, targets, rounds in ((2, 2, 3), (4, 1, 2), (3, 5, 1)):
        order = draw_visits(domains, rounds, 0, 0)
        losses = generator.uniform(1, 4, (len(order) + 1, targets))
        counts = generator.integers(1, 4, (len(order), domains))
        counts[np.arange(len(order)), order] += 5
        np.testing.assert_allclose(
            mixing_matrix(order, losses, counts), by_hand(order, losses, counts), rtol=1e-9
        )


def test_a_linear_law_is_found_again():
    """Losses that fall by A w in a visit, with uneven draws: A comes out."""
    generator = np.random.default_rng(2)
    law, order = generator.uniform(-0.1, 0.5, (2, 3)), draw_visits(3, 4, 1, 0)
    counts = np.array([[2, 2, 2] + 6 * np.eye(3, dtype=int)[m] for m in order])
    counts[0] = [1, 3, 2] + 6 * np.eye(3, dtype=int)[order[0]]
    falls = [law @ (count / count.sum()) for count in counts]
    losses = 9.0 - np.concatenate([np.zeros((1, 2)), np.cumsum(falls, axis=0)])
    np.testing.assert_allclose(mixing_matrix(order, losses, counts), law, atol=1e-12)


def test_a_domain_alone_needs_no_solving():
    losses = np.array([[3.0], [2.5], [2.4], [2.0]])
    matrix = mixing_matrix([2, 0, 1], losses, np.array([[0, 0, 8], [8, 0, 0], [0, 8, 0]]))
    np.testing.assert_allclose(matrix, [[0.1, 0.4, 0.5]])


def test_draws_that_cannot_tell_domains_apart_give_equal_entries():
    matrix = mixing_matrix([0, 1], np.array([[3.0], [2.0], [1.0]]), np.full((2, 2), 4))
    np.testing.assert_allclose(matrix, [[1.0, 1.0]])


@pytest.mark.parametrize("matrix", [[[-1.0, 1.0, 2.0], [0.0, 0.5, 1.0]], [[0.1, 0.2], [0.0, 0.3]]])
def test_weights_are_the_formula_with_and_without_a_running_mean(matrix):
    matrix = np.array(matrix)
    before = np.arange(1, matrix.shape[1] + 1) / np.arange(1, matrix.shape[1] + 1).sum()
    plain, _ = weights_by_hand(before, matrix, 0.7)
    np.testing.assert_allclose(aioli_weights(before, normalise(matrix), 0.7), plain, rtol=1e-12)
    first, mean = weights_by_hand(before, matrix, 0.7, ema=0.5)
    smooth = aioli_weights(before, normalise(matrix), 0.7, smoothed=True)
    np.testing.assert_allclose(smooth, first, rtol=1e-12)
    assert smooth.max() / smooth.min() <= math.exp(0.7)
    np.testing.assert_allclose(normalise(matrix), mean, rtol=1e-12)


def test_a_matrix_that_says_nothing_keeps_the_weights():
    for matrix in (np.zeros((1, 2)), np.full((2, 2), -3.0)):
        weights = aioli_weights(np.array([0.3, 0.7]), normalise(matrix), 1.0)
        np.testing.assert_allclose(weights, [0.3, 0.7], rtol=1e-12)


def test_visits_are_permutations_that_change_with_the_round():
    orders = [draw_visits(5, 2, 3, number) for number in range(20)]
    for order in orders:
        assert sorted(order[:5]) == sorted(order[5:]) == list(range(5))
    assert orders == [draw_visits(5, 2, 3, number) for number in range(20)]
    assert len({tuple(order) for order in orders}) > 15
    assert draw_visits(5, 2, 4, 0) != orders[0]


def test_smoothed_one_hot_sums_to_one():
    for size, domain, share in ((1, 0, 0.5), (2, 1, 0.625), (7, 3, 1.0)):
        assert smoothed_one_hot(size, domain, share).sum() == pytest.approx(1.0)


class Evaluate(Callback):
    """Target losses before and after each batch, by the objective itself."""

    def __init__(self, data):
        self.sets = [samples.rows for samples in data.target_sets.values()]
        self.before, self.after = [], []

    def losses(self, module):
        with torch.no_grad():
            return [predict_last(module.network, rows).mean().item() for rows in self.sets]

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.before.append(self.losses(pl_module))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.after.append(self.losses(pl_module))


@pytest.mark.parametrize("ema", [None, 0.3])
@pytest.mark.parametrize("batch_size", [8, 5])  # 5 x 2 steps do not realise 0.625
def test_a_run_is_the_formula(ema, batch_size, tmp_path):
    module, data = build(batch_size=batch_size)
    method = AioliReweighting(
        11, 0.7, one_hot=0.625, lp_rounds=2, lp_steps=2, ema=ema, evaluation_samples=None
    )
    seen, recorder = Evaluate(data), Recorder()
    trainer = fit(tmp_path, module, data, seen, recorder, method, max_epochs=3)
    assert trainer.global_step == 33
    weights, mean = np.array([0.5, 0.5]), None
    for number in range(3):
        order, start = draw_visits(2, 2, data.seed, number), 11 * number
        batches = recorder.batches[start : start + 11]
        assert [batch.phase for batch in batches] == ["train"] * 3 + ["trial"] * 8
        places = [start + 3 + 2 * n for n in range(4)]
        losses = [seen.before[place] for place in places] + [seen.after[start + 10]]
        counts = [
            np.bincount(np.concatenate([recorder.batches[p + k].domains for k in (0, 1)]))
            for p in places
        ]
        for domain, count in zip(order, counts, strict=True):
            assert count.argmax() == domain
        matrix = by_hand(order, losses, counts)
        weights, mean = weights_by_hand(weights, matrix, 0.7, ema, mean)
        np.testing.assert_allclose(method.trajectory[number + 1], weights, rtol=1e-9)
        np.testing.assert_allclose(method.signals[number][0], mean.sum(axis=0), rtol=1e-9)


class SaveAt(Callback):
    def __init__(self, folder, steps):
        self.folder, self.steps = folder, steps

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch.step in self.steps:
            trainer.save_checkpoint(self.folder / f"{batch.step}.ckpt")


def test_resumes_exactly_from_inside_the_visits(tmp_path):
    def run(folder, *callbacks, ckpt_path=None):
        module, data = build(batch_size=5)
        method = AioliReweighting(6, 0.7, lp_rounds=1, lp_steps=2, ema=0.3, evaluation_samples=9)
        trainer = quiet_trainer(folder, callbacks=[method, *callbacks], max_epochs=3)
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
        return np.stack(method.trajectory), np.stack(method.signals), parameters_of(module.network)

    steps = (5, 7, 8, 10)
    whole = run(tmp_path, SaveAt(tmp_path, steps))
    for step in steps:
        path = tmp_path / f"{step}.ckpt"
        torch.load(path, weights_only=True)
        for mine, theirs in zip(run(tmp_path / "again", ckpt_path=path), whole, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_a_round_of_visits_alone_has_no_training_segment(tmp_path):
    module, data = build()
    recorder = Recorder()
    method = AioliReweighting(4, lp_rounds=1, lp_steps=2)
    fit(tmp_path, module, data, recorder, method, max_epochs=2)
    assert {batch.phase for batch in recorder.batches} == {"trial"}


def test_a_target_loss_that_is_not_finite_leaves_the_weights_alone(tmp_path):
    target = {"t": with_marker(random_rows(30, WIDTH, 7), 0)}
    method = AioliReweighting(5, lp_rounds=1, lp_steps=2, evaluation_samples=None)
    with pytest.warns(UserWarning, match=r"target loss is not finite, .*\(domains: t; 1 update "):
        fit(tmp_path, *build(poisoned, target=target), method, max_epochs=2)
    assert method.skipped_updates == 2
    np.testing.assert_array_equal(method.trajectory, np.full((3, 2), 0.5))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"update_steps": 31}, r"update_steps=31 is shorter .* 2 domains x lp_rounds=4 .* 32"),
        ({"one_hot": 0.5}, r"one_hot=0.5 must be above 1/2"),
        ({"ema": 1.0}, "ema=1.0"),
        ({"one_hot": 1.5}, "one_hot=1.5"),
    ],
)
def test_refuses_settings_that_cannot_work(settings, message, tmp_path):
    with pytest.raises(InputError, match=message):
        fit(tmp_path, *build(), AioliReweighting(**settings), max_epochs=1)
    assert not list(tmp_path.iterdir())
