import io

import numpy as np
import pytest

from tandem_pl.plots import MOST_DOMAINS, draw_mixture


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def bands(figure):
    """[M] upper edge of each stacked area at its last step."""
    edges = []
    for area in figure.axes[0].collections:
        corners = area.get_paths()[0].vertices
        edges.append(corners[corners[:, 0] == corners[:, 0].max(), 1].max())
    return np.array(edges)


def trajectory(domains, steps=5, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(domains), size=steps)


def test_areas_end_at_the_last_shares_and_labels_are_the_averages():
    weights = trajectory(3)
    figure = draw_mixture(["a", "b", "c"], range(5), weights, weights.mean(axis=0))
    np.testing.assert_allclose(bands(figure), np.cumsum(weights[-1]))
    means = weights.mean(axis=0)
    assert texts(figure) == [f"{n} {100 * w:.1f} %" for n, w in zip("abc", means, strict=True)]
    assert figure.axes[0].get_xlabel().endswith("numbers: average weights")


@pytest.mark.parametrize("domains", [3, 10, 11, 20, 30])
def test_every_band_has_a_colour_of_its_own(domains):
    weights = trajectory(domains)
    figure = draw_mixture([f"d{m}" for m in range(domains)], range(5), weights, weights[-1])
    colours = [tuple(area.get_facecolor()[0]) for area in figure.axes[0].collections]
    assert len(set(colours)) == len(colours) == min(domains, MOST_DOMAINS)


def test_one_row_can_be_drawn():
    figure = draw_mixture(["a", "b"], [0], np.array([[0.25, 0.75]]), np.array([0.25, 0.75]))
    np.testing.assert_allclose(bands(figure), [0.25, 1.0])
    figure.savefig(io.BytesIO(), format="png")


def test_small_domains_become_one_band_and_shares_still_sum_to_one():
    names = [f"d{m}" for m in range(30)]
    weights = trajectory(30)
    average = weights.mean(axis=0)
    figure = draw_mixture(names, range(5), weights, average)
    labels = texts(figure)
    assert len(labels) == MOST_DOMAINS
    assert labels[-1].startswith(f"{30 - MOST_DOMAINS + 1} others")
    assert sum(float(label.split()[-2]) for label in labels) == pytest.approx(100, abs=1.1)
    largest = names[int(average.argmax())]
    assert any(label.startswith(f"{largest} ") for label in labels)
    assert bands(figure)[-1] == pytest.approx(1.0)


def test_labels_do_not_overlap_and_stay_inside():
    weights = np.zeros((2, 15))
    weights[:, 0] = 1.0  # 14 bands of no height
    figure = draw_mixture([f"d{m}" for m in range(15)], [0, 1], weights, weights[-1])
    heights = np.array([text.xy[1] for text in figure.axes[0].texts])
    assert (np.diff(heights) > 0.03).all()
    assert heights.min() >= 0
    assert heights.max() <= 1


def test_leaves_the_trajectory_alone_and_needs_no_display(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    weights = trajectory(4)
    before = weights.copy()
    draw_mixture(list("abcd"), range(5), weights, weights[-1]).savefig(io.BytesIO(), format="png")
    assert np.array_equal(weights, before)
