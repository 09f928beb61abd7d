"""Clusters of a data module, made once and kept in its cache folder."""

import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from tandem_pl.datamodules.sources.cache_folder import default_cache_dir
from tandem_pl.datamodules.sources.source import Sources
from tandem_pl.files import new_folder
from tandem_pl.machine import count_cores

from .build import ROWS, cluster_sources, kinds_of, open_clusters
from .documents import Read
from .listing import write_listing
from .model import ClusterModel
from .options import ClusterOptions
from .page import write_page
from .small import SmallClusters
from .targets import locate_targets, target_remarks

FORMAT = 3
ASSIGNED, ABOUT = "assigned.npy", "about.json"


def cached_clusters(
    cache_dir: str | None,
    content: dict[str, Any],
    sources: Sources,
    target: Sources,
    read: Read,
    options: ClusterOptions,
    small: SmallClusters,
) -> tuple[Sources, dict[str, Any]]:
    """Return the clusters as sources, and what a manifest says of them.

    They are made if the cache does not have them.

    The folder also has `clusters.html`, `clusters.csv` and the model, so that `cluster=FOLDER`
    gives other data the same clusters. A warning names it when it is made.

    Args:
        cache_dir: folder of the caches; None for `default_cache_dir`.
        content: all that decides the documents, as JSON values.
        sources: given domain -> its rows.
        target: target name -> its rows, for the page.
        read: gives the text of a row.
        options: how to cluster.
        small: says which clusters of a folder are left out.

    Returns:
        The sources; and a map with the absolute path of the `folder`, and `targets` if there are
        some, see `ClusteredText.summary`.
    """
    text = json.dumps([FORMAT, content, options.identity()])
    name = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
    caches = Path(cache_dir).expanduser() if cache_dir else default_cache_dir()
    folder = caches / f"clusters-{name}"
    if not (folder / ABOUT).exists():
        with new_folder(folder, done=ABOUT) as scratch:
            found = cluster_sources(scratch, sources, read, options, count_cores())
            for domain, source in sources.items():
                source.warn_of_skipped(domain)
            targets = locate_targets(found.model, found.clusters, target, read)
            found.model.save(scratch)
            np.save(scratch / ASSIGNED, found.clusters)
            write_page(scratch / "clusters.html", found, targets, "Clusters")
            write_listing(scratch / "clusters.csv", found, targets)
            about: dict[str, Any] = {
                "kinds": kinds_of(sources),
                "targets": {name: row.summary(found.model.names) for name, row in targets.items()},
            }
            (scratch / ABOUT).write_text(json.dumps(about), encoding="utf-8")
        warnings.warn(
            f"{len(found.clusters):,} documents were clustered into {len(found.sources)} domains; "
            f"see {folder}/clusters.html{''.join(f'; {some}' for some in found.remarks)}.",
            stacklevel=2,
        )
        for remark in target_remarks(about["targets"]):
            warnings.warn(f"{remark}.", stacklevel=2)
    clusters = np.load(folder / ASSIGNED, allow_pickle=False)
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    corrupt = next(iter(sources.values())).corrupt
    model = ClusterModel.load(folder)
    summary: dict[str, Any] = {"folder": os.path.abspath(folder)}
    if about["targets"]:
        summary["targets"] = about["targets"]
    if small.left_out and target:  # their target documents are nearest to other clusters
        located = options.given_model() or model  # reads the embeddings of the target
        rows = locate_targets(located, clusters, target, read, small.left_out)
        summary["targets"] = {name: row.summary(model.names) for name, row in rows.items()}
    opened = open_clusters(folder / ROWS, clusters, model, about["kinds"], corrupt)
    return small.used(opened), summary
