"""Each law finds the curve that made the runs, and its gradient is its derivative."""

import sys

import numpy as np
import pytest
from synthetic_runs import DOMAINS, SLOPES, draw_mixtures, log_linear, make_runs

from tandem_pl import InputError
from tandem_pl.search import Runs, fit_law
from tandem_pl.search.fitting import own_domain
from tandem_pl.search.laws import LAWS
from tandem_pl.search.validation import rank_correlation

NEW = draw_mixtures(200, seed=9)


def runs_of(curve, number=40, **columns):
    weights = draw_mixtures(number)
    return Runs(DOMAINS, weights, {"loss": curve(weights)}, **columns)


@pytest.mark.parametrize(
    ("law", "curve", "tolerance"),
    [
        ("linear", lambda p: 2.0 + p @ SLOPES, 1e-12),
        ("log_linear", log_linear, 1e-3),
        ("log_linear", lambda p: 30.0 * log_linear(p), 3e-2),  # the scale is free
        ("exponential", log_linear, 1e-3),
        ("exponential", lambda p: 0.9 - np.exp(p @ SLOPES - 1.5), 1e-3),  # an accuracy
        ("gaussian_process", log_linear, 2e-2),
    ],
)
def test_a_law_predicts_new_mixtures_of_its_own_curve(law, curve, tolerance):
    fitted = fit_law(law, runs_of(curve), "loss")
    np.testing.assert_allclose(fitted.predict(NEW), curve(NEW), atol=tolerance)


def test_bimix_predicts_by_the_share_of_the_metrics_domain_at_the_longest_run():
    weights, length = draw_mixtures(60), np.tile([1e9, 2e9, 4e9], 20)

    def curve(share, tokens):
        return share**-0.1 * (0.5 * (tokens / 4e9) ** -0.4 + 1.7)

    metrics = {"loss/code": curve(weights[:, 1], length)}
    fitted = fit_law("bimix", Runs(DOMAINS, weights, metrics, length=length), "loss/code")
    inside = NEW[NEW[:, 1] > weights[:, 1].min()]
    np.testing.assert_allclose(fitted.predict(inside), curve(inside[:, 1], 4e9), atol=2e-3)


def test_autoscale_predicts_sums_of_powers():
    def curve(weights, length):
        tokens = weights * length[:, None]
        return 1.0 + ((tokens + 0.1) ** -np.array([0.2, 0.5, 0.1, 0.3])).sum(axis=1)

    weights, length = draw_mixtures(120), np.tile([0.25, 0.5, 1.0], 40)
    runs = Runs(DOMAINS, weights, {"loss": curve(weights, length)}, length=length)
    fitted = fit_law("autoscale", runs, "loss")
    np.testing.assert_allclose(fitted.predict(NEW), curve(NEW, np.ones(200)), atol=0.03)


def test_trees_rank_new_mixtures():
    pytest.importorskip("lightgbm")
    fitted = fit_law("lightgbm", make_runs(200), "loss")
    assert rank_correlation(fitted.predict(NEW), log_linear(NEW)) > 0.95
    again = fit_law("lightgbm", make_runs(200), "loss")
    np.testing.assert_array_equal(again.predict(NEW), fitted.predict(NEW))


@pytest.mark.parametrize("law", [name for name, kind in LAWS.items() if kind.smooth])
def test_the_gradient_is_the_derivative(law):
    weights, length = draw_mixtures(30), np.tile([0.5, 1.0], 15)
    loss = log_linear(weights) * length**-0.1
    fitted = fit_law(law, Runs(DOMAINS, weights, {"loss/code": loss}, length=length), "loss/code")
    point, step = np.array([0.2, 0.3, 0.4, 0.1]), 1e-6
    around = np.vstack([point + step * np.eye(4), point - step * np.eye(4)])
    values = fitted.predict_by(fitted.model, around)
    np.testing.assert_allclose(
        fitted.gradient(point), (values[:4] - values[4:]) / (2 * step), rtol=1e-4, atol=1e-6
    )


