"""The solver against grids, a linear programme and the conditions of an optimum; bounds."""

import itertools

import numpy as np
import pytest
from scipy.optimize import brentq, linprog
from synthetic_runs import DOMAINS, SLOPES, draw_mixtures, log_linear, make_runs

from tandem_pl import InputError, Mixture
from tandem_pl.mixture import resolve_weights
from tandem_pl.search import Runs, fit_law, propose
from tandem_pl.search.bounds import make_bounds
from tandem_pl.search.solver import Goal, descend, refine, sample, with_kl

THREE = ("a", "b", "c")


def grid(step):
    counts = range(round(1 / step) + 1)
    pairs = [(i, j) for i, j in itertools.product(counts, counts) if i + j <= 1 / step]
    first = np.array(pairs) * step
    return np.column_stack([first, np.maximum(1 - first.sum(axis=1), 0.0)])


@pytest.fixture(scope="module")
def three():
    """Return two laws on three domains that want different mixtures."""
    weights = draw_mixtures(40, 3)
    metrics = {
        "one": 0.5 + np.exp(weights @ [0.2, -1.0, 0.4]),
        "two": 0.3 + np.exp(weights @ [-0.8, 0.5, 0.1]),
    }
    runs = Runs(THREE, weights, metrics)
    return {name: fit_law("log_linear", runs, name) for name in metrics}


