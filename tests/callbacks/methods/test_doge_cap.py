"""DoGE's official scores at their cap: the bound that keeps them below it, and the warning."""

import re
import warnings

import numpy as np
import pytest
import torch
from helpers import quiet_trainer
from hypothesis import given
from hypothesis import strategies as st
from toy import toy_data, toy_network

from tandem_pl import MixtureModule
from tandem_pl.callbacks import DoGEReweighting
from tandem_pl.callbacks.measures.alignment import Alignment
from tandem_pl.callbacks.methods.doge import official_scores
from tandem_pl.objectives import Classification


def sgd(parameters):
    return torch.optim.SGD(parameters, 0.1)


class Steep(Classification):
    """Gradients much longer than any max_norm here."""

    def __call__(self, network, samples):
        return 1000.0 * super().__call__(network, samples)


def caps(tmp_path, target, max_norm) -> list[str]:
    """Warnings about the cap in a run of 6 steps."""
    method = DoGEReweighting(target, "official", 0.01, max_norm, episode_steps=3)
    module = MixtureModule(toy_network(), Steep(), sgd)
    trainer = quiet_trainer(tmp_path, callbacks=[method], max_steps=6)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module, datamodule=toy_data())
    return [str(w.message) for w in caught if "at their cap" in str(w.message)]


def test_scores_at_the_cap_are_said_once(tmp_path) -> None:
    """All gradients are as long as max_norm: a sum of 3 of them gives scores up to 3 max_norm."""
    (message,) = caps(tmp_path, "train", 5.0)
    assert re.fullmatch(
        r"step [01]: [23] of 3 scores are at their cap, so the weights cannot tell these domains "
        r"apart: lower max_norm=5 to at most 1\.67 for target='train' and 3 domains\.",
        message,
    )
    (message,) = caps(tmp_path, "target", 500.0)
    assert message.endswith("lower max_norm=500 to at most 1 for target='target' and 3 domains.")


@pytest.mark.parametrize(
    ("target", "max_norm"), [("train", 5 / 3), ("others", 5 / 3), ("target", 1)]
)
def test_the_values_that_the_warning_names_end_it(target, max_norm, tmp_path) -> None:
    assert caps(tmp_path, target, max_norm) == []


@given(st.integers(1, 9), st.integers(0, 999))
def test_a_max_norm_of_5_over_m_never_reaches_the_cap(size, seed) -> None:
    gradients = np.random.default_rng(seed).normal(0.3, 1, (size, 4))
    norms = np.linalg.norm(gradients, axis=1)
    gradients *= np.minimum(1, 5 / size / norms)[:, None]
    norms = np.linalg.norm(gradients, axis=1)
    scores = official_scores(gradients @ gradients.sum(axis=0), norms, np.ones(size, bool), 1.0)
    assert scores.max() < 5


@pytest.mark.parametrize(
    ("products", "warned"),
    [
        ([5.1, 5.1, 5.1, 0.0, 0.0], True),
        ([5.1, 5.1, 0.0, -9.0, 0.0], False),  # three of five are at 0, as they may be
        ([5.1, 5.1, 0.0, 0.0], False),  # half are not most
    ],
)
@pytest.mark.parametrize("absent", [0, 2])
def test_most_scores_are_more_than_half_of_those_measured(products, warned, absent) -> None:
    method, size = DoGEReweighting("train"), len(products)
    counts = np.array([1.0] * size + [0.0] * absent)
    numbers = np.append(products, np.zeros(absent)), counts.copy(), counts
    method.signal, method.domains = Alignment(*numbers, torch.zeros(0)), ("a",) * len(counts)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        method._warn_at_cap(3)
        method._warn_at_cap(4)
    assert len(caught) == warned
