"""Which documents clusters are made of, and those of given domains, by way of `prepare`."""

import csv
from collections import Counter

import numpy as np
import pytest

pytest.importorskip("sklearn")

from cluster_texts import PREPARE, documents, write_lines

from tandem_pl.cli.prepare import remarks
from tandem_pl.datamodules import TextMixtureDataModule
from tandem_pl.datamodules.clusters import build, hashed
from tandem_pl.datamodules.text.prepare import prepare_corpus
from tandem_pl.errors import InputError

PAIRS = documents()
pytestmark = pytest.mark.usefixtures("few_features")


def listing(out):
    with (out / "clusters.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_new_documents_of_a_given_domain_take_its_clusters(tmp_path):
    """Whatever the order of domains; those of another name take the nearest of all."""
    texts = [text for _, text in PAIRS]
    names = ["web", "books"] * 90
    path = write_lines(tmp_path / "docs.jsonl", texts, domain=names)
    options = {**PREPARE, "dataset": path, "cluster": 3}
    first = prepare_corpus(str(tmp_path / "first"), cluster_within=True, **options)
    options["cluster"] = str(tmp_path / "first")
    again = prepare_corpus(str(tmp_path / "again"), **options)
    assert again["clusters"]["domains"] == first["clusters"]["domains"]
    paths = {
        name: write_lines(tmp_path / f"{name}.jsonl", texts[start:stop:step])
        for name, start, stop, step in (
            ("web", 0, 90, 2), ("new", 0, 90, 1), ("books", 91, 180, 2)
        )
    }  # fmt: skip
    del options["dataset"]
    prepare_corpus(str(tmp_path / "other"), paths, **options)
    rows = {row["document"]: row for row in listing(tmp_path / "first")}
    prefixes = {name: set() for name in paths}
    for row in listing(tmp_path / "other"):
        prefixes[row["given_domain"]].add(row["domain"].split("/")[0])
        if row["given_domain"] != "new":
            line = int(row["document"].rpartition(" ")[2])
            number = 2 * line - 1 if row["given_domain"] == "web" else 90 + 2 * line
            assert row["domain"] == rows[f"{path}, line {number}"]["domain"]
    assert prefixes == {"web": {"web"}, "books": {"books"}, "new": {"web", "books"}}


def test_a_given_domain_that_cannot_be_divided_stays_one(tmp_path):
    texts = {"web": PAIRS[:100], "notes": PAIRS[100:105], "tiny": PAIRS[105:108]}
    paths = {
        name: write_lines(tmp_path / f"{name}.jsonl", [text for _, text in some])
        for name, some in texts.items()
    }
    manifest = prepare_corpus(
        str(tmp_path / "out"), paths, cluster="auto", cluster_within=True, **PREPARE
    )
    found = Counter(name.split("/")[0] for name in manifest["clusters"]["domains"])
    assert found == {"web": 3, "notes": 1, "tiny": 1}
    with pytest.raises(InputError, match="of domain 'tiny' needs at least 4 different documents"):
        prepare_corpus(str(tmp_path / "o"), paths, cluster=4, cluster_within=True, **PREPARE)


@pytest.mark.filterwarnings("ignore:480 documents were clustered")
def test_repeats_are_no_cluster_of_their_own(tmp_path):
    """Exact repeats are dropped later, so nothing would be left for two of its splits."""
    repeats = ["404 page not found sorry error"] * 200 + ["access denied please log in"] * 100
    path = write_lines(tmp_path / "docs.jsonl", [text for _, text in PAIRS] + repeats)
    data = TextMixtureDataModule(
        dataset=path, cluster="auto", block_size=16, cache_dir=str(tmp_path / "cache")
    )
    data.setup()
    assert len(data.train_sets) == 3
    assert sum(row["train_documents"] for row in data.summary()) > 160


def test_features_are_learned_of_few_documents_if_clusters_are_many(tmp_path, monkeypatch):
    """Their memory is by the document, and must not grow with the number of clusters."""
    monkeypatch.setattr(build, "SAMPLE", 30)
    sizes, fit = [], hashed.HashedEmbedder.fit

    def counted(self, texts, seed):
        sizes.append(len(texts))
        fit(self, texts, seed)

    monkeypatch.setattr(hashed.HashedEmbedder, "fit", counted)
    path = write_lines(tmp_path / "docs.jsonl", [text for _, text in PAIRS])
    prepare_corpus(str(tmp_path / "out"), dataset=path, cluster=3, **PREPARE)
    assert sizes == [30]
    pairs = zip([topic for topic, _ in PAIRS], listing(tmp_path / "out"), strict=True)
    found = Counter((topic, row["domain"]) for topic, row in pairs)
    assert sorted(found.values()) == [60, 60, 60]


def test_clusters_within_domains_do_not_depend_on_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(hashed, "DIMENSIONS", 4)  # so that the last bits count
    paths = {
        name: write_lines(tmp_path / f"{name}.jsonl", [text for _, text in some])
        for name, some in (("web", PAIRS[:70]), ("books", PAIRS[70:]))
    }
    found = []
    for number, names in enumerate((["web", "books"], ["books", "web"])):
        out = tmp_path / str(number)
        given = {name: paths[name] for name in names}
        prepare_corpus(str(out), given, cluster=5, cluster_within=True, **PREPARE)
        with np.load(out / "clusters" / "arrays.npz") as file:
            found.append(file["directions"])
    assert np.array_equal(*found)


@pytest.mark.parametrize(("cluster", "size"), [("auto", 20), (3, 30)])
def test_the_sample_of_many_given_domains_is_bounded(cluster, size, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "SAMPLE", 40)
    monkeypatch.setattr(build, "SAMPLE_EACH", 10)
    sizes, draw = [], build.sample_documents

    def counted(documents, pools, size, seed):
        sizes.append(size)
        return draw(documents, pools, size, seed)

    monkeypatch.setattr(build, "sample_documents", counted)
    texts = [text for _, text in PAIRS]
    path = write_lines(tmp_path / "docs.jsonl", texts, domain=["web", "books"] * 90)
    options = {**PREPARE, "dataset": path, "cluster_within": True}
    prepare_corpus(str(tmp_path / "out"), cluster=cluster, smallest_cluster=1, **options)
    assert sizes == [size]


def test_a_target_has_no_share_of_a_cluster_without_documents(tmp_path):
    """With the clusters of a folder, some have no document of the new data."""
    path = write_lines(tmp_path / "docs.jsonl", [text for _, text in PAIRS])
    prepare_corpus(str(tmp_path / "first"), dataset=path, cluster=3, **PREPARE)
    new = write_lines(tmp_path / "new.jsonl", [text for topic, text in PAIRS if topic != "chess"])
    chess = [text for topic, text in documents(9, seed=1) if topic == "chess"]
    manifest = prepare_corpus(
        str(tmp_path / "out"),
        dataset=new,
        target={"exam": write_lines(tmp_path / "exam.jsonl", chess)},
        cluster=str(tmp_path / "first"),
        **PREPARE,
    )
    shares = manifest["clusters"]["targets"]["exam"]["shares"]
    assert set(shares) == set(manifest["splits"]["train"])
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    located = [row["domain"] for row in listing(tmp_path / "out") if row["given_domain"] == "exam"]
    assert set(located) <= set(shares)


def test_small_clusters_that_were_merged_are_said(tmp_path):
    path = write_lines(tmp_path / "docs.jsonl", [text for _, text in PAIRS])
    options = {"dataset": path, "cluster": 12, "smallest_cluster": 40}
    manifest = prepare_corpus(str(tmp_path / "out"), **options, **PREPARE)
    (said,) = manifest["clusters"]["remarks"]
    assert said in remarks(manifest)
    left = len(manifest["clusters"]["domains"])
    assert said.startswith(f"12 clusters were asked for; {12 - left} with fewer than 40 documents")
    data = TextMixtureDataModule(**options, block_size=16, cache_dir=str(tmp_path / "cache"))
    with pytest.warns(UserWarning, match=r"see .*clusters\.html; 12 clusters were asked for"):
        data.setup()


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_any_seed_can_be_given(seed, tmp_path):
    path = write_lines(tmp_path / "docs.jsonl", [text for _, text in PAIRS])
    options = {**PREPARE, "dataset": path, "split_seed": seed}
    assert prepare_corpus(str(tmp_path / "out"), cluster=3, **options)["clusters"]
