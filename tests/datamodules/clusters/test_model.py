"""Clusters in a folder: which can be read, and which embedder goes with them."""

import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("sklearn")

from cluster_texts import TOPICS, documents

from tandem_pl.datamodules.clusters import hashed
from tandem_pl.datamodules.clusters.embedders import FolderEmbedder
from tandem_pl.datamodules.clusters.grouping import fit_centres
from tandem_pl.datamodules.clusters.model import ClusterModel
from tandem_pl.errors import InputError

TEXTS = [text for _, text in documents(10)]


@pytest.fixture(autouse=True)
def _few_features(monkeypatch):
    monkeypatch.setattr(hashed, "BITS", 8)


def save(folder, embedder, vectors):
    """Write three clusters as a corpus has them, and return its folder."""
    centres, groups = fit_centres(vectors, 3, 0), np.arange(3)
    names = ["a", "b", "c"]
    model = ClusterModel(embedder, centres, groups, 0 * groups, names, [[], [], []])
    folder.mkdir()
    model.save(folder / "clusters")
    return folder


@pytest.fixture
def corpus(tmp_path):
    embedder = hashed.HashedEmbedder()
    embedder.fit(TEXTS, 0)
    return save(tmp_path / "corpus", embedder, embedder.embed(TEXTS))


@pytest.fixture
def of_a_file(tmp_path):
    """A corpus whose clusters are of an .npy."""
    vectors = np.eye(3, dtype=np.float32)[[i % 3 for i in range(9)]]
    np.save(tmp_path / "e.npy", vectors)
    embedder = SimpleNamespace(name=str(tmp_path / "e.npy"), state=dict)
    return save(tmp_path / "of_a_file", embedder, vectors)


def test_no_text_has_no_cluster_and_one_text_is_no_list(corpus):
    model = ClusterModel.load(corpus)
    assert model.assign([]) == []
    with pytest.raises(InputError, match="takes a list of texts, not one text"):
        model.assign(TEXTS[0])


@pytest.mark.parametrize("text", ["a: [1\n b", "- a\n", "", "clusters: 3\n", "clusters: [a]\n"])
@pytest.mark.parametrize("name", ["manifest.yaml", "clusters/clusters.yaml"])
def test_damaged_yaml_is_refused_in_one_line(text, name, corpus):
    (corpus / name).write_text(text)
    with pytest.raises(InputError, match="holds no clusters that can be read") as caught:
        ClusterModel.load(corpus)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["centres", "directions", "inverse_frequency"])
def test_arrays_that_are_not_there_are_named(name, corpus):
    path = corpus / "clusters" / "arrays.npz"
    with np.load(path) as file:
        arrays = {key: array for key, array in file.items() if key != name}
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=f"can be read .'{name}' is missing"):
        ClusterModel.load(corpus)


def test_another_format_is_refused(corpus):
    path = corpus / "clusters" / "clusters.yaml"
    path.write_text(path.read_text().replace("format: 1", "format: 2"))
    with pytest.raises(InputError, match="their format is 2 and not 1"):
        ClusterModel.load(corpus)


def test_an_embedder_of_another_kind_is_refused(corpus, of_a_file):
    assert ClusterModel.load(corpus, "hashed").names == ["a", "b", "c"]
    for embedder in ("column:vector", "e.npy"):
        with pytest.raises(InputError, match="is embeddings computed elsewhere, and the clusters"):
            ClusterModel.load(corpus, embedder)
    with pytest.raises(InputError, match="of hashed words"):
        ClusterModel.load(corpus, "models/static")
    with pytest.raises(InputError, match=r"is hashed words, and .* computed elsewhere"):
        ClusterModel.load(of_a_file, "hashed")


def test_new_documents_need_a_file_of_their_own(of_a_file, tmp_path):
    assert ClusterModel.load(of_a_file).names == ["a", "b", "c"]
    (tmp_path / "e.npy").rename(tmp_path / "new.npy")
    with pytest.raises(InputError, match=r"are of the embeddings .*e\.npy'.*; give embedder"):
        ClusterModel.load(of_a_file, new=True)
    for embedder in (str(tmp_path / "new.npy"), "column:vector"):
        assert ClusterModel.load(of_a_file, embedder, new=True).embedder.name == embedder


def test_the_model_in_a_folder_must_have_the_same_content(tmp_path, monkeypatch):
    def encode(texts):
        return np.array(
            [[any(w in text for w in own) for own in TOPICS.values()] for text in texts]
        )

    static = SimpleNamespace(from_pretrained=lambda path: SimpleNamespace(encode=encode))
    monkeypatch.setitem(sys.modules, "model2vec", SimpleNamespace(StaticModel=static))
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / "model.safetensors").write_text(folder.name)
    embedder = FolderEmbedder(str(one))
    out = save(tmp_path / "out", embedder, embedder.embed(TEXTS))
    shutil.move(one, tmp_path / "moved")
    assert ClusterModel.load(out, str(tmp_path / "moved")).names == ["a", "b", "c"]
    with pytest.raises(InputError, match=r"embedder='.*other' is not the model that the clusters"):
        ClusterModel.load(out, str(other))
    path = out / "clusters" / "clusters.yaml"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "digest" not in line))  # as older ones are
    assert ClusterModel.load(out, str(other)).names == ["a", "b", "c"]
