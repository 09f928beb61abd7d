"""ODM against a transcription of both of its rules, from the batches of real runs."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import quiet_trainer
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Callback
from torch.nn.functional import cross_entropy
from toy import DOMAINS, ChangedLosses, Losses, samples, toy_data, toy_module

from tandem_pl.callbacks import ODMReweighting
from tandem_pl.callbacks.methods.odm import exploration, next_reward, odm_weights
from tandem_pl.callbacks.methods.table import METHODS, Length
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.errors import InputError


class Bandit:
    """Algorithm 1 of the paper, and what the authors' code does instead, domain by domain."""

    def __init__(self, names, rule) -> None:
        self.names, self.rule = names, rule
        self.reward = dict.fromkeys(names, 0.0)
        self.pi = dict.fromkeys(names, 1 / len(names))
        self.eps = 1 / len(names)

    def step(self, t, losses) -> dict[str, float]:
        """`losses` has the domains that were drawn."""
        count = len(self.names)
        for name, loss in losses.items():
            gain = loss / self.pi[name] if self.rule == "paper" else math.exp(loss)
            self.reward[name] = 0.9 * self.reward[name] + 0.1 * gain
        last, self.eps = self.eps, min(1 / count, math.sqrt(math.log(count) / (count * t)))
        for name in self.names:
            if self.rule == "paper":
                total = sum(math.exp(last * other) for other in self.reward.values())
                share = math.exp(last * self.reward[name]) / total
            else:
                share = self.reward[name] / sum(self.reward.values())
            self.pi[name] = (1 - count * self.eps) * share + self.eps
        return dict(self.pi)


seen = st.dictionaries(st.integers(0, 3), st.floats(0.01, 12), min_size=1)


@given(st.lists(seen, min_size=1, max_size=6), st.sampled_from(["paper", "official"]))
def test_rules_are_the_transcribed_ones(history, rule) -> None:
    bandit = Bandit(range(4), rule)
    reward, weights, last = np.zeros(4), np.full(4, 0.25), 0.25
    for t, losses in enumerate(history, start=1):
        expected = bandit.step(t, losses)
        array = np.array([losses.get(m, math.nan) for m in range(4)])
        reward = next_reward(reward, array, weights, 0.9, rule)
        now = exploration(4, t)
        weights, last = odm_weights(reward, last, now, rule), now
        np.testing.assert_allclose(weights, list(expected.values()), rtol=1e-9)
        np.testing.assert_allclose(reward, list(bandit.reward.values()), rtol=1e-12)


def test_first_step_and_limits() -> None:
    assert exploration(3, 1) == 1 / 3  # all is exploration: uniform, whatever the rewards are
    np.testing.assert_allclose(odm_weights(np.array([5.0, 1, 0]), 1 / 3, 1 / 3), [1 / 3] * 3)
    assert odm_weights(np.zeros(2), 0.5, 0.1).tolist() == [0.5, 0.5]
    far = exploration(3, 10**12)
    np.testing.assert_allclose(
        odm_weights(np.array([2.0, 1, 1]), far, far), [0.5, 0.25, 0.25], 1e-5
    )
    paper = odm_weights(np.array([9.0, 1, 1]), far, far, "paper")
    np.testing.assert_allclose(paper, [1 / 3] * 3, 1e-4)
    assert odm_weights(np.array([1e4, 1.0]), 1.0, 0.1, "paper").tolist() == [0.9, 0.1]


def means(batches) -> dict[int, float]:
    domains, losses = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return {m: losses[domains == m].mean() for m in range(3) if (domains == m).any()}


def run(folder, method, losses, steps, module=None, **data):
    trainer = quiet_trainer(folder, max_steps=steps, max_epochs=-1, callbacks=[losses, method])
    trainer.fit(module or toy_module(), datamodule=toy_data(target=False, **data))
    return method


@pytest.mark.parametrize("rule", ["official", "paper"])
@pytest.mark.parametrize("period", [1, 4])
def test_a_run_follows_the_rule(rule, period, tmp_path) -> None:
    """Also where a batch leaves a domain out: 2 samples of 3 domains."""
    losses = Losses()
    method = run(tmp_path, ODMReweighting(period, rule), losses, 12, batch_size=2)
    bandit = Bandit(range(3), rule)
    for number, start in enumerate(range(0, 12, period), start=1):
        batches = losses.batches[start : start + period]
        if period == 1:
            assert len(means(batches)) < 3
        expected = bandit.step(start + period, means(batches))
        np.testing.assert_allclose(method.trajectory[number], list(expected.values()), rtol=1e-9)
    assert method.steps == list(range(0, 13, period))


