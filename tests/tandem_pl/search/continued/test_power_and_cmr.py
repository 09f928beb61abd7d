"""Power laws against published losses, and critical ratios against known crossings."""

import numpy as np
import pytest

from tandem_pl.errors import InputError
from tandem_pl.search.continued import (
    Continued,
    critical_ratios,
    fit_power,
    fit_two_powers,
    read_continued,
)

# Domain losses (finance) at shares 1, 3/4, 1/2, 1/3 and 1/4 of arXiv 2407.17467, Table 2
PUBLISHED = {
    "460M": [1.4628, 1.4844, 1.5122, 1.5387, 1.5561],
    "940M": [1.3723, 1.3910, 1.4155, 1.4385, 1.4538],
    "1.6B": [1.3242, 1.3416, 1.3643, 1.3854, 1.3994],
    "3.1B": [1.2585, 1.2750, 1.2965, 1.3170, 1.3305],
}
SHARES = np.array([1, 3 / 4, 1 / 2, 1 / 3, 1 / 4])


@pytest.mark.parametrize("losses", PUBLISHED.values(), ids=PUBLISHED.keys())
def test_the_fifth_published_loss_is_predicted_from_four(losses):
    law = fit_power(SHARES[:4], losses[:4])
    assert law.predict(SHARES[4]) == pytest.approx(losses[4], abs=1e-3)
    assert law.error < 5e-4


@pytest.mark.parametrize("losses", PUBLISHED.values(), ids=PUBLISHED.keys())
def test_the_published_table_is_read_as_it_is_printed(tmp_path, losses):
    rows = [
        f"{share},1e9,{loss}\n" for share, loss in zip([1, 0.75, 0.5, 0.33], losses, strict=False)
    ]
    (tmp_path / "runs.csv").write_text("ratio,tokens,general_loss\n" + "".join(rows))
    runs = read_continued(tmp_path / "runs.csv")
    assert runs.notes == ("shares that are written as 0.33 or 0.67 are read as thirds.",)
    (law,) = critical_ratios(runs, start=1.0).laws
    assert law.predict(0.25) == pytest.approx(losses[4], abs=2e-4)


@pytest.mark.parametrize(("alpha", "power", "beta"), [(0.5, 2.3, 1), (-0.3, 0.2, 2), (2, -1, 0)])
def test_a_power_law_recovers_its_coefficients(alpha, power, beta):
    x = np.array([0.125, 0.25, 0.5, 0.75, 1.0])
    law = fit_power(x, alpha * x**power + beta)
    assert law.coefficients == pytest.approx((alpha, power, beta), abs=1e-5)
    assert law.solve(alpha * 0.4**power + beta) == pytest.approx(0.4)


def test_a_logarithm_is_the_power_law_of_power_zero():
    x = np.array([1.0, 2.0, 4.0, 8.0])
    law = fit_power(x, 3 - 0.1 * np.log(x))
    assert law.predict([16.0]) == pytest.approx([3 - 0.1 * np.log(16)], abs=1e-6)
    assert law.solve(3 - 0.1 * np.log(16)) == pytest.approx(16, rel=1e-4)


def test_the_published_critical_ratio_of_20_billion_tokens_is_predicted_from_half_of_them():
    # arXiv 2407.17467: R(T) = .22524761 T^.26944345 - .48139982 of 460M, T in 0.2 billion tokens
    tokens = np.array([20, 30, 40, 50])
    ratios = 0.22524761 * tokens**0.26944345 - 0.48139982
    general = 3.0 + 0.05 * (SHARES[:, None] / ratios) ** 1.5  # rises by 0.05 at the ratio
    share, length = np.meshgrid(SHARES, tokens, indexing="ij")
    runs = Continued(share.ravel(), length.ravel(), None, None, general.ravel(), {None: 3.0})
    found = critical_ratios(runs, 0.05)
    assert found.ratios == pytest.approx(ratios, abs=1e-6)
    assert found.at() == pytest.approx(ratios[-1])
    assert found.at(30) == pytest.approx(ratios[1])
    assert found.at(100) == pytest.approx(0.297, abs=1e-3)
    assert found.doubts(100) == []
    assert "10.0 times" in found.doubts(500)[0]


