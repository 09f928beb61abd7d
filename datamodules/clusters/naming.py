"""Name clusters by the terms that tell them apart."""

import re
from collections.abc import Collection, Iterable, Sequence

import numpy as np

TERMS = 12  # of each cluster on the page; the first three are its name
IN_NAME = 3
WORDS = r"[^\W\d_][^\W\d_]+"  # of letters only, at least two
#: Scripts without spaces between words: Thai and Lao, Burmese, Khmer, kana, ideographs.
UNSPACED = (
    "[\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u1000-\u103f\u1780-\u17d3"
    "\u3041-\u3096\u30a1-\u30fa\u30fc\u3005\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]"
)
MOST_WORDS = 50_000
LONGEST = 16  # characters of a term in a name
STEM = 5  # a term that begins as an earlier one does is left out


def telling_terms(texts: Sequence[str], labels: np.ndarray, number: int) -> list[list[str]]:
    """Return the most telling terms of each cluster, the best first.

    Terms are words, and pairs of characters where a script has no spaces. A term counts once a
    document. Its score is its part of the divergence between the cluster and the others,
    p log(p / q), with p and q its smoothed shares of documents.

    Args:
        texts: a sample of documents.
        labels: the cluster of each, `[documents]`.
        number: how many clusters there are.

    Example:
        >>> texts = ["the oven bakes", "the oven heats", "the code runs", "the code fails"]
        >>> telling_terms(texts, np.array([0, 0, 1, 1]), 2)
        [['oven'], ['code']]
    """
    from sklearn.feature_extraction.text import CountVectorizer

    words = CountVectorizer(
        token_pattern=f"{UNSPACED}{{2}}|{WORDS}",
        binary=True,
        max_features=MOST_WORDS,
        min_df=2,
        stop_words="english",
    )
    try:
        found = words.fit_transform(map(space_pairs, texts))
    except ValueError:  # no word is in two documents
        return [[] for _ in range(number)]
    names = words.get_feature_names_out()
    every = np.asarray(found.sum(axis=0)).ravel()
    terms = []
    for cluster in range(number):
        rows = np.flatnonzero(labels == cluster)
        inside = np.asarray(found[rows].sum(axis=0)).ravel()
        p = (inside + 0.5) / (len(rows) + 1)
        q = (every - inside + 0.5) / (len(texts) - len(rows) + 1)
        score = np.where((inside > 0) & (p > q), p * np.log(p / q), 0)
        order = np.lexsort((np.arange(len(score)), -score))[: 10 * TERMS]
        terms.append(_different(names[i] for i in order if score[i] > 0))
    return terms


def space_pairs(text: str) -> str:
    """Return text in which characters of scripts without spaces are in overlapping pairs.

    >>> space_pairs("see 東京駅")
    'see  東京 京駅 '
    """
    return re.sub(
        f"{UNSPACED}{{2,}}",
        lambda run: f" {' '.join(map(''.join, zip(run[0], run[0][1:], strict=False)))} ",
        text,
    )


def name_clusters(
    terms: Sequence[Sequence[str]], prefixes: Sequence[str], others: Collection[str] = ()
) -> list[str]:
    """Return a readable name for each cluster, each different from the others.

    Args:
        terms: telling terms of each cluster.
        prefixes: what each name begins with, such as the given domain "web/".
        others: names that no cluster gets.

    Example:
        >>> name_clusters([["oven", "bread", "flour", "dough"], ["oven", "bread", "flour"], []],
        ...               ["", "", "web/"])
        ['oven-bread-flour', 'oven-bread-flour-2', 'web/cluster']
    """
    names = [*others]
    for some, prefix in zip(terms, prefixes, strict=True):
        short = [term[:LONGEST] for term in some]
        name = prefix + ("-".join(short[:IN_NAME]) or "cluster")
        if name in names and len(some) > IN_NAME:
            name = f"{name}-{short[IN_NAME]}"
        count, first = 1, name
        while name in names:
            count += 1
            name = f"{first}-{count}"
        names.append(name)
    return names[len(others) :]


def _different(words: Iterable[str]) -> list[str]:
    terms: list[str] = []
    for word in words:
        if not any(word[:STEM] == term[:STEM] for term in terms):
            terms.append(str(word))
        if len(terms) == TERMS:
            break
    return terms
