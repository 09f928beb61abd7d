"""The clusters of a corpus while `tandem prepare` makes it, and what it keeps of them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tandem_pl.datamodules.sources.source import Sources
from tandem_pl.datamodules.text.documents import (
    DROPPED,
    SPLIT_CODES,
    TooLittleTextError,
    read_text_rows,
)
from tandem_pl.errors import InputError

from .build import Clustering, cluster_sources
from .listing import write_listing
from .merging import merge_into_nearest
from .model import FOLDER
from .options import ClusterOptions
from .page import write_page
from .small import SmallClusters
from .targets import Target, locate_targets

SPLIT_NAMES = {**{code: split for split, code in SPLIT_CODES.items()}, DROPPED: "dropped"}


@contextmanager
def advise_merging(options: ClusterOptions | None) -> Iterator[None]:
    """Add to errors of clusters with too little text what to do; target data are no clusters."""
    try:
        yield
    except TooLittleTextError as error:
        if options is None or not error.domains:
            raise
        advice = (
            "make new clusters of these documents, by cluster=auto"
            if options.given_folder()
            else "give fewer clusters or a larger smallest_cluster"
        )
        raise InputError(f"{str(error)[:-1]}; or {advice}.") from error


class ClusteredText:
    """Text that is clustered into domains.

    Args:
        folder: the folder of the corpus.
        sources: given domain -> its rows.
        target: target name -> its rows.
        text_column: column of the text.
        options: how to cluster.
        threads: how many embed.

    Attributes:
        sources: cluster -> its rows, without those that are left out.
        merged: names of the clusters that had too little text for their splits.
        small: the clusters of a folder that have, which are not merged.
    """

    def __init__(
        self,
        folder: Path,
        sources: Sources,
        target: Sources,
        text_column: str,
        options: ClusterOptions,
        threads: int,
    ) -> None:
        self._folder, self._given, self._target, self._options = folder, sources, target, options
        self._read = partial(read_text_rows, text_column=text_column)
        self.merged: list[str] = []
        self.small = SmallClusters(options, bool(target))
        self._use(cluster_sources(folder, sources, self._read, options, threads))

    def _use(self, clustering: Clustering) -> None:
        self._clustering, self.sources = clustering, self.small.used(clustering.sources)
        self._targets = self._locate()

    def _locate(self) -> dict[str, Target]:
        options = (self._target, self._read, self.small.left_out)
        return locate_targets(self._clustering.model, self._clustering.clusters, *options)

    def settle(self, names: Sequence[str]) -> bool:
        """Merge clusters into the nearest; return False if that cannot be done.

        Those of another corpus are put into train only, or left out, see `SmallClusters`.
        """
        if self._options.given_folder():
            before = set(self.small.left_out)
            settled = self.small.settle(names)
            if self.small.left_out != before:
                self._use(self._clustering)
            return settled
        found = merge_into_nearest(self._clustering, names, self._given)
        if found is None:
            return False
        self.merged += [name for name in names if name not in self.merged]
        self._use(found)
        return True

    def summary(self, splits: Mapping[str, Collection[str]]) -> dict[str, Any]:
        """Return what the manifest says of the clusters, with the domains of each split.

        Keys: `fingerprint`, `folder`, `embedder`, `domains` (name -> `documents` and `terms`), and
        for each name under `targets`: `documents`, the median `similarity` to the nearest centre,
        the `usual_similarity` that 95 % of the training documents exceed, and the `shares` of the
        clusters. `merged` and `remarks` if there are some.

        Raises:
            InputError: clusters of a folder leave a split empty.
        """
        model = self._clustering.model
        sizes = np.bincount(self._clustering.clusters, minlength=len(model.names)).tolist()
        about = zip(model.names, sizes, model.terms, strict=True)
        summary: dict[str, Any] = {
            "fingerprint": model.fingerprint(),
            "folder": FOLDER,
            "embedder": model.embedder.name,
            "domains": {
                name: {"documents": size, "terms": terms}
                for name, size, terms in about
                if size and name in splits["train"]
            },
        }
        if self.merged:
            summary["merged"] = self.merged
        small = self.small.remarks(splits)
        if remarks := [*self._clustering.remarks, *small]:
            summary["remarks"] = remarks
        if self._targets:
            rows = {name: target.summary(model.names) for name, target in self._targets.items()}
            summary["targets"] = rows
        return summary

    def write(self, codes: Mapping[str, np.ndarray], title: str) -> None:
        """Write the model, `clusters.csv` and `clusters.html`, and delete the rows.

        Args:
            codes: domain -> the code of each document's split.
            title: of the page.
        """
        self._clustering.model.save(self._folder / FOLDER)
        splits = {
            domain: np.array([SPLIT_NAMES[code] for code in some.tolist()], dtype=object)
            for domain, some in codes.items()
        }
        write_listing(self._folder / "clusters.csv", self._clustering, self._targets, splits)
        write_page(self._folder / "clusters.html", self._clustering, self._targets, title)
        self._clustering.rows.unlink()
