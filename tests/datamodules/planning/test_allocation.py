"""How many samples each domain gets in a batch."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_pl.datamodules.planning.allocation import allocate, draw


@st.composite
def timelines(draw, zeros: bool) -> tuple[int, list[tuple[list[float], int, int]]]:
    """Episodes of (weights, batches, batch size) for up to 12 domains."""
    count = draw(st.integers(1, 12))
    lowest = 0 if zeros else 1
    weights = st.lists(
        st.one_of(st.integers(lowest, 3), st.integers(1, 1000)), min_size=count, max_size=count
    ).filter(any)
    one = st.tuples(weights, st.integers(1, 4), st.sampled_from([1, 1, 2, 3, 16, 64]))
    episodes = draw(st.lists(one, min_size=1, max_size=25))
    return count, [
        ([weight / math.fsum(raw) for weight in raw], batches, size)
        for raw, batches, size in episodes
    ]


def largest_gap(count: int, timeline) -> float:
    """|asked - drawn| of any domain after any batch, added up exactly and apart from the debts."""
    asked, drawn, worst = [Fraction(0)] * count, [0] * count, Fraction(0)
    debts = np.zeros(count)
    for weights, batches, size in timeline:
        for _ in range(batches):
            counts, debts = allocate(debts, np.array(weights), size)
            assert counts.sum() == size
            assert counts.min() >= 0
            for m in range(count):
                asked[m] += size * Fraction(weights[m])
                drawn[m] += int(counts[m])
                worst = max(worst, abs(asked[m] - drawn[m]))
                assert float(asked[m] - drawn[m]) == pytest.approx(debts[m], abs=1e-9)
    return float(worst)


@given(timelines(zeros=False))
@settings(max_examples=60, deadline=None)
def test_drawn_samples_stay_near_the_asked_ones_while_weights_change(problem) -> None:
    """At most H_M - 1 samples, H_M = 1 + 1/2 + ... + 1/M, or 1: 2.1 for a dozen domains."""
    count, timeline = problem
    bound = max(1.0, sum(1 / k for k in range(2, count + 1)))
    assert largest_gap(count, timeline) <= bound + 1e-9


@given(timelines(zeros=True))
@settings(max_examples=60, deadline=None)
def test_drawn_samples_stay_near_the_asked_ones_while_domains_come_and_go(problem) -> None:
    """A domain of weight 0 is never drawn and keeps its debt, so the gap can reach (M - 1) / 2."""
    count, timeline = problem
    assert largest_gap(count, timeline) <= max(1.0, (count - 1) / 2) + 1e-9


@given(timelines(zeros=True))
@settings(max_examples=40, deadline=None)
def test_under_one_mixture_no_domain_is_a_whole_sample_ahead(problem) -> None:
    _, timeline = problem
    weights, _, size = timeline[0]
    debts = np.zeros(len(weights))
    for _ in range(40):
        _, debts = allocate(debts, np.array(weights), size)
        assert debts.min() > -1.0


@given(timelines(zeros=True), st.integers(0, 2**32))
@settings(max_examples=80, deadline=None)
def test_slots_go_one_by_one_to_the_largest_debt(problem, seed) -> None:
    """In fractions, from any debts: the counts of the definition, with its ties."""
    count, timeline = problem
    owed = [Fraction(int(n), 64) for n in np.random.default_rng(seed).integers(-200, 200, count)]
    raw, _, size = timeline[0]
    weights = [Fraction(round(1024 * weight), 1024) for weight in raw]
    if not any(weights):
        return
    debts = np.array([float(debt) for debt in owed])
    counts, after = allocate(debts, np.array([float(weight) for weight in weights]), size)
    owed = [debt + size * weight for debt, weight in zip(owed, weights, strict=True)]
    expected = [0] * count
    for _ in range(size):
        best = max((m for m in range(count) if weights[m]), key=lambda m: (owed[m], -m))
        owed[best] -= 1
        expected[best] += 1
    assert counts.tolist() == expected
    active = [m for m in range(count) if weights[m]]
    assert after[active].tolist() == [float(owed[m]) for m in active]


def test_the_worst_weights_without_zeros_reach_the_harmonic_gap() -> None:
    """Ask evenly for the domains that were not drawn yet: the last one waits longest."""
    waiting, debts, tiny = list(range(12)), np.zeros(12), 1e-9
    while len(waiting) > 1:
        weights = np.full(12, tiny)
        weights[waiting] = 1.0
        counts, debts = allocate(debts, weights / weights.sum(), 1)
        waiting.remove(int(counts.argmax()))
    harmonic = sum(1 / k for k in range(2, 13))
    assert np.abs(debts).max() == pytest.approx(harmonic, abs=1e-6)


def test_ties_go_to_the_lowest_number() -> None:
    assert allocate(np.zeros(3), np.full(3, 1 / 3), 1)[0].tolist() == [1, 0, 0]
    assert allocate(np.zeros(3), np.full(3, 1 / 3), 2)[0].tolist() == [1, 1, 0]


def test_allocating_leaves_its_arguments_alone() -> None:
    debts, weights = np.array([0.5, -0.5]), np.array([0.3, 0.7])
    allocate(debts, weights, 5)
    draw(debts, weights, 5, [1])
    assert debts.tolist() == [0.5, -0.5]
    assert weights.tolist() == [0.3, 0.7]
