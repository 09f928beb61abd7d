"""Cluster documents into domains: a pass to sample them, and a pass to assign and write them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from tandem_pl.checks import AUTO
from tandem_pl.datamodules.sources.domain_rows import RowWriter, read_rows
from tandem_pl.datamodules.sources.source import Source, Sources
from tandem_pl.datamodules.text.threads import map_in_threads
from tandem_pl.errors import InputError

from .documents import (
    Document,
    Read,
    Sample,
    batch_documents,
    hash_text,
    read_documents,
    sample_documents,
)
from .embedders import GivenEmbeddings, open_embedder
from .grouping import (
    SPLITS,
    choose_number,
    fit_centres,
    merge_small,
    merging_remarks,
    smallest_size,
)
from .model import ClusterModel
from .naming import name_clusters, telling_terms
from .options import ClusterOptions

ROWS = "rows.arrow"
SAMPLE = 20_000  # documents that clusters are made of
SAMPLE_EACH = 100  # of each cluster, or of each given domain for "auto", if there are many
LEAST = 2 * SPLITS  # different documents that "auto" divides


class Clustering(NamedTuple):
    """The clusters of a corpus.

    Attributes:
        model: gives other documents the same clusters.
        sources: cluster -> its rows.
        clusters: the cluster of each document, in the order of `rows`, int64 `[documents]`.
        similarity: of each document to its centre, float16 `[documents]`.
        given: the number of each document's given domain, int64 `[documents]`.
        rows: the file with the rows of all documents.
        given_names: of the given domains.
        pools: what the names of each pool's clusters begin with.
        samples: of each pool, with the cluster and similarity of each document.
        remarks: what a user should know of them, a sentence each.
    """

    model: ClusterModel
    sources: Sources
    clusters: np.ndarray
    similarity: np.ndarray
    given: np.ndarray
    rows: Path
    given_names: list[str]
    pools: list[str]
    samples: list[tuple[Sample, np.ndarray, np.ndarray]]
    remarks: list[str]


def cluster_sources(
    folder: Path, sources: Sources, read: Read, options: ClusterOptions, threads: int
) -> Clustering:
    """Cluster the documents of all sources; the clusters are sources of their own.

    Texts are read twice, and memory grows by 40 bytes a document only. The same
    documents, options and seed give the same clusters, whatever `threads` and the names of files.

    Args:
        folder: gets the rows of all documents, in `ROWS`.
        sources: given domain -> its rows.
        read: gives the text of a row.
        options: how to cluster.
        threads: how many embed.

    Raises:
        InputError: fewer documents than clusters, embeddings that do not fit, an embedder or
            clusters that cannot be loaded.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # sums in another order would move documents at borders
        return _cluster(folder, sources, read, options, threads)


