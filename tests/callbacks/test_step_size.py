"""The step size of mixture updates against its definition, and what it is invariant to."""

import numpy as np
import pytest

from tandem_pl.callbacks.step_size import centred, mean_square, scale_free_rate
from tandem_pl.simplex import projected_step


def follow(gradients, start):
    """Return the weights after each of some gradients [T, M], by the product's functions."""
    weights, total, rows = start, 0.0, []
    for number, gradient in enumerate(gradients, 1):
        total += mean_square(gradient)
        weights = projected_step(weights, gradient, scale_free_rate(total, number) / len(start))
        rows.append(weights)
    return np.stack(rows)


@pytest.fixture
def gradients():
    means = np.array([0.3, 0.1, 0.0, -0.1, -0.3])
    return np.random.default_rng(0).normal(means, size=(40, 5))


START = np.full(5, 0.2)


def test_follows_the_definition(gradients):
    """alpha - (c / M) d / sqrt(S (1 + n0 / t)), where no weight reaches 0."""
    d = gradients - gradients.mean(axis=1, keepdims=True)
    total = np.cumsum((d**2).mean(axis=1))
    t = np.arange(1, 4)
    steps = 2.0 / 5 * d[:3] / np.sqrt(total[:3] * (1 + 100 / t))[:, None]
    np.testing.assert_allclose(follow(gradients[:3], START), 0.2 - steps.cumsum(axis=0), rtol=1e-12)


@pytest.mark.parametrize("change", [lambda g: 1e6 * g, lambda g: 1e-6 * g, lambda g: g + 7.0])
def test_units_and_constants_change_nothing(change, gradients):
    expected = follow(gradients, START)
    np.testing.assert_allclose(follow(change(gradients), START), expected, rtol=1e-7, atol=1e-9)


def test_the_order_of_domains_changes_nothing(gradients):
    order = [3, 0, 4, 1, 2]
    expected = follow(gradients, START)[:, order]
    np.testing.assert_allclose(follow(gradients[:, order], START), expected, rtol=1e-9)


def test_equal_gradients_move_nothing():
    assert (follow(np.ones((3, 5)), START) == START).all()


def test_domains_that_were_not_measured_do_not_count():
    """One measured domain in two: the others neither move nor set the scale."""
    gradient, measured = np.array([1.0, 50.0, 3.0, 50.0]), np.array([True, False, True, False])
    assert centred(gradient, measured).tolist() == [-1.0, 0.0, 1.0, 0.0]
    assert mean_square(gradient, measured) == 0.5
    assert mean_square(gradient, np.zeros(4, bool)) == 0.0
