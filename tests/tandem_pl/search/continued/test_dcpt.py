"""D-CPT laws of known parameters, and the shares that follow from them."""

import numpy as np
import pytest
from continued_runs import GENERAL, TRUE, UNITS, dcpt, make_table

from tandem_pl.errors import InputError
from tandem_pl.search.continued import best_share, fit_dcpt, largest_share
from tandem_pl.search.continued.shares import Outlook, find_doubts


def fit(table, which="domain", **options):
    rows = table[table["tokens"] > 0]
    share = rows["ratio"] if which == "domain" else 1 - rows["ratio"]
    return fit_dcpt(rows["size"], rows["tokens"], share, rows[f"{which}_loss"], **options)


@pytest.fixture(scope="module")
def exact():
    return fit(make_table())


@pytest.fixture(scope="module")
def noisy():
    table = make_table(noise=0.002)
    return fit(table), fit(table, "general")


def test_parameters_are_recovered(exact):
    found = exact.raw_parameters
    found["A"] /= UNITS["size"] ** found["alpha"]
    found["B"] /= UNITS["tokens"] ** found["beta"]
    assert found == pytest.approx(TRUE, rel=1e-4)
    assert exact.r_squared == pytest.approx(1.0)
    assert exact.error_unseen < 1e-5


def test_unseen_sizes_lengths_and_shares_are_predicted_under_noise(noisy):
    size, tokens, share = np.array([7e9, 1e9, 3e9]), np.array([26e9, 3e9, 15e9]), [0.5, 0.1, 0.7]
    for law, true in zip(noisy, (TRUE, GENERAL), strict=True):
        expected = dcpt(size, tokens, np.array(share), true)
        assert law.predict(size, tokens, share) == pytest.approx(expected, abs=0.004)
        assert law.r_squared > 0.999
        assert law.error_unseen < 0.02  # of which most is beyond the other shares


def test_the_law_falls_with_size_tokens_and_share(noisy):
    size, tokens = np.geomspace(1e8, 1e11, 7)[:, None, None], np.geomspace(5e8, 1e12, 9)[:, None]
    for law in noisy:
        values = law.predict(size, tokens, np.linspace(0.01, 1, 100))
        for axis in range(3):
            assert (np.diff(values, axis=axis) < 0).all()


def test_the_law_is_monotone_even_if_the_data_is_not():
    table = make_table(noise=0.3)
    values = fit(table).predict(1e9, 5e8, np.linspace(0, 1, 101))
    assert (np.diff(values) <= 0).all()


def test_the_law_meets_its_limits(exact):
    # at a fixed share Chinchilla's law; without end of tokens or size, what they cannot learn
    p, share = exact.parameters, 0.3
    rest = p["E"] + p["C"] / (share + p["epsilon"]) ** p["gamma"]
    assert exact.predict(1e40, 1e40, share) == pytest.approx(rest, abs=1e-6)
    size, tokens = np.array([1e9, 3e9]), np.array([1e9, 7e9])
    learnt = p["A"] * (size / exact.size_unit) ** -p["alpha"]
    data = p["B"] * share ** p["eta"] * (tokens / exact.token_unit) ** -p["beta"]
    assert exact.predict(size, tokens, share) == pytest.approx(rest + learnt + data)
    without = p["E"] + learnt + p["C"] / p["epsilon"] ** p["gamma"]
    assert exact.predict(size, tokens, 0.0) == pytest.approx(without)


def test_runs_of_one_size_give_a_law_of_that_size():
    law = fit(make_table(sizes=np.array([1.8e9])))
    assert law.predict(None, 3e9, 0.5) == pytest.approx(dcpt(1.8e9, 3e9, 0.5), abs=1e-4)
    with pytest.raises(InputError, match=r"size=4e\+09 is not that of the runs, which is 1.8e\+09"):
        law.predict(4e9, 3e9, 0.5)


def test_the_largest_share_and_the_best_share(noisy):
    domain, general = noisy
    start = float(dcpt(1.8e9, 1e10, 0.7, GENERAL))
    outlook = Outlook(domain, general, 1.8e9, 8e9, start=start)
    shares = np.linspace(0, 1, 100_001)
    rise = dcpt(1.8e9, 8e9, 1 - shares, GENERAL) - start
    expected = shares[rise <= 0.05].max()
    share = largest_share(outlook, 0.05)
    assert share == pytest.approx(expected, abs=0.01)
    assert outlook.general_loss(np.array([share])) <= start + 0.05
    assert best_share(outlook, epsilon=0.05) == pytest.approx(share, abs=1e-6)
    weighed = best_share(outlook, general_weight=0.4)
    total = 0.6 * outlook.domain_loss(shares) + 0.4 * outlook.general_loss(shares)
    assert weighed == pytest.approx(shares[total.argmin()], abs=1e-4)
    assert largest_share(outlook, 5.0) == 1.0
    assert find_doubts(outlook, 0.5) == []
    assert "outside the shares measured" in find_doubts(outlook, 0.99)[0]


def test_a_scarce_domain_has_a_best_share_of_its_own():
    # the more of the domain in a batch, the earlier the run ends
    true = TRUE | {"B": 0.3, "eta": 1.0, "beta": 1.0, "C": 0.37, "gamma": 1.0}
    size, tokens, share = np.meshgrid([1e9, 4e9], [5e8, 1e9, 4e9, 1.6e10], np.linspace(0.1, 1, 6))
    size, tokens, share = size.ravel(), tokens.ravel(), share.ravel()
    law = fit_dcpt(size, tokens, share, dcpt(size, tokens, share, true))
    outlook = Outlook(law, size=1e9, domain_tokens=5e8)
    shares = np.linspace(0.001, 1, 10_000)
    expected = shares[dcpt(1e9, 5e8 / shares, shares, true).argmin()]
    assert best_share(outlook) == pytest.approx(expected, abs=0.01)
    assert 0.7 < expected < 0.9
    longest = Outlook(law, size=1e9, domain_tokens=5e8, tokens=5e8)
    assert best_share(longest) == pytest.approx(1.0)  # the run never runs out of the domain


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda law: fit_dcpt(None, [1e9] * 4, [0.1, 0.2, 0.3, 0.4], [1, 2, 3, 4]), "8 losses"),
        (lambda law: fit_dcpt(None, [1e9] * 9, [0.1, 0.2, 1.3] * 3, range(9)), "between 0 and 1"),
        (lambda law: fit_dcpt(None, [1e9] * 9, [0.1, 0.2, 0.3] * 3, range(9)), "3 different num"),
        (
            lambda law: fit_dcpt(None, [1, 2, 3] * 3, [0.1, 0.2] * 4 + [0.1], range(9)),
            "3 different",
        ),
        (lambda law: law.predict(None, 1e9, 0.1), "several sizes: give size"),
        (lambda law: best_share(Outlook(law, size=1e9, tokens=1e9)), "lowest at a share of 1"),
        (lambda law: best_share(Outlook(law, size=1e9, tokens=1e9), 0.5), "was not measured"),
        (lambda law: largest_share(Outlook(law, law, 1e9, 1e9), 0.1), "needs start"),
        (lambda law: largest_share(Outlook(law, law, 1e9, 1e9, start=1.0), 0.1), "without any of"),
        (lambda law: Outlook(law), "give tokens"),
    ],
)
def test_what_cannot_be_answered_is_one_sentence(exact, call, message):
    with pytest.raises(InputError, match=message):
        call(exact)
