"""Which run a search over fidelities makes next, on tables of results."""

import numpy as np
import pytest
from scipy import integrate, stats

from tandem_pl.errors import InputError
from tandem_pl.search.swarm.bayesian import choose_next
from tandem_pl.search.swarm.mixtures import draw_mixtures
from tandem_pl.search.swarm.multi_fidelity import (
    Choice,
    Results,
    log_improvement,
    propose_next,
    recommend,
)

PRIOR = np.array([0.6, 0.25, 0.1, 0.05])
COSTS = [0.05, 1.0]
POOL = draw_mixtures(PRIOR, 24, "sobol", seed=1)
TARGET = ((np.sqrt(POOL) - np.sqrt(PRIOR)) ** 2).sum(axis=1)
#: a small network is worse, by another amount, and prefers slightly other mixtures
SMALL = 3 + 0.8 * TARGET + 0.05 * np.sqrt(POOL[:, 0])
TABLE = np.stack([SMALL, TARGET], axis=1)


def results(tried):
    places, levels = (list(column) for column in zip(*tried, strict=True))
    return Results(POOL[places], levels, TABLE[places, levels])


@pytest.mark.parametrize(("gain", "spread"), [(0.5, 1.0), (-0.3, 0.2), (-2.0, 1.0), (-9.0, 2.0)])
def test_the_expected_improvement_is_the_integral(gain, spread):
    wanted = integrate.quad(
        lambda n: (gain + spread * n) * stats.norm.pdf(n), -gain / spread, 30, epsabs=1e-16
    )[0]
    found = log_improvement(np.array([gain]), np.array([spread]))
    assert np.exp(found) == pytest.approx(wanted, rel=1e-6)


def test_the_log_improvement_falls_without_a_jump_however_far_out():
    z = -np.geomspace(0.5, 1e6, 4000)
    found = log_improvement(z, np.ones(len(z)))
    assert np.isfinite(found).all()
    assert (np.diff(found) < 0).all()


def test_cheap_runs_find_the_best_of_the_target_fidelity_for_less():
    pytest.importorskip("botorch")
    best = int(TARGET.argmin())
    start = [int(p) for p in np.random.default_rng(1).permutation(24) if p != best][:3]
    seen = [*start]
    while best not in seen:
        left = [place for place in range(24) if place not in seen]
        seen.append(left[choose_next(POOL[seen], TARGET[seen], POOL[left])[0]])
    tried = [Choice(place, 0) for place in start]
    while Choice(best, 1) not in tried:
        tried += propose_next(results(tried), COSTS, POOL, tried=tried)
    spent = sum(COSTS[level] for _, level in tried)
    assert spent < 0.6 * len(seen)
    assert len(set(tried)) == len(tried)
    assert recommend(results(tried), 2, POOL) == best


def test_several_choices_differ_and_stay_within_the_budget():
    pytest.importorskip("botorch")
    tried = [Choice(place, 0) for place in range(4)]
    some = propose_next(results(tried), COSTS, POOL, 6, budget=0.22, tried=tried)
    assert len(some) == 4  # of 0.05 each
    assert {level for _, level in some} == {0}
    assert len({*some, *tried}) == 8
    assert propose_next(results(tried), COSTS, POOL, 6, budget=0.01) == []


def test_if_fidelities_cost_almost_the_same_the_target_is_tried():
    pytest.importorskip("botorch")
    tried = [Choice(place, 0) for place in range(6)]
    (one,) = propose_next(results(tried), [0.99, 1.0], POOL, tried=tried)
    assert one.fidelity == 1


@pytest.mark.parametrize("costs", [[1.0], [1.0, 1.0], [2.0, 1.0], [0.0, 1.0]])
def test_costs_must_ascend(costs):
    with pytest.raises(InputError, match="two or more fidelities, each one dearer"):
        propose_next(results([(0, 0), (1, 0)]), costs, POOL)


def test_it_says_what_it_needs():
    with pytest.raises(InputError, match=r"botorch|2 or more to start"):
        propose_next(results([(0, 0)]), COSTS, POOL)
