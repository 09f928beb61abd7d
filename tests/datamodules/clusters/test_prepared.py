import csv
import shutil
from collections import Counter

import numpy as np
import pytest
import yaml

pytest.importorskip("sklearn")

from cluster_texts import PREPARE, TOPICS, documents, write_lines

from tandem_pl.cli.prepare import main, remarks
from tandem_pl.datamodules import PreparedTextDataModule
from tandem_pl.datamodules.clusters import documents as cluster_documents
from tandem_pl.datamodules.clusters import hashed
from tandem_pl.datamodules.clusters.model import ClusterModel
from tandem_pl.datamodules.text.prepare import prepare_corpus
from tandem_pl.errors import InputError

PAIRS = documents()


@pytest.fixture(scope="module", autouse=True)
def _few_features():
    """Keep the arrays of hashed features small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashed, "BITS", 12)
        yield


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    """A JSON lines file without labels, with an empty document and a repeat."""
    texts = [text for _, text in PAIRS]
    return write_lines(tmp_path_factory.mktemp("texts") / "docs.jsonl", ["  ", *texts, texts[5]])


@pytest.fixture(scope="module")
def corpus(unlabelled, tmp_path_factory):
    """A corpus of three clusters, and its manifest."""
    out = tmp_path_factory.mktemp("corpus") / "out"
    return out, prepare_corpus(str(out), dataset=unlabelled, cluster=3, **PREPARE)


def listing(out):
    with (out / "clusters.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def topics_of(out, pairs):
    """The topics that the documents of each cluster have."""
    rows = zip([topic for topic, _ in pairs], listing(out), strict=False)
    return Counter((row["domain"], topic) for topic, row in rows)


def test_the_clusters_are_the_topics(corpus):
    out, manifest = corpus
    found = topics_of(out, PAIRS)
    assert sorted(found.values()) == [60, 60, 60]
    for domain, topic in found:
        assert set(domain.split("-")) <= set(TOPICS[topic])
        assert manifest["clusters"]["domains"][domain]["terms"][:3] == domain.split("-")
    assert sum(row["documents"] for row in manifest["clusters"]["domains"].values()) == 181
    assert manifest["read_as"] == {
        "documents": [{"read_as": "JSON lines", "files": 1, "rows": 182}]
    }


def test_the_corpus_is_served_by_cluster(corpus):
    out, manifest = corpus
    data = PreparedTextDataModule(str(out))
    data.setup()
    assert list(data.train_sets) == list(manifest["clusters"]["domains"])
    assert not (out / "rows.arrow").exists()


def test_the_listing_has_every_document_and_its_split(corpus, unlabelled):
    out, manifest = corpus
    rows = listing(out)
    assert [row["document"] for row in rows] == [f"{unlabelled}, line {i}" for i in range(2, 183)]
    counts = Counter((row["split"], row["domain"]) for row in rows)
    assert sum(n for (split, _), n in counts.items() if split == "dropped") == 1
    for split, domains in manifest["splits"].items():
        for domain, row in domains.items():
            assert counts[split, domain] == row["documents"]


def test_new_documents_get_the_same_clusters(corpus, tmp_path):
    out, _ = corpus
    moved = tmp_path / "moved"
    shutil.copytree(out, moved)
    names = ClusterModel.load(moved).assign([text for _, text in PAIRS])
    assert names == [row["domain"] for row in listing(out)][:-1]
    new = write_lines(tmp_path / "new.jsonl", [text for _, text in documents(30, seed=1)])
    manifest = prepare_corpus(str(tmp_path / "again"), dataset=new, cluster=str(moved), **PREPARE)
    assert set(topics_of(tmp_path / "again", documents(30, seed=1)).values()) == {30}
    assert manifest["clusters"]["fingerprint"] == ClusterModel.load(out).fingerprint()


def test_clusters_do_not_depend_on_workers_folders_or_batches(
    unlabelled, corpus, tmp_path, monkeypatch
):
    monkeypatch.setattr(cluster_documents, "BATCH_DOCUMENTS", 7)
    copy = tmp_path / "elsewhere.jsonl"
    shutil.copy(unlabelled, copy)
    out = tmp_path / "out"
    other = prepare_corpus(str(out), dataset=str(copy), cluster=3, **{**PREPARE, "workers": 3})
    assert other["clusters"] == corpus[1]["clusters"]
    assert other["fingerprint"] == corpus[1]["fingerprint"]
    strip = [{**row, "document": ""} for row in listing(out)]
    assert strip == [{**row, "document": ""} for row in listing(corpus[0])]


def test_the_page_is_one_file_with_all_clusters(corpus):
    page = (corpus[0] / "clusters.html").read_text(encoding="utf-8")
    for domain in corpus[1]["clusters"]["domains"]:
        assert f">{domain}</h2>" in page
    assert page.count("<pre>") == 15
    assert "http" not in page
    assert "<script" not in page


def test_auto_finds_the_topics(unlabelled, tmp_path):
    prepare_corpus(str(tmp_path / "out"), dataset=unlabelled, cluster="auto", **PREPARE)
    assert sorted(topics_of(tmp_path / "out", PAIRS).values()) == [60, 60, 60]


def test_clusters_within_given_domains(tmp_path):
    web = {topic: TOPICS[topic] for topic in ("baking", "sailing")}
    paths = {
        "web": write_lines(tmp_path / "w.jsonl", [t for _, t in documents(40, topics=web)]),
        "books": write_lines(tmp_path / "b.jsonl", [t for _, t in PAIRS[:120]]),
    }
    manifest = prepare_corpus(
        str(tmp_path / "out"), paths, cluster=2, cluster_within=True, **PREPARE
    )
    domains = list(manifest["clusters"]["domains"])
    assert [domain.split("/")[0] for domain in domains] == ["web", "web", "books", "books"]
    for row in listing(tmp_path / "out"):
        assert row["domain"].startswith(f"{row['given_domain']}/")
    PreparedTextDataModule(str(tmp_path / "out")).setup()


def test_a_target_gets_shares_of_clusters_and_a_remark_if_it_is_far(unlabelled, tmp_path):
    near = [text for topic, text in documents(20, seed=2) if topic != "chess"]
    draw = np.random.default_rng(0)
    alphabet = list("абвгдежзиклмнопрстуфхцчшщ")
    far = [" ".join("".join(draw.choice(alphabet, 6)) for _ in range(20)) for _ in range(20)]
    target = {
        "near": write_lines(tmp_path / "near.jsonl", near),
        "far": write_lines(tmp_path / "far.jsonl", far),
    }
    out = tmp_path / "out"
    manifest = prepare_corpus(str(out), dataset=unlabelled, cluster=3, target=target, **PREPARE)
    shares = manifest["clusters"]["targets"]["near"]["shares"]
    assert sorted(shares.values()) == pytest.approx([0, 0.5, 0.5])
    said = [line for line in remarks(manifest) if "far from all clusters" in line]
    assert len(said) == 1
    assert said[0].startswith("target 'far'")
    data = PreparedTextDataModule(str(out))
    data.setup()
    assert data.target_clusters["near"] == shares
    rows = [row for row in listing(out) if row["given_domain"] == "near"]
    assert Counter(row["split"] for row in rows) == {"target": 38, "test": 2}
    assert "far from all clusters" in (out / "clusters.html").read_text(encoding="utf-8")


def test_embeddings_computed_elsewhere(tmp_path):
    vectors = [np.eye(3)[list(TOPICS).index(topic)].tolist() for topic, _ in PAIRS]
    texts = [text for _, text in PAIRS]
    texts[0] = ""  # has a row in the file, and is no document
    path = write_lines(tmp_path / "docs.jsonl", texts, vector=vectors)
    np.save(tmp_path / "e.npy", np.array(vectors))
    for number, embedder in enumerate(("column:vector", str(tmp_path / "e.npy"))):
        out = tmp_path / f"out{number}"
        prepare_corpus(str(out), dataset=path, cluster=3, embedder=embedder, **PREPARE)
        assert sorted(topics_of(out, PAIRS[1:]).values()) == [59, 60, 60]
    np.save(tmp_path / "e.npy", np.array(vectors)[:-1])
    with pytest.raises(InputError, match=r"has 179 rows, and the data have more.*line 180"):
        prepare_corpus(str(tmp_path / "o"), dataset=path, cluster=3, embedder=embedder, **PREPARE)


def test_options_that_cannot_be_used(unlabelled, corpus, tmp_path):
    def refuse(match, **options):
        with pytest.raises(InputError, match=match):
            prepare_corpus(str(tmp_path / "o"), dataset=unlabelled, **options, **PREPARE)
        assert not (tmp_path / "o").exists()

    refuse("cluster=1 must be at least 2", cluster=1)
    refuse("cluster=500 needs at least 500 different documents, not 180", cluster=500)
    refuse("is no number, not auto", cluster="autos")
    refuse("cluster='' is no number", cluster="")
    refuse("holds no clusters that can be read", cluster=str(tmp_path))
    refuse("smallest_cluster=0", cluster=3, smallest_cluster=0)
    refuse("all clusters are merged into one", cluster=3, smallest_cluster=150)
    refuse("is no folder of a model2vec", cluster=3, embedder=str(tmp_path))
    refuse("smallest_cluster=3 is used only with cluster", smallest_cluster=3)
    refuse("cluster_within=True does not go", cluster=str(corpus[0]), cluster_within=True)
    refuse("embedder=5 is no text", cluster=3, embedder=5)
    refuse("smallest_cluster='few' must be a whole number", cluster=3, smallest_cluster="few")
    refuse(r"as domain_column, or leave cluster_within out\.$", cluster=3, cluster_within=True)


def test_empty_documents_are_refused(corpus, tmp_path):
    path = write_lines(tmp_path / "empty.jsonl", ["", " \n"])
    for cluster in (2, "auto", str(corpus[0])):
        with pytest.raises(InputError, match="finds no document that is not empty"):
            prepare_corpus(str(tmp_path / "o"), dataset=path, cluster=cluster, **PREPARE)


def test_clusters_with_too_little_text_are_refused_with_advice(unlabelled, tmp_path):
    options = {**PREPARE, "block_size": 4000}
    with pytest.raises(InputError, match=r"fewer than one block.* or a larger smallest_cluster"):
        prepare_corpus(str(tmp_path / "o"), dataset=unlabelled, cluster=3, **options)
    with pytest.raises(InputError, match=r"or more documents\.$"):
        prepare_corpus(str(tmp_path / "o"), {"all": unlabelled}, **options)


def test_a_cluster_of_near_duplicates_is_merged(tmp_path):
    """Its test document is one of them, so the others are dropped."""
    licence = "this licence grants permission to copy modify merge and sublicense the software "
    licences = [licence * 4 + str(number) for number in range(40)]
    path = write_lines(tmp_path / "docs.jsonl", [text for _, text in PAIRS] + licences)
    options = {**PREPARE, "near_duplicate": 0.5, "dataset": path}
    manifest = prepare_corpus(str(tmp_path / "out"), cluster=4, **options)
    (merged,) = manifest["clusters"]["merged"]
    assert set(merged.split("-")) <= set(licence.split())
    assert len(manifest["splits"]["train"]) == 3
    assert Counter(row["domain"] for row in listing(tmp_path / "out")).most_common()[0][1] == 100
    assert f"too little text in a split: clusters {merged}" in "".join(remarks(manifest))
    model = ClusterModel.load(tmp_path / "out")
    assert model.fingerprint() == manifest["clusters"]["fingerprint"]
    assert model.assign(licences[:1]) == [next(iter(manifest["splits"]["train"]))]
    only = write_lines(tmp_path / "only.jsonl", licences)
    options["dataset"] = only
    with pytest.raises(InputError, match=r"leaves no target data, .* or make new clusters"):
        prepare_corpus(str(tmp_path / "o"), cluster=str(tmp_path / "out"), **options)


def topic_texts(topic, each, seed=1):
    return [text for _, text in documents(each, topics={topic: TOPICS[topic]}, seed=seed)]


@pytest.mark.parametrize("resemble", [False, True])
def test_small_clusters_of_a_folder_have_no_held_out_data_or_are_left_out(
    resemble, corpus, tmp_path
):
    """Of sailing there is one document, or copies of it; that of chess has less than a block."""
    sailing = [
        text + f" {i}" for text in topic_texts("sailing", 1) for i in range(1 + 6 * resemble)
    ]
    texts = [*topic_texts("baking", 30), *sailing, "bishop rook"]
    target = {"exam": write_lines(tmp_path / "exam.jsonl", topic_texts("chess", 9))}
    path = write_lines(tmp_path / "new.jsonl", texts)
    options = {**PREPARE, "near_duplicate": 0.6, "dataset": path, "cluster": str(corpus[0])}
    baking, lone, out = ClusterModel.load(corpus[0]).assign([texts[0], sailing[0], texts[-1]])
    for number, more in enumerate(({}, {"target": target})):
        folder = tmp_path / f"out{number}"
        manifest = prepare_corpus(str(folder), **options, **more)
        splits = manifest["splits"]
        assert set(splits["train"]) == set(manifest["clusters"]["domains"]) == {baking, lone}
        assert set(splits["test"]) == {baking, *more.get("target", ())}
        assert splits["train"][lone]["documents"] == len(sailing)
        split_of = {row["document"]: row["split"] for row in listing(folder)}
        assert split_of[f"{path}, line {len(texts)}"] == "dropped"
        said = "\n".join(remarks(manifest))
        assert f"without held-out data, for too little text in a split: clusters {lone}\n" in said
        assert f"left out, for too little text to train on: clusters {out}" in said
        data = PreparedTextDataModule(str(folder))
        data.setup()
        assert set(data.target_clusters.get("exam", {baking, lone})) == {baking, lone}
    assert sum(data.target_clusters["exam"].values()) == pytest.approx(1)


def test_clusters_of_a_folder_that_are_all_too_small_are_refused(corpus, tmp_path):
    options = {**PREPARE, "cluster": str(corpus[0])}
    for texts, match in ((["bishop rook"], "no cluster has enough"), (PAIRS[0][1:], "no target")):
        path = write_lines(tmp_path / "few.jsonl", texts)
        with pytest.raises(InputError, match=rf"{match}.* or make new clusters of them"):
            prepare_corpus(str(tmp_path / "o"), dataset=path, **options)


@pytest.mark.parametrize("train_bpe", [None, 300])
def test_a_cluster_with_less_than_a_block_in_a_split_is_merged(train_bpe, tmp_path):
    """Its only test document is shorter than a block."""
    chess = {"chess": TOPICS["chess"]}
    texts = [text for topic, text in PAIRS if topic != "chess"]
    texts += [text for _, text in documents(12, words=6, topics=chess)]
    path = write_lines(tmp_path / "docs.jsonl", texts)
    options = {**PREPARE, "block_size": 64, "dataset": path, "train_bpe": train_bpe}
    out = tmp_path / "out"
    manifest = prepare_corpus(str(out), cluster=3, **options)
    (merged,) = manifest["clusters"]["merged"]
    assert set(merged.split("-")) <= set(TOPICS["chess"])
    assert sorted(row["documents"] for row in manifest["clusters"]["domains"].values()) == [60, 72]
    assert len(list(out.glob("*/*.arrow"))) == 6
    data = PreparedTextDataModule(str(out))
    data.setup()
    assert list(data.train_sets) == list(manifest["clusters"]["domains"])


def test_a_model_of_another_clustering_is_refused(corpus, unlabelled, tmp_path):
    out = tmp_path / "out"
    prepare_corpus(str(out), dataset=unlabelled, cluster=2, **PREPARE)
    mixed = tmp_path / "mixed"
    shutil.copytree(out, mixed)
    shutil.rmtree(mixed / "clusters")
    shutil.copytree(corpus[0] / "clusters", mixed / "clusters")
    with pytest.raises(InputError, match="not those of the manifest"):
        ClusterModel.load(mixed)
    shutil.copy(out / "clusters" / "arrays.npz", mixed / "clusters" / "arrays.npz")
    with pytest.raises(InputError, match="not those of the manifest"):
        ClusterModel.load(mixed / "clusters")


def test_the_verb_takes_the_options_from_yaml(unlabelled, tmp_path, capsys):
    config = tmp_path / "prepare.yaml"
    config.write_text(f"dataset: {unlabelled}\ncluster: 3\nblock_size: 16\nnear_duplicate: null\n")
    out = tmp_path / "out"
    main(["prepare", "--config", str(config), "--out", str(out), "--smallest-cluster", "5"])
    printed = capsys.readouterr().out
    assert f"{out}/clusters.html" in printed
    written = yaml.safe_load((out / "fit.yaml").read_text())
    assert written["data"]["init_args"]["weights"] == "uniform"


def test_a_run_begins_at_the_targets_shares_of_the_clusters(unlabelled, tmp_path):
    """As `fit.yaml` says, if target data lie in them."""
    baking = [text for topic, text in documents(20, seed=2) if topic == "baking"]
    exam = write_lines(tmp_path / "exam.jsonl", baking)
    out = tmp_path / "out"
    config = {"dataset": unlabelled, "cluster": 3, "block_size": 16, "near_duplicate": None}
    (tmp_path / "prepare.yaml").write_text(yaml.safe_dump(config))
    given = ["--config", str(tmp_path / "prepare.yaml"), "--target.exam", exam, "--out", str(out)]
    main(["prepare", *given])
    written = yaml.safe_load((out / "fit.yaml").read_text())
    data = PreparedTextDataModule(**written["data"]["init_args"])
    data.setup("fit")
    assert data.mixture.weights == data.target_clusters["exam"]
    assert max(data.mixture.weights.values()) == 1


def test_too_little_text_of_a_target_is_no_matter_of_clusters(unlabelled, tmp_path):
    """Its documents resemble its test document, so they are dropped."""
    exam = ["this licence grants permission to copy and merge " * 4 + str(i) for i in "ab"]
    target = {"exam": write_lines(tmp_path / "exam.jsonl", exam)}
    options = {**PREPARE, "near_duplicate": 0.5, "dataset": unlabelled, "target": target}
    with pytest.raises(InputError, match=r"'exam' has no document left .* other documents\.$"):
        prepare_corpus(str(tmp_path / "o"), cluster=3, **options)