@pytest.mark.parametrize("kl", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("caps", [None, [0.5, 0.4, 0.9]])
def test_the_optimum_is_that_of_a_grid(three, kl, caps):
    prior = np.array([0.2, 0.3, 0.5])
    found = propose(three, prior=prior, kl=kl, caps=caps)
    points = grid(0.005)
    points = points[(points <= np.array(caps or [1, 1, 1]) + 1e-12).all(axis=1)]
    ratio = np.where(points > 0, points, 1.0) / prior
    value = kl * (points * np.log(ratio)).sum(axis=1)
    value += 0.5 * sum(law.predict(points) for law in three.values())
    weights = np.array(list(found.weights.values()))
    own = kl * (weights * np.log(np.maximum(weights, 1e-300) / prior)).sum() + found.predicted
    assert value.min() - 1e-3 < own <= value.min() + 1e-9
    assert np.abs(weights - points[value.argmin()]).max() < 0.006


def test_random_convex_problems_meet_the_conditions_of_an_optimum():
    generator = np.random.default_rng(0)
    for kl in (0.0, 0.05, 0.5) * 4:
        size = int(generator.integers(3, 15))
        slopes, prior = generator.normal(0, 1.5, (4, size)), generator.dirichlet(np.ones(size))
        caps = np.maximum(generator.uniform(0.05, 0.6, size), 1.05 / size)
        bounds = make_bounds([str(m) for m in range(size)], caps=caps)
        plain = Goal(
            lambda points, slopes=slopes: np.exp(points @ slopes.T).sum(axis=1),
            lambda point, slopes=slopes: np.exp(slopes @ point) @ slopes,
        )
        goal = with_kl(plain, kl, prior)
        found = descend(goal, bounds, [bounds.put_inside(prior[None])[0]])
        assert (found <= caps).all()
        assert (found >= 0).all()
        assert abs(found.sum() - 1) < 1e-15
        gradient = plain.gradient(found)
        own = gradient @ found + (goal.values(found[None]) - plain.values(found[None]))[0]
        assert own - least_linear(gradient, caps, kl, prior) < 1e-6


def least_linear(gradient, caps, kl, prior):
    """Return min over x of gradient·x + kl KL(x ‖ prior) within caps, in closed form.

    At a point of a convex function, what its linearization can still fall bounds what is missing to
    the minimum.
    """
    if kl == 0:
        equal = {"A_eq": np.ones((1, len(caps))), "b_eq": [1.0]}
        return linprog(gradient, bounds=[(0, cap) for cap in caps], **equal).fun
    grown = np.log(prior) - gradient / kl
    shift = brentq(
        lambda s: np.minimum(np.exp(np.minimum(grown + s, 0)), caps).sum() - 1, -1e3, 1e3
    )
    best = np.minimum(np.exp(np.minimum(grown + shift, 0)), caps)
    return gradient @ best + kl * (best * np.log(np.maximum(best, 1e-300) / prior)).sum()


def test_a_linear_law_gives_the_linear_programme():
    weights = draw_mixtures(30)
    law = fit_law("linear", Runs(DOMAINS, weights, {"loss": 3 + weights @ SLOPES}), "loss")
    found = propose({"loss": law}, kl=0.0, caps=[0.3, 0.35, 1.0, 0.25], floors=0.05)
    assert list(found.weights.values()) == pytest.approx([0.05, 0.35, 0.35, 0.25], abs=1e-9)
    assert found.weights["code"] == 0.35


def test_points_are_put_inside_the_bounds_whatever_their_sum():
    bounds = make_bounds(THREE, floors=[0.1, 0.0, 0.0], caps=[1.0, 0.5, 0.4])
    points = np.random.default_rng(0).exponential(size=(500, 3)) * [[0.3, 1.0, 0.3]]
    inside = bounds.put_inside(points)
    np.testing.assert_allclose(inside.sum(axis=1), 1.0, atol=1e-12)
    assert (inside >= bounds.lower).all()
    assert (inside <= bounds.upper).all()
    free = ((inside > bounds.lower) & (inside < bounds.upper)).all(axis=1)
    shares = points / points.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(inside[free], shares[free], atol=1e-12)


def test_trees_are_searched_without_a_gradient():
    goal = Goal(lambda points: np.floor(50 * ((points - [0.1, 0.6, 0.3]) ** 2).sum(axis=1)), None)
    bounds = make_bounds(THREE, caps=[1, 0.5, 1])
    generator = np.random.default_rng(0)
    points = sample(np.ones(3) / 3, bounds, 300, 3.0, generator)
    best = refine(goal, bounds, points, generator)[0]
    assert goal.values(best[None])[0] == 0
    assert best[1] <= 0.5


def test_the_proposal_of_trees_is_within_bounds():
    pytest.importorskip("lightgbm")
    law = fit_law("lightgbm", make_runs(60), "loss")
    found = propose({"loss": law}, caps={"code": 0.6}, kl=0.0, samples=900)
    assert found.weights["code"] <= 0.6
    assert log_linear(np.array([list(found.weights.values())]))[0] < 1.6  # 1.3 at best


def test_the_mean_of_the_best_samples_is_near_the_optimum_and_within_caps():
    law = fit_law("log_linear", make_runs(), "loss")
    caps = {"code": 0.55, "math": 0.2}
    found = propose({"loss": law}, prior=[0.25] * 4, caps=caps, method="top_mean", samples=20_000)
    best = propose({"loss": law}, prior=[0.25] * 4, caps=caps, kl=0.0)
    assert found.weights["code"] <= 0.55
    assert found.weights["math"] <= 0.2
    assert 0 < found.predicted - best.predicted < 0.05
    assert found.settings["kl"] == 0.0


def test_no_metric_gets_worse_than_at_the_reference(three):
    prior = [0.4, 0.2, 0.4]
    free = propose(three, prior=prior, kl=0.0, metric_weights={"one": 1.0, "two": 0.2})
    assert free.metrics["two"].predicted > free.metrics["two"].reference + 0.1
    held = propose(three, prior, 0.0, metric_weights={"one": 1.0, "two": 0.2}, no_worse=True)
    assert held.metrics["two"].predicted <= held.metrics["two"].reference + 1e-8
    assert free.metrics["one"].predicted < held.metrics["one"].predicted
    assert held.metrics["one"].predicted < held.metrics["one"].reference - 0.01
    with pytest.raises(InputError, match="as good as the reference in 'one'"):
        propose(three, prior=prior, caps=[1, 0.05, 1], no_worse=["one"])


def test_many_metrics_hold_at_the_reference_and_bounds_may_leave_one_mixture(three):
    held = propose(three, prior=[0.4, 0.2, 0.4], no_worse=True)
    for one in held.metrics.values():
        assert one.predicted <= one.reference + 1e-8
    assert held.gain > 0
    for bounds in ({"caps": [0.4, 0.2, 0.4]}, {"floors": [0.4, 0.2, 0.4]}, {"floors": 1 / 3}):
        only = next(iter(bounds.values()))
        only = only if isinstance(only, list) else [only] * 3
        found = list(propose(three, **bounds).weights.values())
        assert found == pytest.approx(only, abs=1e-12)
        assert "floors" in bounds or all(np.array(found) <= only)


def test_a_metric_with_a_negative_weight_rises(three):
    up = propose(three, kl=0.0, metric_weights={"one": -1.0})
    assert up.metrics["one"].predicted > up.metrics["one"].reference
    assert up.gain > 0


def test_a_strong_pull_stays_at_the_prior_and_where_it_is_zero(three):
    prior = {"a": 0.6, "b": 0.4, "c": 0.0}
    assert propose(three, prior, kl=1e4).weights == pytest.approx(prior, abs=1e-4)
    assert propose(three, prior, kl=0.01).weights["c"] == 0.0
    with pytest.raises(InputError, match=r"the prior gives 'c' no share"):
        propose(three, prior, kl=0.01, floors=0.1)
    assert propose(three, prior, kl=0.0, floors=0.1).weights["c"] >= 0.1


def test_passes_over_a_domain_are_capped_exactly(three):
    tokens = {"a": 30.0, "b": 7.0, "c": 500.0}
    found = propose(three, kl=0.0, tokens_per_domain=tokens, tokens=100.0, repeats=3.0)
    assert found.weights["b"] <= 3.0 * 7.0 / 100.0
    assert found.weights["b"] == pytest.approx(0.21)


@pytest.mark.parametrize(
    ("tokens", "caps", "smallest"),
    [
        ((10, 5, 20), None, 100 / 35),
        ((10, 5, 20), [1, 1, 0.5], (1 - 0.5) / 0.15),
        ((1, 0, 9), None, 10),
    ],
)
def test_the_smallest_feasible_number_of_passes_is_told_and_works(tokens, caps, smallest):
    with pytest.raises(InputError, match="smallest feasible k is") as error:
        make_bounds(THREE, 0.0, caps, tokens, 100.0, 2.0)
    told = float(str(error.value).split("smallest feasible k is ")[1].split(",")[0])
    assert smallest <= told < smallest * 1.001
    bounds = make_bounds(THREE, 0.0, caps, tokens, 100.0, told)
    assert bounds.upper.sum() >= 1.0 - 1e-12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"caps": [0.2, 0.2, 0.4]}, "caps sum to 0.8 .* smallest feasible k is 1.25 times"),
        ({"caps": {"d": 0.2}}, "unknown domain 'd'"),
        ({"caps": [0.5, 0.5]}, "2 numbers and the runs 3 domains"),
        ({"caps": [0.1, 1, 1], "floors": 0.2}, "floor 0.2 of 'a' is above its cap 0.1"),
        ({"floors": 0.5}, "floors sum to 1.5"),
        ({"floors": -0.1}, "between 0 and 1"),
        ({"repeats": 4.0}, "give all three"),
        ({"prior": [0.5, 0.2, 0.2]}, "prior must be .* sum to 0.9"),
        ({"prior": {"a": 1.0}}, "prior says nothing of 'b'"),
        ({"kl": -1.0}, "kl=-1.0"),
        ({"method": "best"}, "method='best'"),
        ({"metric_weights": {"on": 1}}, "did you mean 'one'"),
        ({"metric_weights": {"one": 0.0}}, "are all 0"),
        ({"no_worse": ["three"]}, "unknown metric 'three'"),
        ({"top": 0}, "top=0"),
    ],
)
def test_wrong_settings_are_one_sentence(three, options, message):
    with pytest.raises(InputError, match=message):
        propose(three, **options)


