"""A share of a prior in the weights: the rule against equations, and in runs of every method."""

from types import SimpleNamespace

import numpy as np
import pytest
from helpers import quiet_trainer
from toy import DOMAINS, toy_data, toy_module, train_reference

from tandem_pl import InputError, run_files
from tandem_pl.callbacks.anchor import Anchor, anchor_weights
from tandem_pl.callbacks.methods.table import METHODS

PRIOR = {"twin": 0.2, "other": 0.5, "noise": 0.3}
LEARNED = [name for name, row in METHODS.items() if row.work is not None]
SHORT = {
    "tandem": {"free_steps": 3, "probe_steps": 2, "measure_batches": 1},
    "quad": {"period": 2, "clusters": 1, "measure_batches": 1},
    "skill_it": {"update_steps": 4, "learning_rate": 1.0, "graph": [[1.0], [0.5], [0.1]]},
    "aioli": {"update_steps": 12, "lp_rounds": 1, "lp_steps": 4, "learning_rate": 2.0},
    "tikmix": {"update_steps": 4, "measure_batches": 2},
    "doremi": {"episode_steps": 4},
    "doge": {"episode_steps": 4},
    "ado": {"period": 10, "start_step": 80, "fit_every": 20, "ignore_steps": 0},
}


def random_mixtures(seed, size=6):
    return np.random.default_rng(seed).dirichlet(np.full(size, 0.5), 2)


@pytest.mark.parametrize("seed", range(5))
def test_the_projection_is_the_nearest_with_the_share(seed):
    """Optimality of a convex problem: no other point of the set is on the point's side of it."""
    weights, prior = random_mixtures(seed)
    found = anchor_weights(weights, prior, 0.4)
    assert (found >= 0.4 * prior - 1e-15).all()
    assert found.sum() == pytest.approx(1.0, abs=1e-15)
    others = 0.4 * prior + 0.6 * np.random.default_rng(seed).dirichlet(np.ones(6), 500)
    others = np.vstack([others, 0.4 * prior + 0.6 * np.eye(6)])
    assert ((others - found) @ (weights - found)).max() < 1e-12
    again = anchor_weights(found, prior, 0.4)
    np.testing.assert_allclose(again, found, rtol=0, atol=1e-15)


@pytest.mark.parametrize("seed", range(5))
def test_the_exponentiated_form_is_the_weighted_geometric_mean(seed):
    weights, prior = random_mixtures(seed)
    powers = [w**0.75 * p**0.25 for w, p in zip(weights, prior, strict=True)]
    expected = np.array(powers) / sum(powers)
    np.testing.assert_allclose(anchor_weights(weights, prior, 0.25, "exponentiated"), expected)


@pytest.mark.parametrize("form", ["projected", "exponentiated"])
def test_the_ends_are_exact(form):
    weights, prior = random_mixtures(3)
    assert anchor_weights(weights, prior, 0.0, form) is weights
    assert (anchor_weights(weights, prior, 1.0, form) == prior).all()
    apart = np.eye(6)[0], np.eye(6)[1]  # no domain has a weight in both
    assert anchor_weights(*apart, 0.5, form).sum() == pytest.approx(1.0)


def test_the_floor_of_the_method_stays():
    found = anchor_weights(np.array([0.9, 0.05, 0.05]), np.array([0.0, 0.0, 1.0]), 0.5, floor=0.05)
    np.testing.assert_allclose(found, [0.45, 0.025, 0.525])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (1.2, r"anchor=1\.2 must be between 0 and 1"),
        ({"share": -1}, "anchor=-1 must be"),
        ({"share": "30%"}, "anchor=30% must be between 0 and 1"),
        ({"prior": "proportional"}, "anchor={'prior': 'proportional'} has no share"),
        ({"share": 0.5, "form": "harmonic"}, r"anchor\.form='harmonic'"),
        ({"shares": 0.5}, "'shares': did you mean 'share'|the key 'shares'"),
    ],
)
def test_refuses_what_is_no_anchor(setting, message):
    with pytest.raises(InputError, match=message):
        Anchor(setting)


# ---- in runs ----


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return str(train_reference(tmp_path_factory.mktemp("reference") / "reference.ckpt", 10))


@pytest.fixture
def trajectory_of(reference, tmp_path, monkeypatch):
    picture = SimpleNamespace(savefig=lambda *where, **options: None)
    monkeypatch.setattr(run_files, "draw_mixture", lambda *drawn: picture)

    def run(name, **settings):
        row = METHODS[name]
        given = {**row.settings, **SHORT.get(name, {"period": 4}), **settings}
        if row.needs_reference:
            given["reference"] = reference
        method = row.load()(**given)
        trainer = quiet_trainer(tmp_path, callbacks=[method], max_epochs=9 if name == "ado" else 3)
        trainer.fit(toy_module(row.module), datamodule=toy_data())
        return method, np.stack(method.trajectory)

    return run


@pytest.mark.parametrize("name", LEARNED)
def test_any_method_keeps_its_bits_or_the_prior_or_a_share(name, trajectory_of):
    method, plain = trajectory_of(name)
    assert np.ptp(plain, axis=0).max() > 0
    prior = np.array([PRIOR[domain] for domain in DOMAINS])
    assert (trajectory_of(name, anchor={"share": 0.0, "prior": PRIOR})[1] == plain).all()
    anchor = {"share": 1.0, "prior": PRIOR, "form": "exponentiated"}
    anchored, held = trajectory_of(name, anchor=anchor)
    assert (held == prior).all()
    np.testing.assert_allclose(anchored.averaged(), prior, rtol=0, atol=1e-15)
    _, some = trajectory_of(name, anchor={"share": 0.6, "prior": PRIOR})
    assert (some >= 0.6 * prior - 1e-12).all()
    assert method.settings()["anchor"] == 0.0


def test_without_a_prior_it_is_the_data_modules_mixture(tmp_path):
    method = METHODS["odm"].load()(period=4, anchor=1.0)
    trainer = quiet_trainer(tmp_path, callbacks=[method], max_epochs=2)
    trainer.fit(toy_module(), datamodule=toy_data(weights=PRIOR))
    np.testing.assert_array_equal(method.trajectory, [[0.2, 0.5, 0.3]] * 3)


def test_refuses_a_prior_of_other_domains(trajectory_of):
    with pytest.raises(InputError, match=r"anchor\.prior"):
        trajectory_of("odm", anchor={"share": 0.3, "prior": {"nowhere": 1}})