def _cluster(
    folder: Path, sources: Sources, read: Read, options: ClusterOptions, threads: int
) -> Clustering:
    loaded = options.given_model()
    embedder = loaded.embedder if loaded else open_embedder(options.embedder)
    given = embedder if isinstance(embedder, GivenEmbeddings) else None
    names = list(sources)
    pools = len(names) if options.keeps_domains() else 1
    pool_of = loaded.pools_of(names) if loaded else np.arange(len(names))
    each = SAMPLE_EACH * (options.cluster if isinstance(options.cluster, int) else 1)
    documents = partial(read_documents, sources, read, given)
    samples = sample_documents(documents(), pools, max(SAMPLE // pools, each), options.seed)
    _check_enough(samples, names, options)
    if loaded is None and not isinstance(embedder, GivenEmbeddings):
        few = max(SAMPLE // pools, 1)  # features take more memory than all excerpts
        keyed = [pair for s in samples for pair in zip(s.keys[:few], s.texts[:few], strict=True)]
        embedder.fit([text for _, text in sorted(keyed)], options.seed)  # for any order of domains
    used = [(pool, some) for pool, some in zip(pool_of, samples, strict=False) if some.texts]
    vectors = [
        sample.vectors if sample.vectors is not None else _embed(embedder, sample.texts)
        for _, sample in used
    ]
    model = loaded or _fit(embedder, vectors, options)
    assigned = _assign(folder / ROWS, documents(), model, names, pool_of, threads)
    labels, similarity, places, keys = assigned
    remarks = _merge(model, labels, keys, options) if loaded is None else []
    marked: list[tuple[Sample, np.ndarray, np.ndarray]] = []
    for (pool, sample), some in zip(used, vectors, strict=True):
        near, similar = model.nearest(some, np.full(len(some), pool))
        marked.append((sample, model.groups[near], similar))
    prefixes = [f"{name}/" for name in names] if options.within else [""]
    if loaded is None:
        name_model(model, marked, prefixes)
    clusters = model.groups[labels]
    corrupt = next(iter(sources.values())).corrupt
    opened = open_clusters(folder / ROWS, clusters, model, kinds_of(sources), corrupt)
    return Clustering(
        model, opened, clusters, similarity, places, folder / ROWS, names, prefixes, marked, remarks
    )  # fmt: skip


def _embed(embedder: Any, texts: list[str]) -> np.ndarray:
    step = 1000  # so that a sample's features are never in memory together
    parts = [embedder.embed(texts[start : start + step]) for start in range(0, len(texts), step)]
    return np.concatenate(parts)


def _check_enough(samples: list[Sample], names: list[str], options: ClusterOptions) -> None:
    if not any(sample.texts for sample in samples):
        raise InputError(
            f"cluster={options.cluster} finds no document that is not empty; give some text."
        )
    least = options.cluster if isinstance(options.cluster, int) else LEAST
    if options.within and options.cluster == AUTO:
        least = 1  # a domain that cannot be divided stays one
    for sample, name in zip(samples, names, strict=False):
        if len(sample.texts) < least and options.given_folder() is None:
            of = f" of domain {name!r}" if len(samples) > 1 else ""
            fewer = "" if options.cluster in (AUTO, 2) else "fewer clusters or "
            raise InputError(
                f"cluster={options.cluster}{of} needs at least {least} different documents, not "
                f"{len(sample.texts)}; give {fewer}more documents."
            )


def _fit(embedder: Any, vectors: list[np.ndarray], options: ClusterOptions) -> ClusterModel:
    centres = []
    for pool in vectors:
        number = options.cluster
        if not isinstance(number, int):
            number = choose_number(pool, options.seed) if len(pool) >= LEAST else 1
        centres.append(fit_centres(pool, number, options.seed))
    pools = np.repeat(np.arange(len(centres)), [len(some) for some in centres])
    stacked = np.concatenate(centres)
    return ClusterModel(embedder, stacked, np.arange(len(stacked)), pools)


def _assign(
    path: Path,
    documents: Iterator[Document],
    model: ClusterModel,
    names: list[str],
    pool_of: np.ndarray,
    threads: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Write every document's row; return its centre, similarity, given domain and text's hash."""

    def work(batch: list[Document]) -> tuple[list[Document], np.ndarray, np.ndarray, np.ndarray]:
        given = [document.vector for document in batch if document.vector is not None]
        vectors = np.stack(given) if given else model.embed([document.text for document in batch])
        keys = np.array([hash_text(document.text) for document in batch], np.uint64)
        return batch, *model.nearest(vectors, pool_of[[d.given for d in batch]]), keys

    none = np.empty(0, np.int64)
    parts = [(none, none.astype(np.float16), none, none.astype(np.uint64))]
    with RowWriter(path) as writer:
        batches = batch_documents(documents, "assigning clusters")
        for batch, labels, similarity, keys in map_in_threads(work, batches, threads):
            for document in batch:
                writer.write(document.where, names[document.given], document.row)
            places = np.array([document.given for document in batch])
            parts.append((labels, similarity.astype(np.float16), places, keys))
    labels, similarity, places, keys = (np.concatenate(p) for p in zip(*parts, strict=True))
    return labels, similarity, places, keys


def _merge(
    model: ClusterModel, labels: np.ndarray, keys: np.ndarray, options: ClusterOptions
) -> list[str]:
    """Merge small clusters of each pool, number the rest by size within it, and return remarks."""
    sizes = np.bincount(labels, minlength=len(model.centres))
    unrepeated = np.unique(keys, return_index=True)[1]
    different = np.bincount(labels[unrepeated], minlength=len(model.centres))
    least = 1 if options.within else 2
    groups, first, limit = np.empty_like(model.pools), 0, 0
    for pool in range(int(model.pools.max()) + 1):
        rows = np.flatnonzero(model.pools == pool)
        smallest = options.smallest or smallest_size(int(sizes[rows].sum()), len(rows))
        limit = max(limit, smallest)
        merged = merge_small(model.centres[rows], sizes[rows], smallest, different[rows], least)
        totals = np.bincount(merged, weights=sizes[rows])
        rank = np.argsort(np.argsort(-totals, kind="stable"))
        groups[rows] = first + rank[merged]
        first += len(totals)
    model.groups = groups
    return merging_remarks(options.cluster, len(groups), first, limit, "documents")


def name_model(
    model: ClusterModel, samples: list[tuple[Sample, np.ndarray, np.ndarray]], pools: list[str]
) -> None:
    """Set the terms and names of the clusters; see `Clustering` for `samples` and `pools`."""
    terms, prefixes = [], []
    for number, (prefix, (sample, clusters, _)) in enumerate(zip(pools, samples, strict=True)):
        own = model.groups[model.pools == number]
        first, last = int(own.min()), int(own.max())
        terms += telling_terms(sample.texts, clusters - first, last - first + 1)
        prefixes += [prefix] * (last - first + 1)
    model.terms, model.names = terms, name_clusters(terms, prefixes)
    every = np.concatenate([similarity for _, _, similarity in samples])
    model.usual = round(float(np.quantile(every, 0.05)), 4)


def open_clusters(
    path: Path,
    clusters: np.ndarray,
    model: ClusterModel,
    kinds: Mapping[str, int],
    corrupt: Literal["stop", "skip"],
) -> Sources:
    """Return a source for each cluster that has documents.

    Args:
        path: the file with the rows of all documents.
        clusters: the cluster of each, `[documents]`.
        model: names the clusters.
        kinds: kind -> files that were read.
        corrupt: see `Source`.
    """
    from datasets import Dataset

    data = Dataset.from_file(str(path))
    order = np.argsort(clusters, kind="stable")
    sizes = np.bincount(clusters, minlength=len(model.names))
    opened = Sources()
    parts = np.split(order, np.cumsum(sizes)[:-1])
    for name, numbers in zip(model.names, parts, strict=True):
        if len(numbers):
            reader = partial(read_rows, data, kinds, numbers)
            opened[name] = Source(name, reader, lambda columns: model.fingerprint(), None, corrupt)
    return opened


def kinds_of(sources: Mapping[str, Source]) -> dict[str, int]:
    """Return kind -> files that the sources read in their last pass."""
    kinds: dict[str, int] = {}
    for source in sources.values():
        for kind, (files, _) in source.read_as.items():
            kinds[kind] = kinds.get(kind, 0) + files
    return kinds