def test_losses_that_rise_and_fall_again_are_two_powers():
    x = np.geomspace(1, 40, 9)
    y = 3.0 + 0.4 * x**-0.2 - 0.5 * x**-0.9
    law = fit_two_powers(x, y)
    assert sorted(law.powers) == pytest.approx([-0.9, -0.2], abs=1e-4)
    assert law.predict([120.0]) == pytest.approx([3.0 + 0.4 * 120**-0.2 - 0.5 * 120**-0.9])
    assert law.error < 1e-8
    assert fit_power(x, y).error > 0.005
    with pytest.raises(InputError, match="at least 6 different numbers above 0, and there are 5"):
        fit_two_powers(x[:5], y[:5])


def falling(lengths):
    """Return runs whose general loss is at first more than 0.04 above 3, whatever the share is."""
    share, tokens = (grid.ravel() for grid in np.meshgrid(SHARES, lengths))
    general = 3.0 + 0.2 * tokens**-0.3 + 0.2 * share**1.5 * tokens**-0.1
    return Continued(share, tokens, None, None, general, {None: 3.0})


def test_where_no_share_was_allowed_yet_the_losses_are_extrapolated():
    found = critical_ratios(falling(np.geomspace(10, 120, 8)), epsilon=0.04)
    assert found.ratios.tolist() == [0.0] * 8
    left = 0.04 - 0.2 * 300**-0.3
    assert found.at(300) == pytest.approx((left / (0.2 * 300**-0.1)) ** (1 / 1.5), abs=1e-3)
    assert "0.105 lies outside the shares measured" in found.doubts(300)[0]
    with pytest.raises(InputError, match="or 4 shares with 6 lengths: use one of 10, "):
        critical_ratios(falling(np.geomspace(10, 120, 5)), epsilon=0.04).at(300)


def continued(general, tokens=1e9, start=3.0):
    length = np.full(len(SHARES), float(tokens))
    return Continued(SHARES, length, None, None, np.asarray(general), {None: start})


def test_every_share_is_allowed_or_none():
    low, high = critical_ratios(continued(3.0 + 0.01 * SHARES)), None
    assert low.at() == 1.0
    assert "even on the domain alone" in low.doubts()[0]
    high = critical_ratios(continued(3.2 + 0.01 * SHARES))
    assert high.at() == 0.0
    assert "with any share" in high.doubts()[0]
    noisy = critical_ratios(continued(3.0 + np.array([0.1, 0.0, 0.1, 0.0, 0.05])))
    assert any("misses the general losses" in doubt for doubt in noisy.doubts())


def test_a_ratio_below_the_shares_measured_is_doubtful():
    found = critical_ratios(continued(3.0 + 0.5 * SHARES))
    assert found.at() == pytest.approx(0.1, abs=1e-6)
    assert "0.25 to 1" in found.doubts()[0]


def test_too_little_data_is_one_sentence():
    with pytest.raises(InputError, match="needs at least 4 different points, and the table has 3"):
        fit_power([1, 2, 3, 3], [1, 2, 3, 4])
    with pytest.raises(InputError, match="needs numbers above 0"):
        fit_power([0, 1, 2, 3], [1, 2, 3, 4])
    few = continued(3.0 + SHARES)
    scattered = Continued(SHARES, np.arange(1.0, 6.0), None, None, few.general, few.start)
    with pytest.raises(InputError, match="at least 4 shares above 0 at one number of tokens"):
        critical_ratios(scattered)
    with pytest.raises(InputError, match="was not measured, and a law of the tokens needs 4"):
        critical_ratios(few).at(2e9)
    with pytest.raises(InputError, match=r"give it by --start_loss, or in a row of 0 tokens"):
        critical_ratios(Continued(SHARES, few.tokens, None, None, few.general, {}))
