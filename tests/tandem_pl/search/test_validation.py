"""Held-out results are honest: copies stay together, and a bad fit is called one."""

import numpy as np
import pytest
from synthetic_runs import DOMAINS, draw_mixtures, log_linear, make_runs

from tandem_pl.search import Runs, fit_law
from tandem_pl.search.validation import number_of_folds, rank_correlation, split


def test_runs_of_one_mixture_are_on_one_side_of_a_split():
    weights = draw_mixtures(12)
    groups = Runs(DOMAINS, weights[[*range(12), *range(12), 3]], {}).groups
    folds = split(groups, 5, seed=0)
    assert all(len(set(folds[groups == group])) == 1 for group in range(12))
    assert sorted(np.bincount(folds)) == sorted(np.bincount(folds, minlength=5))
    assert len(set(folds)) == 5


def test_copied_noise_cannot_be_ranked():
    noise = np.random.default_rng(0).normal(size=60)
    weights = draw_mixtures(60)[[*range(60)] * 2]
    runs = Runs(DOMAINS, weights, {"noise": noise[[*range(60)] * 2]})
    found = fit_law("gaussian_process", runs, "noise").validation
    assert abs(found.spearman) < 0.4
    assert any("rank correlation" in warning for warning in found.warnings)


def test_a_law_of_its_own_curve_has_no_regret():
    found = fit_law("log_linear", make_runs(20), "loss").validation
    assert found.spearman > 0.999
    assert found.error < 1e-3
    assert found.regret < 1e-9 < found.random_regret
    assert found.warnings == ()


def test_predictions_are_those_of_the_fit_without_the_runs_fold():
    law = fit_law("linear", make_runs(30, noise=0.1), "loss")
    found = law.validation
    for fold, model in enumerate(found.models):
        inside = found.folds == fold
        outside = fit_law("linear", law.runs.take(~inside), "loss")
        np.testing.assert_allclose(found.predictions[inside], model.predict(law.shares[inside]))
        np.testing.assert_allclose(
            outside.predict(law.runs.weights[inside]), found.predictions[inside], atol=1e-12
        )


def test_few_mixtures_are_left_out_one_at_a_time():
    assert number_of_folds(40, least=5) == 5
    assert number_of_folds(6, least=5) == 6
    assert len(fit_law("linear", make_runs(6), "loss").validation.models) == 6


def test_few_runs_and_domains_that_never_vary_are_warned_of():
    weights = draw_mixtures(10, 3)
    runs = Runs(DOMAINS, np.column_stack([0.8 * weights, np.full(10, 0.2)]), {})
    runs.metrics["loss"] = log_linear(runs.weights)
    warnings = fit_law("linear", runs, "loss").validation.warnings
    assert any("10 mixtures for 4 domains" in text and "at least 15" in text for text in warnings)
    assert any("'math' had the same share in all runs" in text for text in warnings)


@pytest.mark.parametrize("constant", [np.zeros(5), np.ones(1)])
def test_a_constant_has_no_ranks(constant):
    assert rank_correlation(constant, np.arange(len(constant))) == 0.0
