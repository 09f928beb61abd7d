import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from tandem_pl.datamodules.clusters.embedders import FolderEmbedder, GivenEmbeddings, open_embedder
from tandem_pl.errors import InputError


@pytest.fixture
def folder(tmp_path):
    for name, file in (("static", "model.safetensors"), ("sentences", "modules.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(json.dumps([]))
    return tmp_path


def fake(monkeypatch, module, name, attribute):
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{name: attribute}))


def encode(texts, **options):
    return np.array([[len(text), 1.0] for text in texts])


def test_a_model2vec_folder_is_loaded(folder, monkeypatch):
    model = SimpleNamespace(from_pretrained=lambda path: SimpleNamespace(encode=encode))
    fake(monkeypatch, "model2vec", "StaticModel", model)
    vectors = open_embedder(str(folder / "static")).embed(["abc", "d"])
    assert vectors.dtype == np.float32
    assert np.allclose(vectors, [[3 / 10**0.5, 1 / 10**0.5], [0.5**0.5, 0.5**0.5]])


def test_a_sentence_transformers_folder_is_loaded_without_network(folder, monkeypatch):
    seen = []

    def load(path, **options):
        seen.append(options)
        return SimpleNamespace(encode=encode)

    fake(monkeypatch, "sentence_transformers", "SentenceTransformer", load)
    assert open_embedder(str(folder / "sentences")).embed(["abc"]).shape == (1, 2)
    assert seen == [{"local_files_only": True}]


def test_a_model2vec_folder_may_have_the_modules_of_the_other_library(folder, monkeypatch):
    """As its `save_pretrained` writes it; the other library reads it if that one is missing."""
    module = {"path": ".", "type": "sentence_transformers.models.StaticEmbedding"}
    (folder / "static" / "modules.json").write_text(json.dumps([module]))
    model = SimpleNamespace(from_pretrained=lambda path: SimpleNamespace(encode=encode))
    fake(monkeypatch, "model2vec", "StaticModel", model)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    assert open_embedder(str(folder / "static")).embed(["abc"]).shape == (1, 2)
    monkeypatch.setitem(sys.modules, "model2vec", None)
    with pytest.raises(InputError, match="pip install model2vec"):
        open_embedder(str(folder / "static"))
    other = lambda path, **options: SimpleNamespace(encode=encode)  # noqa: E731
    fake(monkeypatch, "sentence_transformers", "SentenceTransformer", other)
    assert open_embedder(str(folder / "static")).embed(["abc"]).shape == (1, 2)


def test_a_folder_that_cannot_be_loaded_is_refused(folder, monkeypatch):
    with pytest.raises(InputError, match="no folder of a model2vec"):
        open_embedder(str(folder))
    monkeypatch.setitem(sys.modules, "model2vec", None)
    with pytest.raises(InputError, match="pip install model2vec"):
        FolderEmbedder(str(folder / "static"))

    def fail(path):
        raise RuntimeError("bad header\nin file")

    fake(monkeypatch, "model2vec", "StaticModel", SimpleNamespace(from_pretrained=fail))
    with pytest.raises(InputError, match=r"cannot be loaded as a model2vec model \(bad header in"):
        FolderEmbedder(str(folder / "static"))


def test_given_embeddings(tmp_path):
    np.save(tmp_path / "e.npy", np.array([[3.0, 4.0], [0.0, 0.0]]))
    given = GivenEmbeddings(str(tmp_path / "e.npy"))
    assert given.vector({}, 0, "x").tolist() == pytest.approx([0.6, 0.8])
    assert given.vector({}, 1, "x").tolist() == [0, 0]
    with pytest.raises(InputError, match="has 2 rows, and the data have more"):
        given.vector({}, 2, "docs.jsonl, line 3")
    with pytest.raises(InputError, match="2 rows and the data have 1"):
        given.check_rows(1)
    column = GivenEmbeddings("column:e")
    assert column.vector({"e": [3, 4]}, 0, "x").tolist() == pytest.approx([0.6, 0.8])
    for bad in ([], ["a"], [1.0, float("nan")], None, [[1.0]]):
        with pytest.raises(InputError, match="line 1: the embedding of 'column:e'"):
            column.vector({"e": bad}, 0, "line 1")
    with pytest.raises(InputError, match=r"line 2: .* has 3 numbers and the first one 2"):
        column.vector({"e": [1, 2, 3]}, 1, "line 2")


@pytest.mark.parametrize("array", [np.zeros(3), np.array([["a"]])])
def test_a_file_of_another_kind_is_refused(array, tmp_path):
    np.save(tmp_path / "e.npy", array)
    with pytest.raises(InputError, match="must hold numbers"):
        open_embedder(str(tmp_path / "e.npy"))
    (tmp_path / "f.npy").write_text("nothing")
    for name in ("f.npy", "missing.npy"):
        with pytest.raises(InputError, match=r"cannot be read as an \.npy"):
            open_embedder(str(tmp_path / name))


@pytest.mark.parametrize(
    "vectors",
    [np.ones((2, 3)), np.ones(3), np.full((3, 2), np.nan), [[1.0], [1.0, 2.0], [1.0]]],
)
def test_a_model_must_give_a_vector_for_each_text(vectors, folder, monkeypatch):
    model = SimpleNamespace(encode=lambda texts: vectors)
    static = SimpleNamespace(from_pretrained=lambda path: model)
    fake(monkeypatch, "model2vec", "StaticModel", static)
    with pytest.raises(InputError, match=r"embedder='.*static'.* for each of 3 texts"):
        open_embedder(str(folder / "static")).embed(["a", "b", "c"])


def test_what_names_no_embeddings_is_refused(tmp_path):
    with pytest.raises(InputError, match="embedder='column:' names no column"):
        open_embedder("column:")
    with (tmp_path / "e.npy").open("wb") as file:
        np.savez(file, a=np.eye(2))
    with pytest.raises(InputError, match=r"as an \.npy file .it is an \.npz archive"):
        open_embedder(str(tmp_path / "e.npy"))
