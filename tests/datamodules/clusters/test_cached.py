import csv
import json

import numpy as np
import pytest

pytest.importorskip("sklearn")

from cluster_texts import TOPICS, documents, write_lines

from tandem_pl.cli import main
from tandem_pl.datamodules import InstructionMixtureDataModule, TextMixtureDataModule
from tandem_pl.datamodules.clusters import cached
from tandem_pl.datamodules.clusters.model import ClusterModel
from tandem_pl.datamodules.text.prepare import prepare_corpus
from tandem_pl.errors import InputError
from tandem_pl.mixture import Mixture
from tandem_pl.run_files import folder_of_clusters

PAIRS = documents()
pytestmark = pytest.mark.usefixtures("few_features")


def text_module(tmp_path, **options):
    data = TextMixtureDataModule(cache_dir=str(tmp_path / "cache"), **options)
    data.setup()
    return data


def test_the_text_data_module_has_the_clusters_of_prepare(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "docs.jsonl", [text for _, text in PAIRS])
    options = {"dataset": path, "cluster": 3, "block_size": 16}
    manifest = prepare_corpus(str(tmp_path / "out"), near_duplicate=None, **options)
    with pytest.warns(UserWarning, match="180 documents were clustered into 3 domains"):
        data = text_module(tmp_path, **options)
    assert data.manifest["splits"] == manifest["splits"]
    (page,) = (tmp_path / "cache").glob("clusters-*/clusters.html")
    with monkeypatch.context() as patch:  # other blocks need no other clusters
        patch.setattr(cached, "cluster_sources", None)
        other = text_module(tmp_path, **{**options, "block_size": 8})
    assert list(other.train_sets) == list(data.train_sets)
    with pytest.warns(UserWarning, match="were clustered"):
        same = text_module(tmp_path, **{**options, "cluster": str(page.parent)})
    assert same.manifest["splits"] == manifest["splits"]


def test_the_shares_of_a_target_are_kept_with_the_samples(tmp_path):
    path = write_lines(tmp_path / "docs.jsonl", [text for _, text in PAIRS])
    exam = [text for topic, text in documents(9, seed=3) if topic == "chess"]
    target = {"exam": write_lines(tmp_path / "exam.jsonl", exam)}
    for _ in range(2):  # the second time from the cache
        data = text_module(tmp_path, dataset=path, target=target, cluster=3, block_size=16)
        assert list(data.target_sets) == ["exam"]
        (nearest,) = (name for name, share in data.target_clusters["exam"].items() if share)
        assert data.target_clusters["exam"][nearest] == 1
        assert set(nearest.split("-")) <= set(TOPICS["chess"])
    rows = [{"prompt": f"Tell me {i}", "response": text} for i, (_, text) in enumerate(PAIRS)]
    exam_rows = [{"prompt": f"Now {i}", "response": text} for i, text in enumerate(exam)]
    for name, some in (("all", rows), ("exam", exam_rows)):
        lines = [json.dumps(row) + "\n" for row in some]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    chats = InstructionMixtureDataModule(
        dataset=str(tmp_path / "all.jsonl"),
        target={"exam": str(tmp_path / "exam.jsonl")},
        cluster=3,
        max_length=512,
        cache_dir=str(tmp_path / "cache"),
    )
    chats.setup()
    assert sorted(chats.target_clusters["exam"].values()) == [0, 0, 1]


@pytest.mark.parametrize("chats", [False, True])
def test_instructions_are_clustered_by_prompt_and_response(chats, tmp_path):
    rows = []
    for number, (topic, text) in enumerate(PAIRS):
        prompt, response = f"Tell me {number}", text
        turns = [("user", prompt), ("assistant", response)]
        messages = [{"role": role, "content": content} for role, content in turns]
        columns = {"messages": messages} if chats else {"prompt": prompt, "response": response}
        rows.append({**columns, "topic": topic})
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"messages_column": "messages"} if chats else {}
    data = InstructionMixtureDataModule(
        dataset=str(path), cluster=3, max_length=512, cache_dir=str(tmp_path / "cache"), **options
    )
    data.setup()
    assert len(data.train_sets) == 3
    for row in data.summary():
        kept = sum(row[f"{split}_samples"] for split in ("train", "target", "test"))
        assert kept == 60
    for domain in data.train_sets:
        assert any(set(domain.split("-")) <= set(own) for own in TOPICS.values())


