"""DynamixSFT's weights against a transcription, its virtual steps against real ones."""

import copy
import math

import numpy as np
import pytest
import torch
from helpers import Recorder, parameters_of, quiet_trainer
from toy import DOMAINS, toy_data, toy_module

from tandem_pl import InputError
from tandem_pl.callbacks import DynamixReweighting, TiKMiXReweighting
from tandem_pl.callbacks.methods.dynamix import dynamix_weights, look_ahead_rewards


def rewards_by_hand(before, after):
    falls = [(b - a) / (b + 1e-8) for b, a in zip(before, after, strict=True)]
    return [(fall - min(falls)) / (max(falls) - min(falls)) for fall in falls]


def weights_by_hand(prior, rewards, gamma, beta):
    powers = [p * math.exp(beta * q) for p, q in zip(prior, rewards, strict=True)]
    return [(1 - gamma) * x / sum(powers) + gamma / len(prior) for x in powers]


@pytest.mark.parametrize("seed", range(4))
def test_rewards_and_weights_are_the_papers(seed):
    generator = np.random.default_rng(seed)
    before = generator.uniform(1, 4, 6)
    after = before - generator.normal(0.1, 0.1, 6)
    rewards = look_ahead_rewards(before, after)
    np.testing.assert_allclose(rewards, rewards_by_hand(before, after), rtol=1e-12)
    prior = generator.dirichlet(np.ones(6))
    expected = weights_by_hand(prior, rewards, 0.3, 4.0)
    np.testing.assert_allclose(dynamix_weights(prior, rewards, 0.3, 4.0), expected, rtol=1e-12)


def test_a_domain_without_a_prior_does_not_decide_the_scale():
    rewards = np.array([1.0, 0.1, 0.1])
    weights = dynamix_weights(np.array([0.0, 0.5, 0.5]), rewards, 0.3, 900.0)
    np.testing.assert_allclose(weights, [0.1, 0.45, 0.45])


def test_no_reward_gives_the_prior_and_exploration():
    prior = np.array([0.7, 0.2, 0.1])
    np.testing.assert_allclose(dynamix_weights(prior, np.zeros(3), 0.0, 4.0), prior)
    assert look_ahead_rewards(np.ones(3), np.ones(3)).tolist() == [0, 0, 0]
    assert np.isnan(look_ahead_rewards(np.array([1, 2, np.nan]), np.array([0, 2, np.nan]))[2])


class Steps(Recorder):
    """Network and optimizer before each measure batch, and what the batch added."""

    def __init__(self, method):
        super().__init__()
        self.method, self.kept = method, []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        state = copy.deepcopy(trainer.optimizers[0].state_dict())
        self.start = copy.deepcopy(pl_module.network), state, self.method._sums.copy()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if batch.phase == "measure" and not batch.last:
            network, state, sums = self.start
            assert torch.equal(parameters_of(network), parameters_of(pl_module.network))
            now = trainer.optimizers[0].state_dict()
            for key, values in state["state"].items():
                for name, value in values.items():
                    assert torch.equal(value, now["state"][key][name])
            self.kept.append((batch, network, state, self.method._sums - sums, outputs))


@pytest.mark.parametrize("micro", [None, 3])
def test_a_virtual_step_is_the_optimizers_and_leaves_nothing(micro, tmp_path):
    method = DynamixReweighting(period=3, measure_batches=3)
    steps = Steps(method)
    module = toy_module(micro_batch_size=micro, gradient_clip_val=0.1)
    trainer = quiet_trainer(tmp_path, callbacks=[method, steps], max_epochs=2)
    trainer.fit(module, datamodule=toy_data())
    assert trainer.global_step == 6  # training batches; virtual steps do not count
    assert len(steps.kept) == 4
    for batch, network, state, sums, outputs in steps.kept:
        inputs, labels = batch.samples
        for m in range(3):
            rows = batch.domains == m
            twin = copy.deepcopy(network)
            optimizer = module.make_optimizer(twin.parameters())
            optimizer.load_state_dict(copy.deepcopy(state))
            before = module.objective(twin, (inputs[rows], labels[rows]))
            optimizer.zero_grad()
            before.mean().backward()
            torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.1)
            optimizer.step()
            after = module.objective(twin, (inputs[rows], labels[rows]))
            expected = [before.sum().item(), after.sum().item(), int(rows.sum())]
            np.testing.assert_allclose(sums[:, m], expected, rtol=1e-6)
            np.testing.assert_allclose(outputs["losses"][rows], before.detach(), rtol=1e-6)


def test_the_weights_are_around_the_prior(tmp_path):
    prior = {"twin": 0.5, "other": 0.4, "noise": 0.1}
    method = DynamixReweighting(period=3, smoothing=0.5, prior=prior)
    trainer = quiet_trainer(tmp_path, callbacks=[method], max_epochs=3)
    trainer.fit(toy_module(), datamodule=toy_data())
    p0 = np.array([prior[name] for name in DOMAINS])
    means = np.zeros(3)
    np.testing.assert_allclose(method.trajectory[0], 0.7 * p0 + 0.1)
    for number in range(3):
        reward, kept = method.signals[number]
        means = 0.5 * means + 0.5 * reward
        np.testing.assert_allclose(kept, means)
        expected = weights_by_hand(p0, means, 0.3, 4.0)
        np.testing.assert_allclose(method.trajectory[number + 1], expected)


@pytest.mark.parametrize(
    ("method", "state"),
    [
        (DynamixReweighting(period=2, measure_batches=2), "sums"),
        (TiKMiXReweighting(update_steps=2, measure_batches=2), "losses"),
    ],
)
def test_a_checkpoint_while_measuring_has_the_sums_of_all_ranks(
    method, state, tmp_path, monkeypatch
):
    """Checkpoints hold the first rank's state. Here two ranks have the same samples."""
    path = f"{type(method).__module__}.gather_sum"
    monkeypatch.setattr(path, lambda trainer, values: 2 * values)

    class Counts(Recorder):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            self.counts = [*vars(self).get("counts", []), method.state_dict()[state][-1].sum()]

    counts = Counts()
    trainer = quiet_trainer(tmp_path, callbacks=[method, counts], max_epochs=1)
    trainer.fit(toy_module(), datamodule=toy_data())
    assert counts.counts == [0, 0, 2 * 12, 0]


def test_refuses_fewer_samples_than_domains(tmp_path):
    trainer = quiet_trainer(tmp_path, callbacks=[DynamixReweighting(measure_batches=1)])
    with pytest.raises(InputError, match="2 samples, fewer than the 3 domains"):
        trainer.fit(toy_module(), datamodule=toy_data(batch_size=2))
