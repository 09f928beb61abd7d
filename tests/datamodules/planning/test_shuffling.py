import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_pl.datamodules.planning.shuffling import key_of, shuffled

WORDS = st.integers(0, 2**64 - 1)


def whole(key: int, number: int, size: int) -> np.ndarray:
    """A whole pass."""
    ones = np.ones(size, np.int64)
    return shuffled(np.full(size, key, np.uint64), number * ones, np.arange(size), size * ones)


@given(WORDS, st.integers(0, 2**40), st.integers(1, 400))
@settings(max_examples=80, deadline=None)
def test_a_pass_is_a_permutation(key, number, size) -> None:
    assert sorted(whole(key, number, size).tolist()) == list(range(size))


@given(st.lists(st.tuples(WORDS, st.integers(0, 9), st.integers(1, 2**62)), min_size=1))
@settings(max_examples=30, deadline=None)
def test_rows_do_not_see_each_other_and_sizes_may_be_huge(rows) -> None:
    kinds = np.uint64, np.int64, np.int64
    columns = zip(*rows, strict=True)
    keys, passes, sizes = (np.array(c, kind) for c, kind in zip(columns, kinds, strict=True))
    places = sizes - 1
    together = shuffled(keys, passes, places, sizes)
    assert (together >= 0).all() and (together < sizes).all()  # noqa: PT018
    for row, index in enumerate(together):
        one = slice(row, row + 1)
        assert shuffled(keys[one], passes[one], places[one], sizes[one]) == index


@pytest.mark.parametrize("size", [2, 3, 7, 40])
def test_every_index_is_as_likely_at_every_place(size) -> None:
    """Chi-squared of place against index over many passes, within 5 deviations."""
    passes = 1500
    table = np.zeros((size, size))
    for number in range(passes):
        table[np.arange(size), whole(5, number, size)] += 1
    freedom = (size - 1) ** 2
    square = ((table - passes / size) ** 2 / (passes / size)).sum()
    assert abs(square - freedom) < 5 * np.sqrt(2 * freedom) + 5


@pytest.mark.parametrize("size", [3, 10, 31])
def test_neighbours_in_a_pass_are_no_neighbours_in_the_data(size) -> None:
    """All ordered pairs of indices are as likely to follow each other, within 5 deviations."""
    passes, table = 2500, np.zeros((size, size))
    for number in range(passes):
        order = whole(key_of(0, "train", "code"), number, size)
        np.add.at(table, (order[:-1], order[1:]), 1)
    assert table.trace() == 0
    expected = passes * (size - 1) / (size * (size - 1))
    pairs = table[~np.eye(size, dtype=bool)]
    freedom = len(pairs) - 1
    square = ((pairs - expected) ** 2 / expected).sum()
    assert abs(square - freedom) < 5 * np.sqrt(2 * freedom) + 5


def test_a_large_pass_has_as_many_descents_and_fixed_points_as_chance_gives() -> None:
    size, descents, fixed = 1000, [], []
    for number in range(200):
        order = whole(11, number, size)
        descents.append(np.count_nonzero(np.diff(order) < 0))
        fixed.append(np.count_nonzero(order == np.arange(size)))
    assert np.mean(descents) == pytest.approx((size - 1) / 2, abs=5 * np.sqrt(size / 12 / 200))
    assert np.std(descents) == pytest.approx(np.sqrt(size / 12), rel=0.25)
    assert np.mean(fixed) == pytest.approx(1.0, abs=5 / np.sqrt(200))


def test_keys_and_passes_change_the_order() -> None:
    orders = [whole(key, number, 30).tolist() for key in (0, 1, 2**63) for number in (0, 1)]
    assert len({tuple(order) for order in orders}) == 6
    names = [("train", "ab"), ("train", "a", "b"), ("traina", "b"), ("target", "ab")]
    assert len({key_of(seed, *parts) for seed in (0, 1, 10) for parts in names}) == 12