@pytest.mark.parametrize("chats", [False, True])
def test_small_clusters_of_a_folder_are_said(chats, tmp_path):
    """Of sailing there is one document; all of chess is in the target."""
    path = write_lines(tmp_path / "docs.jsonl", [text for _, text in PAIRS])
    corpus = str(tmp_path / "corpus")
    options = {"block_size": 16, "near_duplicate": None, "workers": 1}
    prepare_corpus(corpus, dataset=path, cluster=3, **options)
    new = {topic: [t for some, t in documents(9, seed=1) if some == topic] for topic in TOPICS}
    names = ClusterModel.load(corpus).assign([texts[0] for texts in new.values()])
    train = [*new["baking"], new["sailing"][0], *new["chess"]]
    paths = []
    for name, texts in (("train", train), ("exam", new["chess"])):
        rows = [{"text": t, "prompt": t[:60], "response": t[60:]} for t in texts]
        paths.append(str(tmp_path / f"{name}.jsonl"))
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    make = InstructionMixtureDataModule if chats else TextMixtureDataModule
    for target in ({}, {"exam": paths[1]}):
        data = make(
            dataset=paths[0], target=target, cluster=corpus, cache_dir=str(tmp_path / "cache")
        )
        said = f"without held-out data, for too little text in a split: clusters {names[1]}"
        with pytest.warns(UserWarning, match=said) as caught:
            data.setup()
        left = any(f"to train on: clusters {names[2]}" in str(some.message) for some in caught)
        assert left == bool(target)
        assert set(data.train_sets) == set(names[:2] if left else names)
        assert set(data.test_sets) == ({names[0], "exam"} if left else {names[0], names[2]})
        assert said in data.manifest["clusters"]["remarks"]
    assert set(data.target_clusters["exam"]) == set(names[:2])
    assert sum(data.target_clusters["exam"].values()) == pytest.approx(1)


def test_the_listing_of_clusters_in_the_cache_is_named(tmp_path, capsys):
    path = write_lines(tmp_path / "docs.jsonl", [text for _, text in PAIRS])
    for _ in range(2):  # the second time from the cache
        data = text_module(tmp_path, dataset=path, cluster=3, block_size=16)
    (folder,) = (tmp_path / "cache").glob("clusters-*")
    with (folder / "clusters.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["document", "given_domain", "domain", "similarity"]
    assert {row["domain"] for row in rows} == set(data.train_sets)
    assert len(rows) == len(PAIRS)
    weights = dict.fromkeys(data.train_sets, 1 / 3)
    run = tmp_path / "run"
    run.mkdir()
    Mixture(weights, weights, {"data": data.record}).save(run / "mixture.yaml")
    assert f"clusters: {folder}\n" in (run / "mixture.yaml").read_text()
    main(["export", str(run), "--to", "json"])
    assert f"{folder}/clusters.csv has the domain of each document" in capsys.readouterr().err
    assert folder_of_clusters(Mixture.load(run / "mixture.yaml")) == folder


def test_too_large_blocks_are_refused_with_advice(tmp_path):
    path = write_lines(tmp_path / "docs.jsonl", [text for _, text in PAIRS])
    with pytest.raises(InputError, match=r"fewer than one block.* or a larger smallest_cluster"):
        text_module(tmp_path, dataset=path, cluster=3, block_size=4000)


@pytest.mark.parametrize("embedder", ["missing", "missing.npy"])
def test_an_embedder_that_is_missing_is_refused(embedder, tmp_path):
    path = write_lines(tmp_path / "docs.jsonl", [text for _, text in PAIRS])
    with pytest.raises(InputError, match=f"embedder='{embedder}'"):
        text_module(tmp_path, dataset=path, cluster=3, embedder=embedder)


def test_corrupt_rows_are_skipped_before_they_are_clustered(tmp_path):
    texts = [text for _, text in PAIRS]
    path = tmp_path / "docs.jsonl"
    path.write_text("{broken\n" + "".join(json.dumps({"text": text}) + "\n" for text in texts))
    options = {"dataset": str(path), "cluster": 3, "block_size": 16}
    with pytest.raises(InputError, match="line 1 is not valid JSON"):
        text_module(tmp_path, **options)
    with pytest.warns(UserWarning, match="1 corrupt rows were left out"):
        text_module(tmp_path, **options, corrupt="skip")
    manifest = prepare_corpus(
        str(tmp_path / "out"), near_duplicate=None, corrupt="skip", workers=1, **options
    )
    assert manifest["rows_skipped"] == {"documents": 1}


def test_clusters_of_a_file_of_embeddings_are_kept(tmp_path):
    vectors = np.eye(3)[[list(TOPICS).index(topic) for topic, _ in PAIRS]]
    np.save(tmp_path / "e.npy", vectors)
    texts = [text for _, text in PAIRS]
    options = {"cluster": 3, "block_size": 16, "embedder": str(tmp_path / "e.npy")}
    path = write_lines(tmp_path / "docs.jsonl", texts)
    first, again = (text_module(tmp_path, dataset=path, **options) for _ in range(2))
    assert first.manifest == again.manifest
    (page,) = (tmp_path / "cache").glob("clusters-*/clusters.html")
    turned = write_lines(tmp_path / "turned.jsonl", texts[::-1])
    options |= {"cluster": str(page.parent), "dataset": turned}
    with pytest.raises(InputError, match="which belong to the documents they were made of"):
        text_module(tmp_path, **{**options, "embedder": None})
    np.save(tmp_path / "e.npy", vectors[::-1])
    assert len(text_module(tmp_path, **options).train_sets) == 3


def test_rows_of_embeddings_are_those_that_are_not_skipped(tmp_path):
    path = tmp_path / "docs.jsonl"
    lines = "".join(json.dumps({"text": text}) + "\n" for _, text in PAIRS)
    path.write_text("{broken\n" + lines)
    np.save(tmp_path / "e.npy", np.ones((181, 2)))
    options = {"cluster": 3, "block_size": 16, "embedder": str(tmp_path / "e.npy")}
    with pytest.raises(InputError, match="has 181 rows and the data have 180 without the 1 skip"):
        text_module(tmp_path, dataset=str(path), corrupt="skip", **options)
