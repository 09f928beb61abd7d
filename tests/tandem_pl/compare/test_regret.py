"""Regret, its interval, wins and losses: closed forms on tables made by hand."""

import numpy as np
import pytest
import scipy.stats

from tandem_pl.compare.regret import bootstrap_regret, record, regrets, relative_perplexity

FIRST = np.array([[1.0, 1.2], [1.5, 1.3], [2.0, 2.4]])  # means 1.1, 1.4, 2.2
SECOND = np.array([[3.0, 3.0], [2.0, 2.0], [2.5, 2.5]])


def test_regret_is_to_the_best_row_of_each_problem():
    expected = [[0.0, 1.0], [0.3, 0.0], [1.1, 0.5]]
    np.testing.assert_allclose(regrets([FIRST, SECOND]), expected, atol=1e-12)


def test_a_row_that_failed_has_no_regret_and_takes_none_from_others():
    holes = FIRST.copy()
    holes[0, 1] = np.nan
    np.testing.assert_allclose(regrets([holes])[:, 0], [np.nan, 0.0, 0.8])
    interval = bootstrap_regret([holes], np.random.default_rng(0), 50)
    assert np.isnan(interval[0]).all()
    assert np.isfinite(interval[1:]).all()
    diverged = FIRST.copy()
    diverged[2] = np.inf
    np.testing.assert_allclose(regrets([diverged])[:, 0], [0.0, 0.3, np.inf])


def test_the_interval_of_two_seeds_has_the_values_of_their_four_draws():
    # Draws (0,0), (0,1), (1,0), (1,1): row 1 is 0.5, 0.3, 0.3 or 0.1 above row 0.
    interval = bootstrap_regret([FIRST], np.random.default_rng(1), 4000)
    np.testing.assert_allclose(interval[:2], [[0.0, 0.0], [0.1, 0.5]], atol=1e-12)
    both = bootstrap_regret([FIRST, SECOND], np.random.default_rng(1), 4000)
    np.testing.assert_allclose(both[1], [0.05, 0.25], atol=1e-12)  # average with 0


def test_seeds_are_drawn_for_all_rows_together():
    level = np.random.default_rng(0).normal(size=6)
    interval = bootstrap_regret([np.stack([level, level + 0.2])], np.random.default_rng(2), 500)
    np.testing.assert_allclose(interval, [[0.0, 0.0], [0.2, 0.2]], atol=1e-12)


def test_the_interval_is_about_that_of_the_t_test():
    random = np.random.default_rng(3)
    losses = np.stack([np.zeros(60), 1 + random.normal(size=60)])
    low, high = bootstrap_regret([losses], np.random.default_rng(4), 4000)[1]
    theirs = scipy.stats.ttest_1samp(losses[1], 0).confidence_interval(0.95)
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.06)


def test_the_same_generator_gives_the_same_interval():
    one, two = (bootstrap_regret([FIRST], np.random.default_rng(5), 100) for _ in range(2))
    assert (one == two).all()


def test_wins_are_intervals_without_zero():
    random = np.random.default_rng(0)
    base = random.normal(size=5)
    apart = np.stack([base, base + 1 + 0.1 * random.normal(size=5)])
    equal = np.stack([base, base + 0.01 * np.array([1, -1, 1, -1, 0.0])])
    for problems, expected in (([apart], "1-0-0"), ([apart, equal, apart[::-1]], "1-1-1")):
        assert str(record(problems, 0, 1)) == expected
    for losses in (apart, equal):
        significant = scipy.stats.ttest_rel(*losses).pvalue < 0.05
        assert (record([losses], 0, 1) == (1, 0, 0)) == significant
    alone = np.array([[1.0], [2.0]])
    assert str(record([alone], 0, 1)) == "0-1-0"  # one seed decides nothing
    assert record([np.array([[np.nan], [2.0]])], 0, 1) is None


def test_perplexity_is_relative_to_the_baseline_of_the_problem():
    found = relative_perplexity([FIRST, SECOND], 1)
    np.testing.assert_allclose(found[0], np.expm1([-0.3, 1.0]))
    assert (found[1] == 0).all()
