"""Judgements of synthetic trajectories whose truth is known."""

import numpy as np
import pytest

from tandem_pl.run_files import Signal
from tandem_pl.simplex import projected_step
from tandem_pl.steadiness import (
    is_judged,
    is_settled,
    judge,
    significant_moves,
    update_settled_since,
)

SIZE, UPDATES = 6, 300
INSIDE = np.array([0.4, 0.3, 0.1, 0.1, 0.05, 0.05])
CORNER = np.array([2.0, -0.2, -0.2, -0.2, -0.2, -0.2])


def learn(best, curvature, noise, rate, seed, updates=UPDATES):
    """The weights [T + 1, M] and gradients [T, M] of noisy descent on a quadratic."""
    generator = np.random.default_rng(seed)
    weights, rows, slopes = np.full(len(best), 1 / len(best)), [], []
    rows.append(weights)
    for _ in range(updates):
        slope = curvature * (weights - best) + noise * generator.normal(size=len(best))
        weights = projected_step(weights, slope, rate)
        rows.append(weights)
        slopes.append(slope)
    return np.stack(rows), np.stack(slopes)


def signal_of(slopes):
    return Signal("s", ("delta",), range(1, len(slopes) + 1), slopes[:, None])


def judged(rows, slopes=None):
    signal = None if slopes is None else signal_of(slopes)
    return judge(rows, rows[len(rows) // 2 :].mean(axis=0), signal)


def stopped_at(rows):
    """The update at which a run would be stopped; None if it is not."""
    since = None
    for updates in filter(is_judged, range(1, len(rows))):
        since = update_settled_since(since, updates, judged(rows[: updates + 1]))
        if is_settled(since, updates):
            return updates
    return None


def test_a_run_that_reached_its_corner_is_significant_and_settled():
    rows, slopes = learn(CORNER, 1.0, 0.1, 0.05, 0, 64)
    found = judged(rows, slopes)
    assert found.stability.verdict == "settled"
    assert found.significant.all()
    assert found.distance == pytest.approx(5 / 6, abs=0.02)
    assert str(found) == "settled, 6 of 6 significant"


def test_noise_alone_is_rarely_significant():
    flags = [judged(*learn(INSIDE, 0.0, 0.3, 0.005, seed, 60)).significant for seed in range(60)]
    assert np.any(flags, axis=1).mean() < 0.1  # of the runs have one or more


def test_significance_holds_for_all_domains_together():
    """With a 95 % interval for each of 22 domains, two runs of three would have one or more."""
    draw, found = np.random.default_rng(0), []
    for _ in range(200):
        found.append(significant_moves(signal_of(draw.normal(size=(60, 22)))))
    assert 0.005 < np.any(found, axis=1).mean() < 0.1
    values = draw.normal(size=(60, 22))
    values[:, 0] += 2.0
    assert significant_moves(signal_of(values)).tolist() == [True] + 21 * [False]


def test_a_run_too_short_to_judge_has_no_significant_move():
    rows, slopes = learn(CORNER, 1.0, 0.1, 0.05, 0, 20)
    assert significant_moves(signal_of(slopes)).any()
    found = judged(rows, slopes)
    assert not found.significant.any()
    assert str(found) == "too short to judge"


def test_without_hyper_gradients_or_with_few_nothing_is_said_of_significance():
    rows, slopes = learn(CORNER, 1.0, 0.1, 0.05, 0, 7)
    assert judged(rows, slopes).significant is None
    assert judged(rows).significant is None
    assert str(judged(rows)) == "too short to judge"


@pytest.mark.parametrize(
    ("best", "curvature", "noise", "rate", "stops"),
    [
        (CORNER, 1.0, 0.5, 0.05, 1.0),  # settles at a vertex
        (INSIDE, 1.0, 0.02, 0.1, 1.0),  # settles inside
        (INSIDE, 1.0, 0.1, 0.002, 0.0),  # a slow drift, 0.5 % of the data in a quarter at first
        (INSIDE, 1.0, 0.1, 0.00002, 0.0),  # a step so small that nothing has moved
        (np.full(SIZE, 1 / SIZE), 1.0, 0.5, 0.02, 0.0),  # a noisy constant
        (np.full(SIZE, 1 / SIZE), 1.0, 0.05, 0.02, 0.0),
        (INSIDE, 0.0, 0.3, 0.005, 0.0),  # a random walk
        (INSIDE, 0.0, 1.0, 0.005, 0.0),
    ],
)
def test_a_run_is_stopped_once_it_has_settled_and_not_before(best, curvature, noise, rate, stops):
    found = []
    for seed in range(8):
        rows, _ = learn(best, curvature, noise, rate, seed)
        at = stopped_at(rows)
        found.append(at is not None)
        if at is not None:
            average = rows[at // 2 : at + 1].mean(axis=0)
            whole = rows[len(rows) // 2 :].mean(axis=0)
            assert 0.5 * np.abs(average - whole).sum() < 0.03
            assert at >= 45  # 16 rows in the last half, and half as long again
    assert np.mean(found) == stops


def test_two_domains_that_walk_at_random_rarely_stop_a_run():
    start = np.full(2, 0.5)
    walks = [learn(start, 0.0, 1.0, 0.01, seed)[0] for seed in range(20)]
    assert np.mean([stopped_at(rows) is not None for rows in walks]) <= 0.1


def test_few_updates_of_a_long_run_are_judged():
    judged_updates = [updates for updates in range(1, 10_001) if is_judged(updates)]
    assert judged_updates[:64] == [*range(1, 64), 64]
    assert len(judged_updates) < 64 + 32 * 8
    assert max(np.diff(judged_updates[63:]) / judged_updates[64:]) <= 1 / 32
