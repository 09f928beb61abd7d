"""`ClusterModel`: what gives documents their cluster, kept in a folder beside the corpus."""

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tandem_pl.errors import InputError
from tandem_pl.yaml_files import dump_yaml, read_yaml

from .embedders import (
    COLUMN,
    Embedder,
    FolderEmbedder,
    GivenEmbeddings,
    is_file,
    kind_of,
    open_embedder,
)
from .hashed import excerpt

FORMAT = 1
UNREADABLE = (
    OSError, ValueError, TypeError, KeyError, EOFError, yaml.YAMLError, zipfile.BadZipFile
)  # fmt: skip
ABOUT, ARRAYS = "clusters.yaml", "arrays.npz"
FOLDER = "clusters"  # in the folder of a prepared corpus
MANIFEST = "manifest.yaml"  # of a prepared corpus
DIGEST = "embedder_digest"  # of a model in a folder; older clusters have none


class ClusterModel:
    """The centres of clusters, their names, and the embedder.

    Args:
        embedder: makes vectors of excerpts.
        centres: of length 1, float32 `[centres, dimensions]`; several may make a cluster.
        groups: the cluster of each centre, `[centres]`.
        pools: the pool of each centre, `[centres]`: documents of a pool only take its centres.
        names: of the clusters.
        terms: telling terms of each cluster.
        usual: the similarity to their centre that 95 % of the sample exceed.

    Example:
        A folder that `tandem prepare --cluster 8 --out corpus` wrote names the clusters of others::

            ClusterModel.load("corpus").assign(["Knead the dough and heat the oven."])
    """

    def __init__(
        self,
        embedder: Embedder | GivenEmbeddings,
        centres: np.ndarray,
        groups: np.ndarray,
        pools: np.ndarray,
        names: Sequence[str] = (),
        terms: Sequence[Sequence[str]] = (),
        usual: float = 0.0,
    ) -> None:
        self.embedder = embedder
        self.centres, self.groups, self.pools = centres, groups, pools
        self.names, self.terms, self.usual = list(names), [list(some) for some in terms], usual

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return the embeddings of documents, float32 `[documents, dimensions]`.

        Raises:
            InputError: the embeddings of the clustering were computed elsewhere.
        """
        if isinstance(self.embedder, GivenEmbeddings):
            raise InputError(
                f"these clusters are of the embeddings {self.embedder.name!r}, which were computed "
                "elsewhere; give embeddings of the new documents too."
            )
        return self.embedder.embed([excerpt(text) for text in texts])

    def nearest(
        self, vectors: np.ndarray, pools: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest centre of each vector, and the similarity to it.

        Similarity is the product with the centre, so that a hashed embedding counts by its length.

        Args:
            vectors: `[documents, dimensions]`.
            pools: the pool of each document, `[documents]`; None, or numbers below 0, to choose
                from all centres.

        Returns:
            int64 and float32 of shape `[documents]`.

        Raises:
            InputError: the vectors have another number of dimensions.
        """
        if vectors.shape[1] != self.centres.shape[1]:
            raise InputError(
                f"embeddings have {vectors.shape[1]} dimensions and the clusters "
                f"{self.centres.shape[1]}; use the embedder that the clusters were made with."
            )
        similarity = vectors @ self.centres.T
        allowed = similarity
        if pools is not None and self.pools.any():
            inside = (self.pools[None] == pools[:, None]) | (pools[:, None] < 0)
            allowed = np.where(inside, similarity, -np.inf)
        labels = np.argmax(allowed, axis=1)
        return labels, similarity[np.arange(len(labels)), labels]

    def assign(self, texts: Sequence[str]) -> list[str]:
        """Return the name of each document's cluster.

        Raises:
            InputError: a single text is given, or what `embed` raises.
        """
        if isinstance(texts, str):
            raise InputError("assign takes a list of texts, not one text; give [text].")
        if not texts:
            return []
        labels, _ = self.nearest(self.embed(texts))
        return [self.names[group] for group in self.groups[labels]]

    def pools_of(self, given: Sequence[str]) -> np.ndarray:
        """Return the pool of each given domain by its name, `[domains]`; -1 for unknown ones."""
        names = [self.names[group].rpartition("/")[0] for group in self.groups]
        found = dict(zip(names, self.pools.tolist(), strict=True))
        return np.array([found.get(name, -1) for name in given], np.int64)

    def centre_of(self, cluster: int) -> np.ndarray:
        """Return the mean of a cluster's centres, of shape `[dimensions]`."""
        return self.centres[self.groups == cluster].mean(axis=0)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all arrays."""
        own = {"centres": self.centres, "groups": self.groups, "pools": self.pools}
        learned = {} if isinstance(self.embedder, GivenEmbeddings) else self.embedder.state()
        return {**own, **learned}

    def fingerprint(self) -> str:
        """Return what changes with the clusters and their names."""
        digest = hashlib.blake2b(repr(self.names).encode(), digest_size=16)
        for name, array in self.arrays().items():
            digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write the model into a folder, which is made."""
        folder.mkdir(exist_ok=True)
        np.savez(folder / ARRAYS, allow_pickle=False, **self.arrays())
        about = {
            "format": FORMAT,
            "fingerprint": self.fingerprint(),
            "embedder": self.embedder.name,
            **_digest(self.embedder),
            "usual_similarity": self.usual,
            "clusters": dict(zip(self.names, self.terms, strict=True)),
        }
        (folder / ABOUT).write_text(dump_yaml(about), encoding="utf-8")

    @classmethod
    def load(
        cls, folder: str | Path, embedder: str | None = None, new: bool = False
    ) -> "ClusterModel":
        """Read the model of a prepared corpus.

        Args:
            folder: the folder of the corpus, or that of the clusters in it.
            embedder: the embedder if its folder was moved, or a new one of given embeddings.
            new: whether other documents are clustered, which need embeddings of their own.

        Raises:
            InputError: there are no clusters, they cannot be read, they are not those of the
                corpus' manifest, or the embedder is not theirs.
        """
        path = _folder_of(folder)
        try:
            about = _map(read_yaml(path / ABOUT), ABOUT)
            if about["format"] != FORMAT:
                raise ValueError(f"their format is {about['format']!r} and not {FORMAT}")
            stored = str(about["embedder"])
            _check_embedder(folder, stored, embedder, new)
            with np.load(path / ARRAYS, allow_pickle=False) as file:
                arrays = dict(file)
            centres, groups, pools = (arrays.pop(key) for key in ("centres", "groups", "pools"))
            clusters = _map(about["clusters"], "the list of clusters")
            opened = open_embedder(embedder or stored)
            if DIGEST in about and {DIGEST: about[DIGEST]} != _digest(opened):
                raise InputError(
                    f"embedder={opened.name!r} is not the model that the clusters of "
                    f"{str(folder)!r} were made with; give the folder of that one as embedder."
                )
            if not isinstance(opened, GivenEmbeddings):
                opened.load_state(arrays)
            usual = float(about["usual_similarity"])
            terms = list(clusters.values())
            model = cls(opened, centres, groups, pools, list(clusters), terms, usual)
            _check_same(path, model.fingerprint(), about)
        except InputError:
            raise
        except UNREADABLE as error:
            reason = " ".join(str(error).split())
            missing = " is missing" if isinstance(error, KeyError) else ""
            raise InputError(
                f"cluster={str(folder)!r} holds no clusters that can be read ({reason}{missing}); "
                "give a number, auto, or a folder that `tandem prepare --cluster` wrote."
            ) from error
        return model