def test_a_domain_never_drawn_gets_the_exploration_only(tmp_path) -> None:
    weights = dict(zip(DOMAINS, [0.5, 0.5, 0.0], strict=True))
    method = run(tmp_path, ODMReweighting(20), Losses(), 20, weights=weights)
    assert method.reward[2] == 0.0
    assert method.weights[2] == pytest.approx(math.sqrt(math.log(3) / 60), rel=1e-9)


def test_the_weights_wait_for_the_warm_up(tmp_path) -> None:
    weights = dict(zip(DOMAINS, [0.6, 0.2, 0.2], strict=True))
    losses = Losses()
    method = run(tmp_path, ODMReweighting(4, warmup_steps=8), losses, 12, weights=weights)
    for row in method.trajectory[:3]:
        assert row.tolist() == [0.6, 0.2, 0.2]
    bandit = Bandit(range(3), "official")
    expected = bandit.step(12, means(losses.batches[8:]))
    np.testing.assert_allclose(method.weights, list(expected.values()), rtol=1e-9)


def test_a_loss_that_is_not_finite_leaves_all_alone(tmp_path) -> None:
    def change(number, losses) -> None:
        if number == 6:
            losses[0] = math.nan  # of "twin"

    method = ODMReweighting(4)
    with pytest.warns(UserWarning, match=r"training loss is not finite, .*\(domains: twin; 1"):
        run(tmp_path, method, ChangedLosses(change), 12)
    first, second, third = method.trajectory[1:]
    assert first.tolist() == second.tolist() != third.tolist()
    assert method.skipped_updates == 1
    assert method.signal_steps == [4, 12]


def test_a_reward_that_is_not_finite_leaves_all_alone(tmp_path) -> None:
    """exp(1000) is infinite, though the loss is not."""

    def change(number, losses) -> None:
        if 5 <= number <= 8:
            losses.fill_(1000.0)

    method = ODMReweighting(4)
    with pytest.warns(UserWarning, match="a reward, the exponential of a loss, is not finite"):
        run(tmp_path, method, ChangedLosses(change), 12)
    first, second, third = method.trajectory[1:]
    assert first.tolist() == second.tolist() != third.tolist()
    assert np.isfinite(method.reward).all()
    assert method.skipped_updates == 1


# ---- validation losses as reward ----


def held_out(*names):
    """Target data of these domains, and of one that is no training domain; 2 samples a batch."""
    sets = {name: samples(name, 30 + seed, 50 + seed) for seed, name in enumerate(names)}
    train = {name: samples(name, 120, seed) for seed, name in enumerate(DOMAINS)}
    return MixtureDataModule(train, {"extra": samples("t", 9, 4), **sets}, batch_size=2)


class Validation(Callback):
    """Each domain's mean loss over all of its target data, after each batch."""

    def __init__(self) -> None:
        self.after = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        with torch.no_grad():
            losses = {
                name: cross_entropy(pl_module.network(rows.tensors[0]), rows.tensors[1]).item()
                for name, rows in trainer.datamodule.target_sets.items()
            }
        self.after.append({m: losses[name] for m, name in enumerate(DOMAINS)})


def validated(folder, rule="official", steps=12, seen=(), data=None, **options):
    method = ODMReweighting(4, rule, reward="validation", evaluation_samples=None, warmup_steps=4)
    trainer = quiet_trainer(folder, max_steps=steps, max_epochs=-1, callbacks=[method, *seen])
    data = data or held_out("noise", "twin", "other")
    trainer.fit(toy_module(), datamodule=data, **options)
    return method, trainer


class FullInformation(Bandit):
    """A bandit that sees the losses of all arms, which then need no division by their chance."""

    def step(self, t, losses):
        self.pi = dict.fromkeys(self.names, 1.0)
        return super().step(t, losses)


