"""The base of corpora that choose their documents from the installed packages."""

from typing import Any

from tandem_pl.datamodules.clusters.options import ClusterOptions
from tandem_pl.datamodules.text.block_folder import Documents
from tandem_pl.datamodules.text.cached import CachedTextDataModule

from .installed_text import installed
from .without_labels import cluster_training_documents


class InstalledTextCorpus(CachedTextDataModule):
    """Base of corpora from installed text, with given domains or clusters.

    A subclass implements `documents`, and adds its options to `settings`.

    Args:
        cluster: clusters in place of the training documents' domains: how many, or "auto"; None
            for the domains.
        split_seed: which documents are test, target and training data.
        packing: see `CachedTextDataModule`.
    """

    def __init__(self, cluster: Any, split_seed: int, **packing: Any) -> None:
        super().__init__(**packing)
        self.clusters = ClusterOptions.checked(
            cluster, False, None, None, split_seed, folders=False
        )
        self.split_seed = split_seed

    def documents(self) -> tuple[Documents, dict[str, int]]:
        """Return the documents of every domain and split, and count the repeats dropped."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Return the options that decide the splits, and the installed versions."""
        return {
            "split_seed": self.split_seed,
            "installed": {name: distribution.version for name, distribution in installed()},
            **({"clusters": self.clusters.identity()} if self.clusters else {}),
        }

    def prepare_data(self) -> None:
        """Build the cache if it is not there yet."""
        self.build_once(self.settings(), self._build)

    def _build(self) -> tuple[Documents, dict[str, int]]:
        documents, dropped = self.documents()
        if self.clusters:
            documents, self.cluster_summary = cluster_training_documents(documents, self.clusters)
            dropped = {domain: dropped.get(domain, 0) for domain in documents}
        return documents, dropped
