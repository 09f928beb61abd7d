import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_pl.datamodules.text import near_duplicates
from tandem_pl.datamodules.text.near_duplicates import (
    WINDOW,
    HeldOutIndex,
    choose_shift,
    normalize,
    sample_windows,
    window_hashes,
)

WORDS = [f"word{i}" for i in range(3000)]


def make(seed, words=120):
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def windows(text):
    data = normalize(text)
    return [data[i : i + WINDOW] for i in range(len(data) - WINDOW + 1)]


def judge(test=(), target=(), train=(), shift=0, threshold=0.5):
    """What is dropped of each split: (test, target, train), as lists of bool."""
    hashes, counts = sample_windows([*test, *target], shift)
    is_test = np.arange(len(counts)) < len(test)
    index = HeldOutIndex(hashes, counts, is_test, threshold)
    resembles = index.judge(*sample_windows(list(train), shift)).tolist()
    held_out = index.finish().tolist()
    return held_out[: len(test)], held_out[len(test) :], resembles


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text("ab \n", max_size=150), max_size=5))
def test_equal_windows_have_equal_hashes_and_others_other_ones(texts):
    hashes, counts = sample_windows(texts, 0)
    every = [window for text in texts for window in windows(text)]
    assert counts.tolist() == [len(windows(text)) for text in texts]
    assert len(set(zip(every, hashes.tolist(), strict=True))) == len(set(every))
    assert len(set(hashes.tolist())) == len(set(every))


def test_the_hash_is_the_polynomial_it_says():
    data = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8)
    hashes = window_hashes(data)
    assert len(hashes) == 5000 - WINDOW + 1
    table = [int(value) for value in near_duplicates.TABLE]
    for start in (0, 1, 777, len(hashes) - 1):
        powers = (pow(near_duplicates.MULTIPLIER, j, 1 << 64) for j in range(WINDOW))
        bytes_ = data[start : start + WINDOW].tolist()
        value = sum(table[byte] * power for byte, power in zip(bytes_, powers, strict=True))
        assert int(hashes[start]) == value % (1 << 64)


def test_a_sample_is_chosen_by_content():
    texts = [make(seed) for seed in range(50)]
    all_hashes, all_counts = sample_windows(texts, 0)
    hashes, counts = sample_windows(texts, 3)
    assert set(hashes) == {value for value in all_hashes.tolist() if value < 2**61}
    assert counts.sum() == pytest.approx(all_counts.sum() / 8, rel=0.1)
    alone, _ = sample_windows([texts[7]], 3)
    assert alone.tolist() == hashes[counts[:7].sum() : counts[:8].sum()].tolist()


@pytest.mark.parametrize("shift", [0, 3])
def test_a_train_document_that_resembles_a_test_document(shift):
    test = make(0, 400)
    edited = test.replace("word1", "other1", 3).upper().replace(" ", " \n\t")
    half_new = " ".join(test.split()[:120]) + " " + make(1, 280)
    assert judge([test], [], [edited, half_new, make(2)], shift)[2] == [True, False, False]
    assert judge([], [test], [edited], shift)[2] == [True], "and one of the target split"
    assert judge([test], [], [half_new], shift, threshold=0.2)[2] == [True]


def test_a_target_document_gives_way_to_a_test_document():
    text = make(0)
    assert judge([text + " end"], [text, make(1)]) == ([False], [True, False], [])
    # A target document that goes is no reason for a training document to go.
    tail = make(2, 60)
    target = text + " " + tail
    assert judge([text + " end"], [target], [tail + " " + make(3)])[1:] == ([True], [False])


def test_a_held_out_document_within_longer_ones_goes():
    test, target = make(0), make(1)
    long = make(2, 600) + " " + test + " " + make(3, 600) + " " + target
    assert judge([test], [target], [long]) == ([True], [True], [False])
    words = target.split()
    pieces = [make(4, 300) + " " + " ".join(words[:40]), " ".join(words[40:80]) + make(5, 300)]
    assert judge([], [target], pieces) == ([], [True], [False, False]), "together they cover it"
    assert judge([], [target], pieces[:1])[1] == [False]
    assert judge([test], [make(2, 600) + test]) == ([True], [False], [])


def test_short_documents_are_duplicates_only_where_they_are_equal():
    assert judge(["x" * (WINDOW + 2)], [], ["x" * (WINDOW + 2), "", "short"])[2] == [False] * 3
    assert judge([], [], ["some text"]) == ([], [], [False])


def test_the_sample_keeps_memory_bounded():
    shifts = [choose_shift(10**power, 0.1) for power in range(4, 13)]
    assert shifts == sorted(shifts)
    assert shifts[0] == 0
    for power, shift in zip(range(4, 13), shifts, strict=True):
        assert 10**power * 0.1 / 2**shift <= near_duplicates.MAX_INDEX
