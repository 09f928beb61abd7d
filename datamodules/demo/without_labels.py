"""Clusters in place of the labels of a demo corpus, to see what a method does without them."""

import json
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tandem_pl.datamodules.clusters.build import cluster_sources
from tandem_pl.datamodules.clusters.naming import name_clusters
from tandem_pl.datamodules.clusters.options import ClusterOptions
from tandem_pl.datamodules.clusters.targets import locate_targets
from tandem_pl.datamodules.sources.domains import open_sources
from tandem_pl.datamodules.sources.source import Sources
from tandem_pl.datamodules.text.block_folder import Documents
from tandem_pl.datamodules.text.documents import TARGET, TRAIN, read_text_rows
from tandem_pl.machine import count_cores


def cluster_texts(
    texts: Sequence[str],
    targets: Mapping[str, Sequence[str]],
    options: ClusterOptions,
    held_out: Collection[str],
) -> tuple[list[str], dict[str, Any]]:
    """Return the name of each text's cluster, and what the manifest says of target data.

    Args:
        texts: to be clustered.
        targets: target domain -> its texts, which are only located.
        options: how to cluster.
        held_out: names of domains that are held out, which no cluster gets.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        sources = _write(folder / "train", {"documents": texts})
        read = partial(read_text_rows, text_column="text")
        found = cluster_sources(folder, sources, read, options, count_cores())
        target = _write(folder / "target", targets)
        located = locate_targets(found.model, found.clusters, target, read)
        terms = found.model.terms
        names = name_clusters(terms, [""] * len(terms), held_out)
        summaries = {target: row.summary(names) for target, row in located.items()}
        return [names[cluster] for cluster in found.clusters.tolist()], {"targets": summaries}


def cluster_training_documents(
    documents: Documents, options: ClusterOptions
) -> tuple[Documents, dict[str, Any]]:
    """Return the documents with clusters as training domains, and the summary for the manifest.

    Target and test documents keep their domains, so that losses compare with those of a run with
    labels.

    Args:
        documents: domain -> its documents and the code of each one's split.
        options: how to cluster.
    """
    given = {domain: (list(some), codes) for domain, (some, codes) in documents.items()}
    train = [text for some, codes in given.values() for text in _of(some, codes == TRAIN)]
    targets = {domain: _of(some, codes == TARGET) for domain, (some, codes) in given.items()}
    located = {domain: some for domain, some in targets.items() if some}
    found, summary = cluster_texts(train, located, options, held_out=given)
    clusters: dict[str, list[str]] = {}
    for cluster, text in zip(found, train, strict=True):
        clusters.setdefault(cluster, []).append(text)
    result: dict[str, tuple[Sequence[str], np.ndarray]] = {
        cluster: (some, np.full(len(some), TRAIN, np.uint8)) for cluster, some in clusters.items()
    }
    for domain, (some, codes) in given.items():
        held_out = codes != TRAIN
        if held_out.any():
            result[domain] = (_of(some, held_out), codes[held_out])
    return result, summary


def _of(texts: Sequence[str], wanted: np.ndarray) -> list[str]:
    return [texts[number] for number in np.flatnonzero(wanted).tolist()]


def _write(folder: Path, texts: Mapping[str, Sequence[str]]) -> Sources:
    folder.mkdir()
    paths = {}
    for number, (domain, some) in enumerate(texts.items()):
        path = folder / f"{number}.jsonl"
        lines = [json.dumps({"text": text}) + "\n" for text in some]
        path.write_text("".join(lines), encoding="utf-8")
        paths[domain] = str(path)
    return open_sources(paths, "domains", "raise", "stop")
