"""Search in rounds on losses whose best mixture is known."""

import sys

import numpy as np
import pytest

from tandem_pl.errors import InputError
from tandem_pl.search import Runs
from tandem_pl.search.rounds import search_in_rounds

DOMAINS = ("web", "code", "books", "math")
BEST = np.array([0.3, 0.5, 0.15, 0.05])


def evaluate(points):
    """Return the cross-entropy of the best shares under each mixture."""
    return Runs(DOMAINS, points, {"loss": -np.log(points + 0.02) @ BEST})


def test_later_rounds_are_near_the_best_mixture():
    found, runs = search_in_rounds(evaluate, DOMAINS, rounds=(24, 12, 6), law="gaussian_process")
    assert len(runs) == 42
    distances = 0.5 * np.abs(runs.weights - BEST).sum(axis=1)
    assert distances[36:].mean() < 0.5 * distances[:24].mean()
    weights = np.array(list(found.weights.values()))
    value = evaluate(weights[None]).metrics["loss"]
    lost = (value - evaluate(BEST[None]).metrics["loss"]).item()
    assert lost < 0.02
    assert found.gain > 0


def test_trees_are_fitted_in_rounds_of_few_mixtures():
    pytest.importorskip("lightgbm")
    found, runs = search_in_rounds(evaluate, DOMAINS, rounds=(48, 24), law="lightgbm")
    distances = 0.5 * np.abs(runs.weights - BEST).sum(axis=1)
    assert distances[48:].mean() < 0.8 * distances[:48].mean()
    weights = np.array(list(found.weights.values()))
    values = evaluate(np.stack([weights, np.full(4, 0.25), BEST])).metrics["loss"]
    assert values[0] - values[2] < 0.4 * (values[1] - values[2])


def test_equal_seeds_give_equal_searches_and_caps_hold():
    options = {
        "rounds": (20, 5),
        "law": "linear",
        "caps": {"code": 0.3},
        "prior": [0.1, 0.4, 0.3, 0.2],
    }
    first, runs = search_in_rounds(evaluate, DOMAINS, **options, seed=3)
    second, _ = search_in_rounds(evaluate, DOMAINS, **options, seed=3)
    assert first.weights == second.weights
    assert first.weights["code"] <= 0.3
    assert runs.weights[:, 0].max() <= 0.4 + 1e-9  # four times the prior


def test_several_metrics_are_ranked_together():
    def two(points):
        own = evaluate(points)
        return Runs(DOMAINS, points, own.metrics | {"large": 1000 * own.metrics["loss"]})

    _, one = search_in_rounds(evaluate, DOMAINS, rounds=(20, 5), law="linear")
    _, both = search_in_rounds(two, DOMAINS, rounds=(20, 5), law="linear")
    assert both.weights == pytest.approx(one.weights)


def test_too_few_mixtures_are_one_sentence():
    with pytest.raises(InputError, match="must be numbers of mixtures"):
        search_in_rounds(evaluate, DOMAINS, rounds=())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"rounds": (4, 99)},
            r"needs at least 5 mixtures in the first round, and rounds=\[4, 99\]",
        ),
        ({"law": "linera"}, "did you mean 'linear'"),
        ({"law": "bimix"}, "is of runs of several lengths"),
        ({"law": "lightgbm"}, r"needs LightGBM .*: pip install 'tandem_pl\[search\]'"),
        ({"caps": {"web": 0.1, "code": 0.1, "books": 0.1, "math": 0.1}}, "caps sum to 0.4"),
        ({"caps": {"wiki": 0.1}}, "unknown domain 'wiki'"),
        ({"prior": [0.4, 0.2, 0.2, 0.1]}, "prior must be .* sum to 0.9"),
        ({"domains": ["web"]}, "needs two or more domains"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_evaluated(monkeypatch, options, message):
    def never(points):
        raise AssertionError

    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(InputError, match=message):
        search_in_rounds(never, **{"domains": DOMAINS, "law": "linear", **options})
