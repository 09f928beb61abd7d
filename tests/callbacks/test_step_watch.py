"""Steps that do not fit, in synthetic updates and in runs on a quadratic."""

import re
import warnings
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import QuadraticNetwork, Rows, half_squared_distance, quiet_trainer

from tandem_pl import TandemModule
from tandem_pl.callbacks import TandemReweighting
from tandem_pl.callbacks.step_size import mean_square, scale_free_rate
from tandem_pl.callbacks.step_watch import StepWatch, new_state, warning_of
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.simplex import projected_step

START = np.array([0.25, 0.25, 0.25, 0.25])
ALL = np.ones(4, bool)
STEP = partial(projected_step, floor=0.0, caps=None)


def follow(slopes, rate, weights=START, start=None, step=STEP):
    """Problems found in descent along slopes(number, weights), as (update, problem)."""
    watch, found, total = StepWatch(new_state(len(weights))), [], 0.0
    start = weights if start is None else start
    for number in range(200):
        gradient = slopes(number, weights)
        after = step(weights, gradient, rate)
        total += mean_square(gradient)
        suggested = scale_free_rate(total, number + 1) / len(weights)
        problem = watch.watch(start, weights, after, gradient, ALL, step, suggested)
        weights = after
        if problem:
            found.append((number + 1, problem))
    return found, watch, suggested


def quadratic(noise, best=(0.4, 0.3, 0.2, 0.1), seed=0):
    generator = np.random.default_rng(seed)
    return lambda _, weights: weights - np.array(best) + noise * generator.normal(size=4)


def test_a_two_cycle_is_found_once_and_soon():
    found, watch, _ = follow(quadratic(0.001), 2.2)  # the error grows until it meets the bounds
    assert [problem for _, problem in found] == ["alternate"]
    assert found[0][0] <= 25
    assert np.abs(watch.state["move"]).sum() / 2 > 0.05


@pytest.mark.parametrize(("noise", "rate"), [(0.05, 0.3), (0.3, 0.3), (0.3, 0.1), (1.0, 0.1)])
def test_steps_that_fit_and_noisy_ones_give_no_warning(noise, rate):
    for seed in range(5):
        assert follow(quadratic(noise, seed=seed), rate)[0] == []


def test_small_moves_to_and_fro_are_no_two_cycle():
    assert follow(quadratic(0.0, best=START + np.array([0.01, -0.01, 0, 0])), 2.0)[0] == []


def test_a_standstill_is_found_where_domains_differ():
    found, watch, suggested = follow(quadratic(0.05), 1e-4)
    assert found == [(64, "still")]
    text = warning_of("still", watch, 1e-4, suggested)
    rate = float(re.search(r"learning_rate to (\S+) in place of 0.0001, or to auto", text)[1])
    assert rate == pytest.approx(suggested, rel=0.05)
    assert follow(quadratic(0.05), rate)[0] == []


def test_noise_is_no_standstill():
    for seed in range(5):
        assert follow(quadratic(0.3, best=START, seed=seed), 1e-5)[0] == []


def test_weights_that_are_held_by_their_bounds_do_not_stand_still():
    vertex = np.array([1.0, 0, 0, 0])
    assert follow(lambda *_: np.array([-1.0, 0, 0, 0]), 1e-3, vertex)[0] == []
    capped = partial(projected_step, floor=0.0, caps=START)
    assert follow(lambda *_: np.array([-1.0, 0, 0, 0]), 1e-3, START, step=capped)[0] == []


def test_equal_measurements_are_found_after_sixteen():
    assert follow(lambda number, _: np.full(4, 0.1 * number), 1.0)[0] == [(16, "equal")]
    assert follow(lambda *_: np.zeros(4), 1.0)[0] == [(16, "equal")]
    one = np.ones(1)
    watch = StepWatch(new_state(1))  # a single domain has nothing to compare
    assert {watch.watch(one, one, one, one, one > 0, STEP, 1.0) for _ in range(40)} == {None}


@pytest.mark.parametrize(("update", "unit"), [("projected", 4), ("exponentiated", 1)])
def test_the_scale_free_rate_is_in_the_unit_of_the_methods_step(update, unit):
    """It is what warnings suggest, and what they compare the steps with."""
    method = TandemReweighting(update=update)
    method.weights, method._squares, method._squared = START, 0.25, 100
    assert method.auto_rate() == method.step_size() == scale_free_rate(0.25, 100) / unit


# ---- runs ----


def run(tmp_path, rate, updates, centres=(-1.0, 1.0), **more):
    """Two domains of one point each; the best mixture for the target at 0.2 is (0.4, 0.6)."""

    def point(at):
        return Rows(torch.full((3, 2), at, dtype=torch.float64))

    train = {"a": point(centres[0]), "b": point(centres[1])}
    data = MixtureDataModule(train, {"t": point(0.2)}, batch_size=10)
    module = TandemModule(
        QuadraticNetwork(2), half_squared_distance, lambda params: torch.optim.SGD(params, 0.5)
    )
    method = TandemReweighting(4, 1, 1, learning_rate=rate, **more)
    trainer = quiet_trainer(tmp_path, callbacks=[method], max_steps=5 * updates)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module, data)
    ours = re.compile("learning_rate|measured the same|noisy measurements")
    return method, [str(one.message) for one in caught if ours.search(str(one.message))]


def test_a_fixed_rate_that_alternates_is_named_with_the_one_to_use(tmp_path):
    method, texts = run(tmp_path, 30.0, 24)
    alternating = [text for text in texts if "updates alternate" in text]
    assert len(alternating) == 1
    rate = float(
        re.search(r"set learning_rate to (\S+) in place of 30, or to auto", alternating[0])[1]
    )
    again, texts = run(tmp_path, rate, 60)
    assert not texts
    assert abs(again.averaged()[0] - 0.4) < 0.03
    assert set(method.weights.tolist()) == {0.0, 1.0}


def test_equal_domains_keep_their_weights_and_the_run_says_so(tmp_path):
    method, texts = run(tmp_path, 3.0, 20, centres=(1.0, 1.0))
    assert [
        text for text in texts if "all of the first 16 updates measured the same" in text
    ] == texts
    assert len(texts) == 1
    assert method.weights.tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("rate", "advice"),
    [(30.0, "lower learning_rate=30.0, or raise measure_batches=1"), ("auto", "raise measure")],
)
def test_a_large_move_is_warned_of_with_what_can_be_changed(rate, advice, tmp_path, monkeypatch):
    monkeypatch.setattr("tandem_pl.callbacks.step_size.REACH", 100.0)
    _, texts = run(tmp_path, rate, 3)
    assert f"too much for noisy measurements: {advice}" in texts[0]


def test_updates_that_fail_are_counted_in_few_warnings():
    method = TandemReweighting()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(40):
            method.keep_weights(SimpleNamespace(global_step=7), "a measured loss is not finite")
    counts = [int(re.search(r"(\d+) updates? skipped", str(one.message))[1]) for one in caught]
    assert counts == [1, 2, 4, 8, 16, 32]
    assert method.skipped_updates == 40
