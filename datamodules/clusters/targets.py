"""Say how close target data are to the clusters."""

import os
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from tandem_pl.datamodules.sources.source import Source

from .documents import Read, batch_documents, read_documents
from .embedders import GivenEmbeddings
from .model import ClusterModel


class Target(NamedTuple):
    """Target data of one name.

    Attributes:
        where: each document, for listings.
        clusters: its nearest cluster, int64 `[documents]`.
        similarity: the median similarity to that cluster's centre.
        closeness: mean similarity of the documents to each cluster's mean centre, `[clusters]`.
        usual: the similarity that 95 % of the training documents exceed.
        absent: clusters without a training document, which have no share.
    """

    where: list[str]
    clusters: np.ndarray
    similarity: float
    closeness: np.ndarray
    usual: float
    absent: frozenset[int] = frozenset()

    def shares(self, names: list[str]) -> dict[str, float]:
        """Return the share of the documents that are nearest to each cluster."""
        counts = np.bincount(self.clusters, minlength=len(names)) / max(len(self.clusters), 1)
        shares = {name: round(float(share), 6) for name, share in zip(names, counts, strict=True)}
        return {name: shares[name] for i, name in enumerate(names) if i not in self.absent}

    def summary(self, names: list[str]) -> dict[str, Any]:
        """Return what the manifest says of it."""
        return {
            "documents": len(self.clusters),
            "similarity": round(self.similarity, 4),
            "usual_similarity": self.usual,
            "shares": self.shares(names),
        }


def locate_targets(
    model: ClusterModel,
    clusters: np.ndarray,
    sources: Mapping[str, Source],
    read: Read,
    without: Collection[str] = (),
) -> dict[str, Target]:
    """Give the documents of target data their nearest clusters that have documents, of any pool.

    Args:
        model: the clusters.
        clusters: those of the training documents, `[documents]`.
        sources: target name -> its rows.
        read: gives the text of a row.
        without: names of clusters that are left out, as if they had no documents.

    Raises:
        InputError: the clusters are of embeddings in a file, which has no row for target data.
    """
    given = model.embedder if isinstance(model.embedder, GivenEmbeddings) else None
    if given and sources:
        given = given.for_others("target")
    out = [number for number, name in enumerate(model.names) if name in without]
    there = np.isin(model.groups, np.setdiff1d(clusters, out))
    arrays = (model.centres[there], model.groups[there], model.pools[there])
    present = ClusterModel(model.embedder, *arrays)
    absent = frozenset(range(len(model.names))) - frozenset(present.groups.tolist())
    centres = np.stack([model.centre_of(cluster) for cluster in range(len(model.names))])
    found: dict[str, Target] = {}
    for name, source in sources.items():
        where: list[str] = []
        labels = [np.empty(0, np.int64)]
        similarity = [np.empty(0, np.float32)]
        sums = np.zeros(len(centres))
        documents = read_documents({name: source}, read, given)
        for batch in batch_documents(documents, f"clusters of {name}"):
            vectors = (
                np.stack([d.vector for d in batch if d.vector is not None])
                if given
                else model.embed([document.text for document in batch])
            )
            near, similar = present.nearest(vectors)
            where += [document.where for document in batch]
            labels.append(present.groups[near])
            similarity.append(similar)
            sums += (vectors @ centres.T).sum(axis=0)
        every = np.concatenate(similarity)
        median = float(np.median(every)) if len(every) else 0.0
        closeness = sums / max(len(every), 1)
        nearest = np.concatenate(labels)
        found[name] = Target(where, nearest, median, closeness, model.usual, absent)
    return found


def shares_of_clusters(manifest: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return target name -> its shares of the clusters, of a corpus' manifest; empty without any.

    >>> shares_of_clusters({"clusters": {"targets": {"exam": {"shares": {"web": 1.0}}}}})
    {'exam': {'web': 1.0}}
    """
    targets = manifest.get("clusters", {}).get("targets", {})
    return {name: dict(row["shares"]) for name, row in targets.items()}


def cached_folder(manifest: Mapping[str, Any]) -> str | None:
    """Return the folder outside the corpus that has its clusters, by its manifest, if any."""
    folder = manifest.get("clusters", {}).get("folder", "")
    return folder if os.path.isabs(folder) else None


def target_remarks(
    summaries: Mapping[str, Mapping[str, Any]], unit: str = "documents"
) -> list[str]:
    """Return a sentence for each target that is far from all clusters; see `Target.summary`."""
    return [
        f"target {name!r} is far from all clusters: half of its {unit} are at most "
        f"{row['similarity']:.2f} similar to the nearest centre, and 95 % of the training "
        f"{unit} more than {row['usual_similarity']:.2f}"
        for name, row in summaries.items()
        if row["similarity"] < row["usual_similarity"]
    ]
