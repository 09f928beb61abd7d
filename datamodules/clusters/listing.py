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
    splits: Mapping[str, np.ndarray],
) -> None:
    """Write a row for each document, in the order in which they are read, then those of targets.

    Args:
        path: the file.
        clustering: the clusters.
        targets: target name -> its documents.
        splits: domain -> the name of the split of each of its documents, those of target data of
            that name first; "dropped" for repeats.
    """
    order = np.argsort(clustering.clusters, kind="stable")
    names = clustering.model.names
    split = np.empty(len(order), dtype=object)
    start = 0
    for cluster, size in enumerate(np.bincount(clustering.clusters, minlength=len(names))):
        if size:
            split[order[start : start + size]] = splits[names[cluster]][-size:]
        start += size
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        for number, (where, given) in enumerate(_rows(clustering.rows)):
            name = names[clustering.clusters[number]]
            similarity = f"{clustering.similarity[number]:.3f}"
            writer.writerow((where, given, split[number], name, similarity))
        for target, documents in targets.items():
            for number, where in enumerate(documents.where):
                name = names[documents.clusters[number]]
                writer.writerow((where, target, splits[target][number], name, ""))


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as reader:
        for batch in reader:
            yield from zip(
                batch.column("where").to_pylist(), batch.column("domain").to_pylist(), strict=True
            )
