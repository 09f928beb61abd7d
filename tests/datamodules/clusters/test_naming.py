import numpy as np
import pytest

pytest.importorskip("sklearn")

from cluster_texts import TOPICS, documents

from tandem_pl.datamodules.clusters.naming import name_clusters, telling_terms


def test_terms_are_those_of_the_topic():
    pairs = documents(40)
    labels = np.array([list(TOPICS).index(topic) for topic, _ in pairs])
    terms = telling_terms([text for _, text in pairs], labels, 3)
    for own, some in zip(TOPICS.values(), terms, strict=True):
        assert len(some) >= 8
        assert set(some[:8]) <= set(own)


def test_forms_of_a_word_count_once_and_stop_words_do_not():
    texts = [
        "the license licensed licensee grants",
        "the license licensed licensee grants",
        "x",
        "y",
    ]
    assert telling_terms(texts, np.array([0, 0, 1, 1]), 2) == [["grants", "license"], []]


def test_names_stay_different():
    same = ["oven", "bread", "flour"]
    names = name_clusters([same, same, [*same, "dough"], [], []], ["", "", "", "", ""])
    assert len(set(names)) == 5
    assert names[0] == "oven-bread-flour"
    assert "oven-bread-flour-dough" in names


def test_long_words_are_cut_in_names():
    assert len(name_clusters([["a" * 500, "b" * 500, "c" * 500]], [""])[0]) < 60


def test_names_avoid_others():
    terms = [["oven"], ["code"], ["code"]]
    assert name_clusters(terms, ["", "", ""], ["code"]) == ["oven", "code-2", "code-3"]


@pytest.mark.parametrize(
    ("topics", "glue"),
    [
        (("面包面粉烤箱黄油酵母蛋糕", "帆船海港船长水手锚链潮汐"), "的在了和是我"),
        (("パンオーブン小麦粉バター", "帆船港船長水夫錨潮甲板嵐"), "のはがをにで"),
        (("ขนมปังแป้งเตาอบเนย", "เรือใบท่าเรือกัปตันสมอ"), "และของที่ใน"),
    ],
)
def test_text_without_spaces_has_terms(topics, glue):
    draw = np.random.default_rng(0)
    labels = np.repeat([0, 1], 30)
    texts = [
        "".join(
            glue[i : i + 2] + topics[label][j : j + 4]
            for i, j in zip(draw.integers(0, 4, 20), draw.integers(0, 8, 20), strict=True)
        )
        for label in labels
    ]
    for own, terms in zip(topics, telling_terms(texts, labels, 2), strict=True):
        assert len(terms) >= 3
        assert all(term in own for term in terms[:3])
