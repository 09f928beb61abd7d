"""MixMin: known optima, a certificate of optimality, and tables of likelihoods."""

import numpy as np
import pytest

from tandem_pl.errors import InputError
from tandem_pl.search import fit_experts, propose
from tandem_pl.search.mixmin import optimum


def weights_of(law, **options):
    return np.array(list(propose({"target": law}, kl=0.0, **options).weights.values()))


def outcomes(experts, counts):
    """Return [n, K] log-likelihoods of outcomes that came up so often under categorical experts."""
    return np.log(np.repeat(np.asarray(experts).T, counts, axis=0))


def test_the_optimum_is_the_mixture_whose_outcomes_are_the_targets():
    # if some w gives Σ w_k p_k(x) = the frequency of x, no other distribution does better
    generator = np.random.default_rng(0)
    experts = generator.dirichlet(np.ones(6), 4)  # [K, outcomes]
    true = np.array([0.5, 0.3, 0.15, 0.05])
    counts = (1_000_000 * true @ experts).round().astype(int)
    law = fit_experts(np.log(experts.T), list("abcd"))
    law.model.share[:] = counts / counts.sum()  # of each outcome among the samples
    assert optimum(law.model) == pytest.approx(true, abs=1e-4)


def test_repeated_outcomes_count_as_often_as_they_come():
    law = fit_experts(outcomes([[0.9, 0.1], [0.2, 0.8]], [700, 300]), ["a", "b"])
    assert weights_of(law) == pytest.approx([5 / 7, 2 / 7], abs=1e-6)
    everything = fit_experts(outcomes([[0.9, 0.1], [0.2, 0.8]], [950, 50]), ["a", "b"])
    assert weights_of(everything) == pytest.approx([1, 0], abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_no_direction_leads_further_down(seed):
    # f is convex and Σ w_k g_k = -1: f(w) - min f <= max_k(-g_k) - 1
    generator = np.random.default_rng(seed)
    law = fit_experts(generator.normal(0, 2, (400, 12)), [str(k) for k in range(12)])
    weights = weights_of(law)
    assert (-law.model.gradient(weights)).max() - 1 < 1e-7
    steps = 1e-6 * np.eye(12)
    numbers = (law.model.predict(weights + steps) - law.model.predict(weights - steps)) / 2e-6
    assert law.model.gradient(weights) == pytest.approx(numbers, rel=1e-5)


def test_tokens_of_a_sample_share_its_weight():
    # two samples, of three tokens that expert a knows and of one that b knows
    tokens = np.log([[0.9, 0.1]] * 3 + [[0.1, 0.9]])
    assert weights_of(fit_experts(tokens, ["a", "b"], [5, 5, 5, 9])) == pytest.approx([0.5, 0.5])
    alone = fit_experts(tokens, ["a", "b"])
    assert weights_of(alone)[0] > 0.8
    with_mean = fit_experts([[np.log(0.9), np.log(0.1)], [np.log(0.1), np.log(0.9)]], ["a", "b"])
    assert with_mean.values == pytest.approx(fit_experts(tokens, ["a", "b"], [5, 5, 5, 9]).values)


def test_caps_and_a_prior_bind():
    law = fit_experts(outcomes([[0.9, 0.1], [0.2, 0.8]], [95, 5]), ["a", "b"])
    assert weights_of(law, caps={"a": 0.6}) == pytest.approx([0.6, 0.4])
    near = np.array(list(propose({"t": law}, kl=100.0, prior=[0.3, 0.7]).weights.values()))
    assert near == pytest.approx([0.3, 0.7], abs=0.01)


def test_the_gain_and_its_error_are_those_of_the_samples():
    generator = np.random.default_rng(1)
    table = generator.normal([0.5, 0, 0], 1, (2000, 3))
    law = fit_experts(table, ["a", "b", "c"])
    found = propose({"target": law}, kl=0.0)
    weights = np.array(list(found.weights.values()))
    gains = np.log(np.exp(table) @ weights) - np.log(np.exp(table).mean(axis=1))
    assert found.gain == pytest.approx(gains.mean())
    assert found.error == pytest.approx(gains.std() / np.sqrt(2000), rel=0.9)  # from five parts
    held_out = law.held_out
    assert held_out.mixture == pytest.approx(found.predicted, abs=0.01)
    assert held_out.uniform == pytest.approx(found.predicted_reference)
    assert held_out.mixture < min(held_out.uniform, held_out.best_expert)
    few = fit_experts(table[:20], ["a", "b", "c"])
    assert "20 samples for 3 experts; MixMin wants at least 30." in propose({"t": few}).warnings


def test_likelihoods_may_be_far_apart():
    law = fit_experts([[0.0, -5000.0], [-5000.0, 0.0], [-5000.0, 0.0]], ["a", "b"])
    assert weights_of(law) == pytest.approx([1 / 3, 2 / 3], abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0.0, 1.0]] * 3, ["a"]), "give \\[samples, 1\\]"),
        (([[0.0], [1.0]], ["a"]), "two experts and two samples, and has 1 and 2"),
        (([[0.0, 1.0]], ["a", "b"]), "and has 2 and 1"),
        (([[0.0, 1.0], [np.nan, 0.0]], ["a", "b"]), "of row 2 under 'a' is nan"),
        (([[0.0, 1.0]] * 3, ["a", "b"], [1, 2]), "samples has 2 entries for 3 rows"),
    ],
)
def test_bad_likelihoods_are_one_sentence(arguments, message):
    with pytest.raises(InputError, match=message):
        fit_experts(*arguments)
