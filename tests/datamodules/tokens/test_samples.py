"""Pieces, blocks and rows, and what is held out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_pl.datamodules.tokens.pieces import Buffer, Pieces
from tandem_pl.datamodules.tokens.samples import LEAST_SAMPLES, TokenSamples, hold_out
from tandem_pl.datamodules.tokens.sources import Tokens
from tandem_pl.errors import InputError


def pieces_of(*arrays):
    """An array a piece, each between other bytes in a buffer of its own."""
    parts = []
    for number, array in enumerate(arrays):
        data = np.concatenate([np.full(number % 3, 9, array.dtype), array, array[:1]])
        start = (number % 3) * array.itemsize
        parts.append(Pieces.rows(Buffer(data.view(np.uint8), array.dtype), [start], [len(array)]))
    return Pieces.chain(parts)


def tokens_of(*arrays, rows=False, labels=None):
    return Tokens("t", "path", pieces_of(*arrays), labels, rows, ("megatron",))


ARRAYS = st.lists(
    st.tuples(st.sampled_from(["u1", "<u2", "<i4", "<i8"]), st.integers(0, 6)),
    min_size=1,
    max_size=6,
).map(lambda parts: [np.arange(size).astype(dtype) + 1 for dtype, size in parts])


@given(ARRAYS, st.integers(0, 30), st.integers(0, 30))
def test_any_part_of_a_sequence(arrays, start, length):
    pieces = pieces_of(*arrays)
    whole = np.concatenate(arrays).tolist()
    start = min(start, len(whole))
    stop = min(start + length, len(whole))
    assert len(pieces) == len(whole)
    for each in (pieces, pieces.joined()):
        assert each.read(start, stop).tolist() == whole[start:stop]
    assert pieces.largest() == max(whole, default=-1)
    slices = list(pieces.groups(most=4))
    assert [n for s in slices for n in range(s.start, s.stop)] == list(range(len(arrays)))


def test_neighbours_in_a_file_become_one_piece():
    data = np.arange(10, dtype="<u2")
    rows = Pieces.rows(Buffer(data.view(np.uint8), data.dtype), [0, 6, 10, 16], [3, 2, 2, 2])
    joined = rows.joined()
    assert (joined.starts.tolist(), joined.lengths.tolist()) == ([0, 16], [7, 2])
    assert joined.read(0, 9).tolist() == rows.read(0, 9).tolist() == [*range(7), 8, 9]


def test_blocks_are_consecutive_tokens():
    samples = TokenSamples("t", tokens_of(np.arange(5), np.arange(5, 13)), 4)
    assert [s["input_ids"].tolist() for s in samples] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
    ]
    assert samples.tokens_per_sample == 4
    assert samples[1]["input_ids"].dtype.is_floating_point is False
    with pytest.raises(IndexError):
        samples[3]
    chosen = TokenSamples("t", samples.tokens, 4, np.array([[2, 3], [0, 1]]), labelled=True)
    assert [s["labels"].tolist() for s in chosen] == [[8, 9, 10, 11], [0, 1, 2, 3]]
    sample = chosen[0]
    sample["labels"][0] = -100
    assert chosen[0]["input_ids"].tolist() == [8, 9, 10, 11], "nothing is shared"


def test_rows_are_samples():
    tokens = tokens_of(np.arange(3), np.arange(5), rows=True)
    assert [len(s["input_ids"]) for s in TokenSamples("t", tokens, 5)] == [3, 5]
    with pytest.raises(InputError, match="t has a row of 5 tokens, more than block_size 4"):
        TokenSamples("t", tokens, 4)


@pytest.mark.parametrize("bad", [-1, 10, 2**40])
def test_ids_out_of_the_vocabulary(bad):
    samples = TokenSamples("train['web']", tokens_of(np.array([0, 1, 2, bad])), 2, vocab_size=10)
    assert samples[0]["input_ids"].tolist() == [0, 1]
    with pytest.raises(InputError, match=rf"train\['web'\] has the token {bad} in sample 1"):
        samples[1]


@given(
    st.integers(10, 4000),
    st.sampled_from([(0.05, 0.05), (0.2, 0.1), (0.0, 0.3), (0.3, 0.0), (0.0, 0.0), (0.001, 0.4)]),
    st.integers(0, 3),
)
def test_what_is_held_out(samples, shares, seed):
    fractions = dict(zip(("target", "test"), shares, strict=True))
    parts = hold_out(samples, fractions, seed, "web")
    numbers = {
        split: np.concatenate([np.arange(a, b) for a, b in ranges] or [np.arange(0)])
        for split, ranges in parts.items()
    }
    assert sorted(np.concatenate(list(numbers.values()))) == list(range(samples))
    for split, share in fractions.items():
        assert len(numbers[split]) == (max(round(share * samples), 1) if share else 0)
        pieces = len(parts[split])
        assert pieces <= 16
        assert pieces <= max(len(numbers[split]) // LEAST_SAMPLES, 1)
        assert all((np.diff(row) > 0).all() for row in parts[split])
    again = hold_out(samples, fractions, seed, "web")
    assert all(np.array_equal(parts[split], again[split]) for split in parts)


def test_other_seeds_and_domains_hold_out_other_blocks():
    def starts(seed, name):
        return tuple(hold_out(4000, {"test": 0.1}, seed, name)["test"][:, 0].tolist())

    assert len({starts(seed, name) for seed in range(3) for name in ("web", "code")}) == 6
    with pytest.raises(InputError, match="web has 2 samples, too few to hold out target and test"):
        hold_out(2, {"target": 0.05, "test": 0.05}, 0, "web")