def has_pools(folder: str | Path) -> bool:
    """Return whether a folder's clusters were made within given domains; False if unreadable."""
    try:
        with np.load(_folder_of(folder) / ARRAYS, allow_pickle=False) as file:
            return bool(file["pools"].any())
    except UNREADABLE:
        return False


def _folder_of(folder: str | Path) -> Path:
    path = Path(folder).expanduser()
    return path / FOLDER if (path / FOLDER / ABOUT).exists() else path


def _digest(embedder: Embedder | GivenEmbeddings) -> dict[str, str]:
    return {DIGEST: embedder.digest()} if isinstance(embedder, FolderEmbedder) else {}


def _map(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is no map")
    return value


def _check_embedder(folder: str | Path, stored: str, embedder: str | None, new: bool) -> None:
    if new and not embedder and is_file(stored):
        raise InputError(
            f"the clusters of {str(folder)!r} are of the embeddings {stored!r}, which belong "
            f"to the documents they were made of; give embedder: an .npy file or {COLUMN}NAME with "
            "those of the new documents."
        )
    if embedder and kind_of(embedder) != kind_of(stored):
        raise InputError(
            f"embedder={embedder!r} is {kind_of(embedder)}, and the clusters of {str(folder)!r} "
            f"are of {kind_of(stored)} ({stored!r}); give one of that kind, or leave it out."
        )


def _check_same(path: Path, fingerprint: str, about: dict[str, Any]) -> None:
    stated = [about.get("fingerprint")]
    if (path.parent / MANIFEST).exists():
        manifest = _map(read_yaml(path.parent / MANIFEST), MANIFEST)
        clusters = _map(manifest.get("clusters", {}), f"what {MANIFEST} says of clusters")
        stated.append(clusters.get("fingerprint"))
    if any(value != fingerprint for value in stated):
        raise InputError(
            f"the clusters in {path} are not those of the manifest beside them; copy the corpus' "
            "folder whole, or prepare it again."
        )
