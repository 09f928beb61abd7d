"""Merge clusters that turn out to have too little text for their splits."""

from collections.abc import Mapping, Sequence

import numpy as np

from tandem_pl.datamodules.sources.source import Source

from .build import Clustering, kinds_of, name_model, open_clusters
from .embedders import to_unit


def merge_into_nearest(
    clustering: Clustering, names: Sequence[str], given: Mapping[str, Source]
) -> Clustering | None:
    """Return the clustering with some clusters merged into the nearest of their pools.

    Clusters are numbered by size again, and named again by their terms.

    Args:
        clustering: its model is changed.
        names: of the clusters to merge.
        given: given domain -> its rows.

    Returns:
        None if a cluster is the only one of its pool, or fewer than two would be left.
    """
    model = clustering.model
    clusters = np.arange(len(model.names))
    pools = np.array([model.pools[model.groups == c][0] for c in clusters])
    centres = to_unit(np.stack([model.centre_of(c) for c in range(len(clusters))]))
    small = [c for c in clusters if model.names[c] in names]
    into = clusters.copy()
    for cluster in small:
        others = [c for c in np.setdiff1d(clusters, small) if pools[c] == pools[cluster]]
        if not others:
            return None
        into[cluster] = max(others, key=lambda c: float(centres[c] @ centres[cluster]))
    sizes = np.bincount(into[clustering.clusters], minlength=len(clusters))
    kept = sorted(np.setdiff1d(clusters, small), key=lambda c: (pools[c], -sizes[c]))
    if not small or len(kept) < 2:
        return None
    number = np.empty_like(clusters)
    number[kept] = np.arange(len(kept))
    number = number[into]
    model.groups = number[model.groups]
    samples = [(sample, number[own], similar) for sample, own, similar in clustering.samples]
    name_model(model, samples, clustering.pools)
    found = number[clustering.clusters]
    corrupt = next(iter(given.values())).corrupt
    opened = open_clusters(clustering.rows, found, model, kinds_of(given), corrupt)
    return clustering._replace(sources=opened, clusters=found, samples=samples)