def test_sizes_are_brought_to_the_level_of_the_largest():
    weights = draw_mixtures(80)
    size = np.repeat([1e6, 1e9], 40)
    weights[40:] = weights[:40]
    loss = np.where(size == 1e6, 5.0 + 2.0 * weights @ SLOPES, 3.0 + weights @ SLOPES)
    fitted = fit_law("linear", Runs(DOMAINS, weights, {"loss": loss}, size=size), "loss")
    np.testing.assert_allclose(fitted.predict(NEW), 3.0 + NEW @ SLOPES, atol=1e-9)
    assert fitted.validation.by_size == {1e6: pytest.approx(1.0), 1e9: pytest.approx(1.0)}


def test_of_several_lengths_the_longest_run_of_a_mixture_is_used():
    weights = np.repeat(draw_mixtures(20), 2, axis=0)
    length = np.tile([1.0, 2.0], 20)
    loss = log_linear(weights) + (length == 1.0)
    fitted = fit_law("log_linear", Runs(DOMAINS, weights, {"loss": loss}, length=length), "loss")
    assert len(fitted.runs) == 20
    np.testing.assert_allclose(fitted.predict(NEW), log_linear(NEW), atol=1e-3)


def test_the_domain_of_a_metric_is_the_longest_name_in_it():
    domains = ["train_pile_cc", "train_pile_c", "train_github"]
    assert own_domain("metric/pile_cc_loss", domains) == 0
    assert own_domain("loss", domains) is None


@pytest.mark.parametrize(
    ("law", "runs", "metric", "message"),
    [
        ("log_liner", make_runs(), "loss", "did you mean 'log_linear'"),
        ("linear", make_runs(), "los", "no column of the runs: did you mean 'loss'"),
        ("linear", make_runs(4), "loss", "needs at least 5 runs .* the table has 4"),
        ("log_linear", make_runs(5), "loss", "needs at least 6 runs .* the table has 5"),
        ("linear", make_runs(40, same=np.full(40, 2.5)), "same", "is 2.5 in all 40 runs"),
        ("log_linear", make_runs(40, down=-np.arange(40.0)), "down", "law is above 0"),
        ("linear", make_runs(40, gap=np.full(40, np.nan)), "gap", "run 1 has no 'gap'"),
        ("bimix", make_runs(), "loss", "no domain in its name"),
        ("bimix", make_runs(40, code=np.arange(1.0, 41)), "code", "at least two lengths"),
        ("autoscale", make_runs(), "loss", "column 'tokens' or 'steps'"),
        ("lightgbm", make_runs(30), "loss", "needs at least 40 runs"),
    ],
)
def test_a_fit_that_cannot_be_made_is_one_sentence(law, runs, metric, message):
    with pytest.raises(InputError, match=message):
        fit_law(law, runs, metric)


@pytest.mark.parametrize("law", ["linear", "log_linear", "exponential", "gaussian_process"])
def test_a_metric_may_have_one_value_in_all_runs_but_one(law):
    runs = make_runs(12, rare=np.where(np.arange(12) == 3, 1.0, 2.0))
    found = fit_law(law, runs, "rare").validation  # a fold leaves that run out
    assert np.isfinite(found.predictions).all()
    assert np.isfinite(found.error)


def test_copies_of_a_mixture_do_not_count_as_runs():
    runs = make_runs(4)
    again = runs.take([0, 1, 2, 3, 0, 1, 2, 3])
    with pytest.raises(InputError, match="the table has 4"):
        fit_law("linear", again, "loss")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([[0.5, 0.5, 0.5, 0.5]], "row 1 are no mixture: they sum to 2"),
        ([[0.5, 0.5]], "give 4 numbers"),
        ({"web": 1.0}, "says nothing of 'code'"),
        ([[1.5, -0.5, 0, 0]], "no mixture"),
    ],
)
def test_only_mixtures_are_predicted(weights, message):
    with pytest.raises(InputError, match=message):
        fit_law("linear", make_runs(), "loss").predict(weights)


@pytest.mark.parametrize("library", ["lightgbm", "sklearn"])
def test_a_library_that_is_missing_is_named(library, monkeypatch):
    law = {"lightgbm": "lightgbm", "sklearn": "gaussian_process"}[library]
    for name in (library, "sklearn.gaussian_process"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"pip install 'tandem_pl\[search\]', or use another law"):
        fit_law(law, make_runs(60), "loss")
