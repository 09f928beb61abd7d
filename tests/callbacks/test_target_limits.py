"""Targets that may not lose: the nearest mixture against another solver, and in runs."""

import numpy as np
import pytest
from helpers import quiet_trainer
from scipy.optimize import minimize
from toy import samples, toy_data, toy_module

from tandem_pl import InputError
from tandem_pl.callbacks import AioliReweighting, SkillItReweighting, TiKMiXReweighting
from tandem_pl.callbacks.measures.constrained import nearest_that_keeps
from tandem_pl.callbacks.target_limits import TargetLimits


def nearest_by_slsqp(point, gains, least):
    constraints = [
        {"type": "eq", "fun": lambda w: w.sum() - 1},
        {"type": "ineq", "fun": lambda w: gains @ w - least},
    ]
    result = minimize(
        lambda w: ((w - point) ** 2).sum(), point, method="SLSQP", constraints=constraints,
        bounds=[(0, 1)] * len(point), options={"maxiter": 1000, "ftol": 1e-14},
    )  # fmt: skip
    return result.x


@pytest.mark.parametrize("seed", range(12))
def test_it_is_the_nearest_mixture(seed):
    generator = np.random.default_rng(seed)
    targets, domains = 1 + seed % 3, 4 + seed % 5
    point, base = generator.dirichlet(np.full(domains, 0.7), 2)
    gains = generator.normal(size=(targets, domains)) * 10.0 ** (seed % 7 - 3) + seed
    least = gains @ base  # so `base` satisfies it
    found = nearest_that_keeps(point, gains, least)
    scale = np.ptp(gains, axis=1)
    assert (gains @ found - least >= -3e-6 * scale).all()
    assert found.min() >= 0
    assert found.sum() == pytest.approx(1, abs=1e-14)
    np.testing.assert_allclose(found, nearest_by_slsqp(point, gains / scale[:, None],
                               least / scale), atol=2e-4)  # fmt: skip


def test_weights_that_keep_it_do_not_change():
    point = np.array([0.5, 0.5])
    assert nearest_that_keeps(point, np.array([[1.0, 0.0]]), np.array([0.4])) is point


def test_there_may_be_none():
    opposite = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert nearest_that_keeps(np.array([0.5, 0.5]), opposite, np.array([0.6, 0.6])) is None


def test_a_thousand_domains():
    generator = np.random.default_rng(0)
    point, base = generator.dirichlet(np.ones(1000), 2)
    gains = generator.normal(size=(5, 1000))
    found = nearest_that_keeps(point, gains, gains @ base)
    assert (gains @ found - gains @ base > -1e-4).all()


def test_which_targets_are_bound():
    limits = TargetLimits({"b": 1.5, "a": "uniform run", "c": 1.5})
    limits.prepare(["a", "b", "c"])
    gains, now = np.array([[1.0, 0.0], [2.0, 6.0], [3.0, 4.0]]), np.array([0.25, 0.75])
    rows, least = zip(*limits.conditions(now, gains, np.array([9.0, 2.0, 1.0])), strict=True)
    assert [row.tolist() for row in rows] == [[2, 6], [1, 0]]  # "c" is below its number
    assert least == (5.0, 0.5)
    assert TargetLimits(None).conditions(now, gains, np.ones(3)) == []


@pytest.mark.parametrize("setting", [["t"], "t", 1.0])
def test_refuses_what_is_no_map(setting):
    with pytest.raises(InputError, match="must be a map of target domain to a loss"):
        TargetLimits(setting)


def test_a_loss_that_is_not_known_binds_its_target():
    limits = TargetLimits({"a": 1.5})
    limits.prepare(["a"])
    assert len(limits.conditions(np.array([0.5, 0.5]), np.eye(2), np.array([np.nan]))) == 1


def test_a_target_without_measured_samples_stays_bound(tmp_path):
    """Few of its samples are drawn; until the first, weights do not change."""
    method = TiKMiXReweighting(3, 1, ema=0.0, no_worse_than={"rare": 1e-6})
    kept, inner = [], method._limits.keep

    def keep(trainer, proposed, now, gains, losses):
        kept.append((gains[1].copy(), losses[1]))
        return inner(trainer, proposed, now, gains, losses)

    method._limits.keep = keep
    data = toy_data(target_weights={"t": 0.95, "rare": 0.05})
    data.target_sets["rare"] = samples("noise", 80, 9)
    trainer = quiet_trainer(tmp_path, callbacks=[method], max_epochs=12)
    trainer.fit(toy_module(), datamodule=data)
    unknown = [np.isnan(loss) for _, loss in kept]
    assert 0 < sum(unknown) < len(kept)
    assert all(np.abs(gains).max() > 0 for gains, _ in kept)
    first = 12 - len(kept)
    assert method.skipped_updates >= first
    assert (np.stack(method.trajectory)[: first + 1] == method.trajectory[0]).all()


