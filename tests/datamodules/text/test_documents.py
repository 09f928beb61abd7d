import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_pl.checks import check_fractions
from tandem_pl.datamodules.sources.domains import open_source
from tandem_pl.datamodules.text.documents import (
    DROPPED,
    SPLIT_CODES,
    Part,
    assign_splits,
    document_key,
    document_keys,
    read_texts,
    select_documents,
)
from tandem_pl.errors import InputError


def expected_splits(domains, target, test, seed):
    """The rule in plain Python: rank the distinct texts of a domain by their keys."""
    seen, result = set(), []
    for texts in domains:
        distinct = list(dict.fromkeys(text for text in texts if text not in seen))
        if len(distinct) < 3:
            return None
        ranked = sorted(distinct, key=lambda text: document_key(text, seed))
        tests = max(1, min(round(test * len(ranked)), len(ranked) - 2))
        targets = max(1, min(round(target * len(ranked)), len(ranked) - tests - 1))
        names = ["test"] * tests + ["target"] * targets
        names += ["train"] * (len(ranked) - len(names))
        result.append((dict(zip(ranked, names, strict=True)), len(distinct)))
        seen.update(distinct)
    return result


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.lists(st.text(max_size=3), min_size=3), min_size=1, max_size=3),
    st.floats(0.01, 0.49),
    st.floats(0.01, 0.49),
    st.integers(0, 2**63),
)
def test_every_text_falls_in_one_split(domains, target, test, seed):
    keys = {Part(str(i)): document_keys(texts, seed) for i, texts in enumerate(domains)}
    expected = expected_splits(domains, target, test, seed)
    if expected is None:
        with pytest.raises(InputError, match=r"distinct documents?|also in an earlier domain"):
            assign_splits(keys, target, test)
        return
    codes = assign_splits(keys, target, test)
    for texts, (splits, count), row in zip(domains, expected, codes.values(), strict=True):
        found = {text: code for text, code in zip(texts, row, strict=True) if code != DROPPED}
        assert {text: SPLIT_CODES[name] for text, name in splits.items()} == found
        assert (row == DROPPED).sum() == len(texts) - count
        kept = [text for text, code in zip(texts, row, strict=True) if code != DROPPED]
        assert len(kept) == len(set(kept)), "each text once"


def test_keys_order_as_bytes_do():
    texts = [f"text {i}" for i in range(200)]
    keys = document_keys(texts, 3)
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    assert [texts[i] for i in order] == sorted(texts, key=lambda text: document_key(text, 3))
    assert document_keys([], 3).shape == (0, 2)


def test_blank_texts_are_left_out_and_others_must_be_strings(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": " \\n"}\n{"text": null}\n{"text": "x "}\n')
    with pytest.raises(InputError, match=r"a\.jsonl, line 2 has a 'text' of type NoneType"):
        list(read_texts(open_source("d", str(tmp_path))))
    source = open_source("d", str(tmp_path), corrupt="skip")
    assert list(read_texts(source)) == ["x "]
    assert source.skipped == 1


def test_a_source_that_changes_between_passes():
    wanted = np.array([True, False, True])
    assert list(select_documents("d", "abc", wanted)) == ["a", "c"]
    for texts in ("ab", "abcd"):
        message = f"domain 'd' had 3 documents when it was read first and {len(texts)}"
        with pytest.raises(InputError, match=message):
            list(select_documents("d", texts, wanted))


@pytest.mark.parametrize("fractions", [(0.0, 0.1), (0.1, 1.0), (0.5, 0.5)])
def test_fractions_that_leave_nothing(fractions):
    with pytest.raises(InputError, match="must be above 0 and below 1"):
        check_fractions(*fractions)
