"""Fits of learning curves: known laws, an independent minimiser, bounds, and outliers."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.signal import savgol_filter

from tandem_pl.callbacks.measures.power_law import PowerLaw, fit_power_law, smooth

N = np.linspace(500, 64_000, 100)


@pytest.mark.parametrize(
    "truth", [(1.2, 3.0, 0.3), (0.8, 40.0, 0.5), (2.0, 0.4, 0.1), (1.0, 9.0, 0.75)]
)
def test_a_known_law_is_found(truth) -> None:
    law = fit_power_law(N, PowerLaw(*truth)(N), 0.1)
    np.testing.assert_allclose(law(N), PowerLaw(*truth)(N), rtol=1e-3)
    if truth[2] >= 0.3:  # a flat curve leaves its parts open
        np.testing.assert_allclose(law, truth, rtol=0.05)


def huber_error(point, losses) -> float:
    """ADO's objective, written plainly."""
    a, e, alpha = point
    gap = abs(np.log(np.exp(e) + np.exp(a) / N**alpha) - np.log(losses))
    return np.where(gap > 1e-3, 1e-3 * (gap - 0.5e-3), 0.5 * gap**2).sum()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_start_of_the_whole_grid_does_better(seed) -> None:
    """Noise of a training run; every 37th of the 512 starts by another minimiser."""
    source = np.random.default_rng(seed)
    losses = PowerLaw(1.3, 6.0, 0.35)(N) * np.exp(0.02 * source.standard_normal(len(N)))
    law = fit_power_law(N, losses, 0.5)
    mine = huber_error((np.log(law.scale), np.log(law.irreducible), law.exponent), losses)
    grid = [
        (a, e, k) for a in range(-2, 6) for e in np.arange(-2, 2, 0.5) for k in np.arange(8) / 10
    ]
    bounds = [(-20, 6.5), (np.log(0.5), 20), (0, 0.8)]
    ends = np.transpose(bounds)
    others = [
        minimize(huber_error, np.clip(start, *ends), (losses,), "Nelder-Mead", bounds=bounds).fun
        for start in grid[seed::37]
    ]
    assert mine <= min(others) * 1.001


def test_outliers_are_robustly_ignored() -> None:
    truth = PowerLaw(1.2, 8.0, 0.4)
    losses = truth(N)
    losses[::10] *= 1.5
    np.testing.assert_allclose(fit_power_law(N, losses, 0.1)(N), truth(N), rtol=5e-3)


def test_bounds_hold() -> None:
    steep = fit_power_law(N, 1.0 + 1e9 / N**2, 0.1)
    assert steep.exponent <= 0.8
    assert steep.scale <= np.exp(6.5) * (1 + 1e-9)
    assert fit_power_law(N, PowerLaw(0.5, 3.0, 0.3)(N), 0.9).irreducible >= 0.9 * (1 - 1e-9)
    rising = fit_power_law(N, 1.0 + N / N.max(), 0.1)
    assert rising.exponent >= 0


def test_a_flat_curve_is_all_irreducible() -> None:
    for losses in (np.full(len(N), 0.7), 0.7 + 0.01 * np.sin(N), 0.6 + 0.1 * N / N.max()):
        law = fit_power_law(N, losses, 0.1)
        assert law(N[-1]) - law.irreducible < 1e-3
        assert law.irreducible == pytest.approx(np.median(losses), rel=0.03)


def test_no_fit_without_positive_finite_losses() -> None:
    assert fit_power_law(N, np.zeros(len(N)), 0.1) is None
    assert fit_power_law(N, np.full(len(N), np.nan), 0.1) is None


def test_smoothing() -> None:
    losses = np.random.default_rng(0).random((200, 3))
    np.testing.assert_allclose(smooth(losses, 101), savgol_filter(losses.T, 101, 3).T)
    np.testing.assert_allclose(smooth(losses[:7], 101), savgol_filter(losses[:7].T, 7, 3).T)
    assert smooth(losses, 1) is losses
    assert smooth(losses[:4], 10).shape == (4, 3)
    cubic = np.arange(30.0)[:, None] ** 3
    np.testing.assert_allclose(smooth(cubic, 11), cubic, atol=1e-6)