@pytest.mark.parametrize("rule", ["official", "paper"])
def test_the_reward_may_be_the_validation_loss(rule, tmp_path) -> None:
    """By name, after each period; domains that a period did not draw count too."""
    seen = Validation()
    method, _ = validated(tmp_path, rule, seen=[seen])
    bandit = FullInformation(range(3), rule)
    assert method.trajectory[1].tolist() == [1 / 3] * 3  # of the warm-up
    for number in (2, 3):
        expected = bandit.step(4 * number, seen.after[4 * number - 1])
        np.testing.assert_allclose(method.trajectory[number], list(expected.values()), rtol=1e-9)
    np.testing.assert_allclose(method.reward, list(bandit.reward.values()), rtol=1e-9)
    assert method.settings()["reward"] == "validation"
    assert method.mixture.about["settings"]["reward"] == "validation"
    logged = method.metrics["target/evaluation/noise"]
    assert logged == pytest.approx(seen.after[-1][DOMAINS.index("noise")])


def test_training_losses_are_the_default(tmp_path) -> None:
    plain = run(tmp_path / "a", ODMReweighting(4), Losses(), 12)
    given_ = run(tmp_path / "b", ODMReweighting(4, reward="train"), Losses(), 12)
    assert np.array_equal(plain.trajectory, given_.trajectory)
    assert plain.settings()["reward"] == "train"


def test_a_run_on_validation_losses_resumes_exactly(tmp_path) -> None:
    whole, _ = validated(tmp_path)
    _, trainer = validated(tmp_path, steps=7)
    trainer.save_checkpoint(tmp_path / "7.ckpt")
    again, _ = validated(tmp_path, ckpt_path=tmp_path / "7.ckpt")
    assert np.array_equal(whole.trajectory, again.trajectory)
    assert np.array_equal(whole.reward, again.reward)


def test_a_validation_loss_that_is_not_finite_leaves_all_alone(tmp_path) -> None:
    data = held_out(*DOMAINS)
    data.target_sets["other"].tensors[0][0] = math.nan
    with pytest.warns(UserWarning, match=r"a validation loss is not finite, .*\(domains: other; 1"):
        method, _ = validated(tmp_path, data=data)
    assert np.array_equal(method.trajectory, np.full((4, 3), 1 / 3))
    assert method.skipped_updates == 2
    data = held_out(*DOMAINS)
    data.target_sets["extra"].tensors[0][0] = math.nan  # which does not count
    method, _ = validated(tmp_path, data=data)
    assert method.skipped_updates == 0


def test_validation_losses_that_there_are_not_are_said_early(tmp_path) -> None:
    with pytest.raises(InputError, match="there is none: give the datamodule target="):
        validated(tmp_path, data=toy_data(False))
    message = "reward='validation' needs target data of every training domain, and 'other' has none"
    with pytest.raises(InputError, match=message):
        validated(tmp_path, data=held_out("twin", "noise"))
    assert not list(tmp_path.iterdir())


def test_an_evaluation_a_period_is_counted_as_work() -> None:
    work = METHODS["odm"].work
    settings = {"period": 10, "evaluation_samples": 24, "reward": "train"}
    assert work(settings, Length(5, 200, 8)) == 200
    settings["reward"] = "validation"  # 20 evaluations of 24 x 5 / 8 forwards, a third of a step
    assert work(settings, Length(5, 200, 8)) == pytest.approx(200 + 20 * 15 / 3)


def test_losses_of_a_checkpoint_go_where_the_next_ones_are() -> None:
    """A checkpoint is loaded to the host; torch does not stack tensors of two devices."""
    method = ODMReweighting(4)
    start = {"domains": DOMAINS, "trajectory": torch.full((1, 3), 1 / 3), "steps": [0]}
    method.load_state_dict({**start, "rows": torch.zeros(3, 2, 12)})  # three batches of a period
    method.on_train_start(None, SimpleNamespace(device=torch.device("meta")))
    assert [rows.device.type for rows in method._rows] == ["meta"] * 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"period": 0}, "period=0 must be at least 1"),
        ({"rule": "exp3"}, "rule='exp3' must be one of"),
        ({"smoothing": 1.0}, "smoothing=1.0 must be at least 0 and below 1"),
        ({"smoothing": -0.1}, "smoothing=-0.1 must be at least 0 and below 1"),
        ({"smoothing": math.nan}, "smoothing=nan must be"),
        ({"reward": "test"}, "reward='test' must be one of 'train', 'validation'"),
        ({"evaluation_samples": 0}, "evaluation_samples=0 must be at least 1"),
        ({"warmup_steps": -1}, "warmup_steps=-1 must be"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message) -> None:
    with pytest.raises(InputError, match=message):
        ODMReweighting(**settings)
