"""The mixtures that a swarm is trained on."""

import numpy as np
import pytest
from scipy import stats

from tandem_pl.errors import InputError
from tandem_pl.search.swarm.bayesian import choose_next
from tandem_pl.search.swarm.mixtures import draw_mixtures

PRIOR = np.array([0.6, 0.25, 0.1, 0.05])


@pytest.mark.parametrize("sampling", ["dirichlet", "sobol"])
def test_mixtures_are_shares_and_a_smaller_swarm_is_the_start_of_a_larger(sampling):
    drawn = draw_mixtures(PRIOR, 64, sampling, seed=3)
    assert drawn.sum(axis=1) == pytest.approx(np.ones(64), abs=1e-12)
    assert (drawn >= 0).all()
    assert (drawn <= np.minimum(15 * PRIOR, 1) + 2e-4).all()
    positive = drawn[drawn > 0]
    assert positive.min() >= 2e-4 * 0.99
    assert len(np.unique(drawn, axis=0)) == 64
    assert (draw_mixtures(PRIOR, 20, sampling, seed=3) == drawn[:20]).all()
    assert (draw_mixtures(PRIOR, 20, sampling, seed=4) != drawn[:20]).any()


def test_dirichlet_draws_have_the_tempered_priors_mean_and_strengths_spread():
    drawn = draw_mixtures(PRIOR, 4000, strength=(3.0, 3.0), largest=None)
    centre = np.sqrt(PRIOR) / np.sqrt(PRIOR).sum()
    assert drawn.mean(axis=0) == pytest.approx(centre, abs=0.015)
    assert drawn.var(axis=0) == pytest.approx(centre * (1 - centre) / (3 + 1), abs=0.006)


def test_sobol_covers_the_simplex_more_evenly_than_random_mixtures():
    drawn = draw_mixtures(np.ones(4) / 4, 256, "sobol", largest=None, least=0.0)
    expected = stats.beta(1, 3)  # a share's distribution, uniform on the simplex
    distance = [stats.kstest(column, expected.cdf).statistic for column in drawn.T]
    random = np.random.default_rng(0).dirichlet(np.ones(4), 256)
    worse = [stats.kstest(column, expected.cdf).statistic for column in random.T]
    assert max(distance) < 0.035  # 0.05 to 0.08 for random ones
    assert max(distance) < 0.5 * max(worse)


def test_a_domain_without_a_prior_has_no_share_and_caps_hold():
    drawn = draw_mixtures([0.5, 0.0, 0.5], 50, largest=1.5)
    assert (drawn[:, 1] == 0).all()
    assert drawn.max() <= 0.75 + 2e-4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sampling": "grid"}, "sampling='grid' must be"),
        ({"strength": (2.0, 1.0)}, "strength="),
        ({"largest": 1.0}, "largest=1.0 must be above 1"),
        ({"least": 0.6, "count": 9}, "only 4 of 9 mixtures were found"),
        ({"prior": [1.0, 0.0]}, "two or more domains"),
    ],
)
def test_bad_settings_are_named(options, said):
    with pytest.raises(InputError, match=said):
        draw_mixtures(**{"prior": PRIOR, "count": 5, **options})


def test_bayesian_optimisation_finds_the_best_of_a_pool_sooner_than_chance():
    pytest.importorskip("botorch")
    pool = draw_mixtures(PRIOR, 60, "sobol", seed=1)
    values = ((np.sqrt(pool) - np.sqrt(PRIOR)) ** 2).sum(axis=1)
    seen = [*range(5)]
    for _ in range(4):
        left = [number for number in range(60) if number not in seen]
        chosen = choose_next(pool[seen], values[seen], pool[left], count=2)
        assert len(set(chosen)) == 2
        seen += [left[number] for number in chosen]
    assert int(values.argmin()) in seen


def test_bayesian_optimisation_says_what_it_needs():
    with pytest.raises(InputError, match=r"botorch|give 2 or more runs"):
        choose_next([[0.5, 0.5]], [1.0], [[0.2, 0.8]])
