"""`clusters.csv`: every document with its given domain, split and cluster."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from .build import Clustering
from .targets import Target

HEADER = ("document", "given_domain", "split", "domain", "similarity")


def write_listing(
    path: Path,
    clustering: Clustering,
    targets: Mapping[str, Target],
    splits: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write a row for each document, in the order in which they are read, then those of targets.

    Args:
        path: the file.
        clustering: the clusters.
        targets: target name -> its documents.
        splits: domain -> the name of the split of each of its documents, those of target data of
            that name first; "dropped" for repeats and clusters that it lacks. Without it, there is
            no column for it.
    """
    kept = [i for i, column in enumerate(HEADER) if splits is not None or column != "split"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([HEADER[i] for i in kept])
        for line in _lines(clustering, targets, splits or {}):
            writer.writerow([line[i] for i in kept])


def _lines(
    clustering: Clustering, targets: Mapping[str, Target], splits: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, ...]]:
    names = clustering.model.names
    split = _splits_in_order(clustering, splits)
    for number, (where, given) in enumerate(_rows(clustering.rows)):
        name = names[clustering.clusters[number]]
        yield where, given, split[number], name, f"{clustering.similarity[number]:.3f}"
    for target, documents in targets.items():
        for number, where in enumerate(documents.where):
            own = splits[target][number] if target in splits else ""
            yield where, target, own, names[documents.clusters[number]], ""


def _splits_in_order(clustering: Clustering, splits: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the name of each document's split, in the order of `rows`, `[documents]`."""
    order = np.argsort(clustering.clusters, kind="stable")
    names = clustering.model.names
    split = np.full(len(order), "dropped", dtype=object)
    start = 0
    for cluster, size in enumerate(np.bincount(clustering.clusters, minlength=len(names))):
        if size and names[cluster] in splits:
            split[order[start : start + size]] = splits[names[cluster]][-size:]
        start += size
    return split


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as reader:
        for batch in reader:
            yield from zip(
                batch.column("where").to_pylist(), batch.column("domain").to_pylist(), strict=True
            )
