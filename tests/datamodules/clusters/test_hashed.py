import numpy as np
import pytest

pytest.importorskip("sklearn")

from cluster_texts import documents
from sklearn.feature_extraction.text import CountVectorizer

from tandem_pl.datamodules.clusters import hashed
from tandem_pl.datamodules.clusters.hashed import HashedEmbedder, _count_trigrams, excerpt

TEXTS = ["Some text, with\n\n  spaces", "a", "naïve 東京タワー 🎈🎈🎈", "aaaa aaaa", "", "ß" * 9]


def test_trigrams_are_counted_as_scikit_learn_counts_them():
    spaced = [f" {' '.join(text.lower().split())} " for text in TEXTS]
    expected = CountVectorizer(analyzer="char", ngram_range=(3, 3)).fit_transform(spaced)
    counts = _count_trigrams(TEXTS)
    assert counts.has_canonical_format
    for row in range(len(TEXTS)):  # no two of these share a hash
        assert sorted(counts[row].data) == sorted(expected[row].data)
    assert (counts[0] != _count_trigrams(TEXTS[::-1])[5]).nnz == 0


def test_an_embedding_does_not_depend_on_the_other_documents(monkeypatch):
    texts = [text for _, text in documents(20)]
    embedder = HashedEmbedder()
    embedder.fit(texts, 0)
    whole = embedder.embed(texts)
    assert whole.dtype == np.float32
    assert np.array_equal(whole[7:8], embedder.embed(texts[7:8]))
    monkeypatch.setattr(hashed, "AT_ONCE", 3)
    assert np.array_equal(whole, embedder.embed(texts))


def test_the_length_of_an_embedding_is_small_for_unknown_text():
    embedder = HashedEmbedder()
    embedder.fit([text for _, text in documents(40)], 0)
    known, unknown = embedder.embed(["bread flour oven yeast crust", "Широка страна моя родная"])
    assert np.linalg.norm(known) > 0.3
    assert np.linalg.norm(unknown) < 0.05


def test_excerpts_come_from_the_whole_length():
    text = "".join(f"{i:04d}" for i in range(2500))
    pieces = excerpt(text).split("\n")
    assert len(pieces) == 8
    assert pieces[0] == text[:250]
    assert pieces[-1] == text[-250:]
    assert all(piece in text for piece in pieces)
