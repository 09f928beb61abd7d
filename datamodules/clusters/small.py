"""Clusters of a folder that have too little text in new data for each split."""

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

from tandem_pl.datamodules.sources.source import Sources
from tandem_pl.datamodules.text.documents import SPLITS, TooLittleTextError
from tandem_pl.errors import InputError

from .options import ClusterOptions

Result = TypeVar("Result")


class SmallClusters:
    """Says which clusters of a folder have no held-out data, and which are left out.

    Such clusters stay as they are: they are not merged. One with too little text for its splits has
    all of it in train; one with too little for that is left out.

    Args:
        options: how to cluster. Clusters that are not of a folder must have enough.
        has_target: whether target data are of sources of their own.

    Attributes:
        train_only: clusters that are known to have no held-out data; None if each must have some.
        left_out: clusters that are left out.
    """

    def __init__(self, options: ClusterOptions | None, has_target: bool = False) -> None:
        self._held_out = SPLITS[2:] if has_target else SPLITS[1:]  # that each cluster has
        self._clusters: list[str] = []
        self._folder = options.given_folder() if options else None
        self.train_only: set[str] | None = set() if self._folder else None
        self.left_out: set[str] = set()

    def settle(self, names: Sequence[str]) -> bool:
        """Put clusters into train only, or leave those out that were; False if none may be."""
        if self.train_only is None or not names:
            return False
        for name in names:
            (self.left_out if name in self.train_only else self.train_only).add(name)
        return True

    def build(self, make: Callable[[], Result]) -> Result:
        """Return what `make` returns, which is called again whenever clusters were settled."""
        while True:
            try:
                return make()
            except TooLittleTextError as error:
                if not self.settle(error.domains):
                    raise

    def used(self, sources: Sources) -> Sources:
        """Return the clusters, all of which have documents, that are not left out.

        Raises:
            InputError: there are none.
        """
        self._clusters = list(sources)
        used = Sources({name: row for name, row in sources.items() if name not in self.left_out})
        if not used:
            raise InputError(
                f"cluster={self._folder!r}: no cluster has enough of these documents to train on; "
                "give more documents, or make new clusters of them, by cluster=auto."
            )
        return used

    def remarks(self, splits: Mapping[str, Collection[str]]) -> list[str]:
        """Return a sentence on clusters without held-out data, and one on those left out.

        Args:
            splits: split -> its domains.

        Raises:
            InputError: a split has no domain.
        """
        if self.train_only is None:
            return []
        for split in SPLITS:
            if not splits[split]:
                raise InputError(
                    f"cluster={self._folder!r} leaves no {split} data, since no cluster has enough "
                    "of these documents for each split; give more documents, or make new clusters "
                    "of them, by cluster=auto."
                )
        trained_on = [name for name in self._clusters if name in splits["train"]]
        lacking = [
            name
            for name in trained_on
            if not all(name in splits[split] for split in self._held_out)
        ]
        out = [name for name in self._clusters if name not in trained_on]
        said = []
        if lacking:
            names = ", ".join(lacking)
            said.append(f"without held-out data, for too little text in a split: clusters {names}")
        if out:
            said.append(f"left out, for too little text to train on: clusters {', '.join(out)}")
        return said

    def say(self, splits: Mapping[str, Collection[str]]) -> dict[str, list[str]]:
        """Warn of `remarks`, and return them for a manifest, under that name if there are some."""
        remarks = self.remarks(splits)
        for remark in remarks:
            warnings.warn(f"cluster={self._folder!r}: {remark}.", stacklevel=2)
        return {"remarks": remarks} if remarks else {}
