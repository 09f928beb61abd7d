"""Demo corpora whose training domains are clusters: held-out text stays that of the labels."""

import warnings

import pytest

pytest.importorskip("sklearn")

from cluster_texts import documents

from tandem_pl.datamodules import EnvironmentInstructions, ProblemCorpus
from tandem_pl.datamodules.clusters import hashed
from tandem_pl.datamodules.clusters.options import ClusterOptions
from tandem_pl.datamodules.demo.tasks import CATEGORIES
from tandem_pl.datamodules.demo.without_labels import cluster_texts

SIZES = {"target_bytes": 2000, "test_bytes": 2000, "max_document_bytes": 1000, "block_size": 64}


@pytest.fixture(autouse=True)
def _few_features(monkeypatch, tmp_path):
    monkeypatch.setattr(hashed, "BITS", 12)
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))


def opened(kind, **options):
    data = kind(**options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.setup()
    return data


@pytest.mark.parametrize(
    ("kind", "options", "names"),
    [
        (
            ProblemCorpus,
            {"problem": "distractors", "scale": 0.03, **SIZES},
            ("python", "readmes", "stubs"),
        ),
        (
            EnvironmentInstructions,
            {
                "train_samples": dict.fromkeys(CATEGORIES, 30),
                "target_samples": 6,
                "test_samples": 6,
            },
            CATEGORIES,
        ),
    ],
)
def test_clusters_take_the_place_of_labels_in_training_alone(kind, options, names):
    labelled = opened(kind, **options)
    data = opened(kind, cluster=3, **options)
    assert len(data.train_sets) == 3
    assert not set(data.train_sets) & set(names)
    unit = "train_samples" if kind is EnvironmentInstructions else "train_documents"
    count, before = (sum(row[unit] for row in d.summary()) for d in (data, labelled))
    assert count == before
    assert set(data.target_sets) == set(data.test_sets) == set(names)
    for name in names:
        for sets in ("target_sets", "test_sets"):
            pair = getattr(data, sets)[name], getattr(labelled, sets)[name]
            tokens = [[some[i]["input_ids"].tolist() for i in range(len(some))] for some in pair]
            assert tokens[0] == tokens[1]
        assert sum(data.target_clusters[name].values()) == pytest.approx(1, abs=1e-5)


def test_no_cluster_has_the_name_of_held_out_data():
    pairs = documents(20)
    texts = [text for _, text in pairs]
    options = ClusterOptions.checked(3, False, None, None, 0)
    found, _ = cluster_texts(texts, {}, options, [])
    held_out = sorted(set(found))
    names, summary = cluster_texts(texts, {held_out[0]: texts[:9]}, options, held_out)
    assert len(set(names)) == 3
    assert not set(names) & set(held_out)
    assert set(summary["targets"][held_out[0]]["shares"]) == set(names)
