"""What repeats are worth, and mixtures that keep old ratios."""

import numpy as np
import pytest
from scipy.integrate import quad
from synthetic_runs import DOMAINS, draw_mixtures, log_linear, make_runs

from tandem_pl import InputError, Mixture
from tandem_pl.search import FrozenDomains, Repetition, Runs, fit_law, propose

TOKENS = {"web": 1e12, "code": 2e9, "books": 5e10, "math": 1e12}


def test_the_worth_is_the_integral_of_a_decay():
    repetition = Repetition(TOKENS, tokens=1e11, decay=5.0)
    weights = np.array([[0.1, 0.5, 0.3, 0.1]])
    worth = repetition.worth(weights, DOMAINS)[0]
    for m, name in enumerate(DOMAINS):
        seen = weights[0, m] * 1e11 / TOKENS[name]
        passes = min(seen, 1) + quad(lambda e: np.exp(-(e - 1) / 5.0), 1, max(seen, 1))[0]
        assert worth[m] == pytest.approx(passes * TOKENS[name] / 1e11, rel=1e-9)
    shares = repetition.shares(weights, DOMAINS, least=3)
    assert shares.sum() == pytest.approx(1.0)
    assert shares[0, 3] == pytest.approx(0.1 + 0.5 - worth[1])


def test_a_proposal_repeats_less_when_a_further_pass_is_worth_less():
    runs = make_runs()
    shares = []
    for repetition in (None, Repetition(TOKENS, 1e11), Repetition(TOKENS, 1e11, decay=2.0)):
        law = fit_law("log_linear", runs, "loss", repetition=repetition)
        found = propose({"loss": law}, prior=[0.25] * 4, kl=0.02)
        shares.append(found.weights["code"])
        point = np.array([0.2, 0.3, 0.4, 0.1])
        moved = law.predict_by(law.model, point + 1e-6 * np.vstack([np.eye(4), -np.eye(4)]))
        np.testing.assert_allclose(
            law.gradient(point), (moved[:4] - moved[4:]) / 2e-6, rtol=1e-5, atol=1e-7
        )
    assert shares[0] > 0.9
    assert shares[1] < 0.6
    assert shares[2] < shares[1]


def test_proxies_that_repeated_too_are_fitted_on_what_it_was_worth():
    weights = draw_mixtures(40)
    proxies = Repetition(TOKENS, tokens=4e11, proxy_tokens=1e11)
    shares = proxies.shares(weights, DOMAINS, least=0, proxy=True)
    runs = Runs(DOMAINS, weights, {"loss": log_linear(shares)})
    law = fit_law("log_linear", runs, "loss", repetition=proxies)
    assert law.least_useful == 0
    new = draw_mixtures(50, seed=3)
    np.testing.assert_allclose(
        law.predict(new), log_linear(proxies.shares(new, DOMAINS, least=0)), atol=1e-3
    )


def test_repetition_needs_the_tokens_of_every_domain():
    with pytest.raises(InputError, match="says nothing of 'code'"):
        fit_law("linear", make_runs(), "loss", repetition=Repetition({"web": 1.0}, 10.0))
    with pytest.raises(InputError, match="tokens=0"):
        Repetition(TOKENS, 0.0)


OLD = Mixture({"web": 0.6, "code": 0.2, "books": 0.2})


def frozen_runs():
    mixtures = draw_mixtures(30, 2)
    weights = np.column_stack([mixtures[:, :1] * OLD.array, mixtures[:, 1:]])
    return Runs(DOMAINS, weights, {"loss": 1 + np.exp(mixtures @ [0.5, 1.0]) - mixtures[:, 1]})


def test_unchanged_domains_keep_their_ratios_and_the_rest_is_fitted():
    frozen = FrozenDomains(OLD)
    runs = frozen.collapse(frozen_runs())
    assert runs.domains == ("unchanged", "math")
    law = fit_law("gaussian_process", runs, "loss")
    found = propose({"loss": law}, kl=0.0, caps={"code": 0.1}, frozen=frozen)
    mixture = found.mixture
    assert mixture.domains == DOMAINS
    assert mixture["web"] / mixture["code"] == pytest.approx(3.0)
    assert mixture["code"] <= 0.1 + 1e-15
    with pytest.raises(InputError, match=r"unchanged domains may have 0 to 0\.25"):
        propose({"loss": law}, caps={"code": 0.05, "math": 0.5}, frozen=frozen)
    prior = {"web": 0.3, "code": 0.1, "books": 0.1, "math": 0.5}
    assert propose({"loss": law}, prior, frozen=frozen).prior == {"unchanged": 0.5, "math": 0.5}


def test_runs_with_other_ratios_cannot_be_reused():
    with pytest.raises(InputError, match="does not keep the ratios of 'web', 'code', 'books'"):
        FrozenDomains(OLD).collapse(make_runs())
    with pytest.raises(InputError, match="unknown domain 'wiki'"):
        FrozenDomains(Mixture({"web": 1, "wiki": 1})).collapse(frozen_runs())
    whole = Mixture(dict.fromkeys(DOMAINS, 1.0))
    equal = Runs(DOMAINS, np.full((3, 4), 0.25), {})
    with pytest.raises(InputError, match="leaves nothing to fit"):
        FrozenDomains(whole).collapse(equal)