def test_weights_stay_if_the_search_fails_and_they_keep_it(tmp_path, monkeypatch):
    def fails(point, gains, least):
        return point if (gains @ point >= least).all() else None

    monkeypatch.setattr("tandem_pl.callbacks.target_limits.nearest_that_keeps", fails)
    limits, now = TargetLimits({"a": 0.1, "b": 0.1}), np.array([0.5, 0.5])
    limits.prepare(["a", "b"])
    trainer = quiet_trainer(tmp_path)
    proposed = np.array([1.0, 0.0])
    assert limits.keep(trainer, proposed, now, np.eye(2), np.ones(2)) is now


@pytest.mark.parametrize("limit", [-1, float("nan"), "uniform", None, True, [1.0]])
def test_refuses_what_is_no_limit(limit):
    with pytest.raises(InputError, match=r"no_worse_than\['t'\]="):
        TargetLimits({"t": limit})


METHODS = {
    "tikmix": lambda **more: TiKMiXReweighting(5, 4, ema=0, **more),
    "aioli": lambda **more: AioliReweighting(12, 2.0, lp_rounds=1, lp_steps=4, **more),
    "skill_it": lambda **more: SkillItReweighting(
        5, 3.0, graph={"twin": {"t": 1.0, "n": 0.0}, "other": {"t": 0.5, "n": 0.0},
                       "noise": {"t": 0.0, "n": 0.05}}, **more,
    ),
}  # fmt: skip


def run(name, folder, **options):
    """Two targets: "t", which the method serves, and "n" of the domain "noise"."""
    method = METHODS[name](**options)
    data = toy_data()
    data.target_sets["n"] = samples("noise", 80, 9)
    trainer = quiet_trainer(folder, callbacks=[method], max_epochs=4)
    trainer.fit(toy_module(), datamodule=data)
    return method


@pytest.mark.parametrize("name", METHODS)
def test_runs_of_methods_keep_it(name, tmp_path):
    """What `keep` is given and returns, in a run, satisfies the condition for "n"."""
    method = METHODS[name](no_worse_than={"n": "uniform run", "t": 1e-3})
    kept, inner = [], method._limits.keep

    def keep(trainer, proposed, now, gains, losses):
        weights = inner(trainer, proposed, now, gains, losses)
        kept.append((proposed, now, gains, losses, weights))
        return weights

    method._limits.keep = keep
    data = toy_data(weights={"twin": 0.6, "other": 0.35, "noise": 0.05})
    data.target_sets["n"] = samples("noise", 80, 9)
    trainer = quiet_trainer(tmp_path, callbacks=[method], max_epochs=4)
    trainer.fit(toy_module(), datamodule=data)
    assert len(kept) == 4
    for (_, now, gains, losses, weights), after in zip(kept, method.trajectory[1:], strict=True):
        assert losses.shape == (2,)
        assert 0.3 < losses[1] < 2  # of coin tosses
        if weights is None:
            assert (after == now).all()
            continue
        assert (after == weights).all()
        scale = np.ptp(gains, axis=1) + 1e-12
        assert gains[1] @ (weights - 1 / 3) / scale[1] > -1e-5
        assert gains[0] @ (weights - now) / scale[0] > -1e-5
    assert any(weights is not proposed for proposed, *_, weights in kept)
    assert method.settings()["no_worse_than"] == {"n": "uniform run", "t": 1e-3}


def test_a_target_that_is_listed_keeps_its_domain(tmp_path):
    free = run("skill_it", tmp_path)
    bound = run("skill_it", tmp_path, no_worse_than={"n": "uniform run"})
    assert free.weights[2] < 0.2
    assert bound.weights[2] == pytest.approx(1 / 3, abs=1e-4)
    assert bound.weights[0] > bound.weights[1]


@pytest.mark.parametrize("name", METHODS)
def test_refuses_unknown_targets(name, tmp_path):
    with pytest.raises(InputError, match=r"no_worse_than has 'tt', .*did you mean 't'"):
        run(name, tmp_path, no_worse_than={"tt": 1.0})


def test_refuses_to_run_without_target_data(tmp_path):
    trainer = quiet_trainer(tmp_path, callbacks=[METHODS["tikmix"](no_worse_than={"t": 1.0})])
    with pytest.raises(InputError, match="needs target data"):
        trainer.fit(toy_module(), datamodule=toy_data(target=False))