def test_laws_on_other_domains_are_refused(three):
    with pytest.raises(InputError, match="fit all on the same columns"):
        propose({**three, "loss": fit_law("linear", make_runs(), "loss")})
    with pytest.raises(InputError, match="at least one law"):
        propose({})


def test_the_error_covers_the_true_gain():
    inside = 0
    for seed in range(10):
        law = fit_law("linear", make_runs(40, noise=0.05, seed=seed), "loss")
        found = propose({"loss": law}, prior=[0.25] * 4, caps=[0.4] * 4)
        both = np.array([list(found.reference.values()), list(found.weights.values())])
        before, after = log_linear(both)
        inside += abs((before - after) - found.gain) < 2 * found.error
    assert inside >= 9


def test_a_proposal_far_from_the_runs_or_without_a_gain_is_warned_of():
    weights = 0.25 + 0.1 * (draw_mixtures(40) - 0.25)
    noise = 0.05 * np.random.default_rng(0).normal(size=40)
    law = fit_law("linear", Runs(DOMAINS, weights, {"loss": 3 + weights @ SLOPES + noise}), "loss")
    assert any("from the nearest run" in text for text in propose({"loss": law}, kl=0).warnings)
    near = propose({"loss": law}, kl=100.0)
    assert any("is not above its error" in text for text in near.warnings)


def test_the_file_is_a_mixture_that_a_data_module_takes(three, tmp_path):
    found = propose(three, prior=[0.2, 0.3, 0.5])
    found.save(tmp_path / "proposal.yaml")
    found.draw(tmp_path / "proposal.png")
    mixture = Mixture.load(tmp_path / "proposal.yaml")
    assert mixture.weights == found.weights
    assert mixture.about["settings"]["law"] == ["log_linear"]
    sizes = dict.fromkeys(THREE, 8)
    assert resolve_weights(str(tmp_path / "proposal.yaml"), sizes).weights == found.weights
    assert (tmp_path / "proposal.png").read_bytes().startswith(b"\x89PNG")
    steps, metrics = found.way()
    assert metrics["one"][0] == pytest.approx(found.metrics["one"].reference)
    assert metrics["one"][-1] == pytest.approx(found.metrics["one"].predicted)
    assert steps[-1] == 1.0
