"""The base of data modules that prepare their own text, once, in a cache folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tandem_pl.checks import check_at_least
from tandem_pl.datamodules.clusters.small import SmallClusters
from tandem_pl.files import new_folder
from tandem_pl.machine import count_cores

from .block_folder import MANIFEST, Documents, write_manifest, write_splits
from .caching import corpus_folder
from .prepared import PackedTextDataModule
from .tokenization import load_tokenizer

CACHE_FORMAT = 2  # raise it when the same settings give other blocks


class CachedTextDataModule(PackedTextDataModule):
    """Base of data modules that build a folder of blocks in a cache.

    A subclass implements `prepare_data` with `build_once`. The folder is named by a fingerprint of
    the settings and the tokenizer, so that any change of them builds another one.

    Args:
        tokenizer: `"bytes"`, or a saved tokenizer's folder or `tokenizer.json`.
        block_size: tokens in a sample.
        cache_dir: folder of the caches; null for `default_cache_dir`.
        like: folder of a run, to use its corpus although files or packages changed since.
        batching: see `ConfiguredDataModule`.
    """

    def __init__(
        self,
        tokenizer: str = "bytes",
        block_size: int = 128,
        cache_dir: str | None = None,
        like: str | None = None,
        **batching: Any,
    ) -> None:
        super().__init__(**batching)
        check_at_least("block_size", block_size, 2)
        self.tokenizer = load_tokenizer(tokenizer)
        self.tokenizer_name = tokenizer
        self.vocab_size = self.tokenizer.vocab_size
        self.block_size = block_size
        self.cache_dir, self.like = cache_dir, like
        self.cache_folder: Path | None = None
        self.cluster_summary: dict[str, Any] = {}  # for the manifest, see `cached_clusters`
        self.small_clusters = SmallClusters(None)

    def build_once(
        self, settings: dict[str, Any], make: Callable[[], tuple[Documents, dict[str, int]]]
    ) -> None:
        """Set `cache_folder`, and build the folder if it is not there yet.

        Args:
            settings: all that decides which text falls in which split, as plain JSON values.
            make: returns the documents, and the duplicates dropped by domain.
        """
        settings = {
            "format": CACHE_FORMAT,
            "kind": type(self).__name__,
            "tokenizer": self.tokenizer.fingerprint,
            "block_size": self.block_size,
            **settings,
        }
        folder = corpus_folder(self.cache_dir, settings, self.like)
        if not (folder / MANIFEST).exists():
            documents, duplicates = make()
            with new_folder(folder, done=MANIFEST) as scratch:
                splits = write_splits(
                    scratch, documents, self.tokenizer, self.block_size, count_cores()
                )
                manifest = {
                    "tokenizer_name": self.tokenizer_name,
                    "settings": settings,
                    "duplicates_dropped": duplicates,
                    "block_size": self.block_size,
                    "vocab_size": self.vocab_size,
                    "splits": splits,
                }
                if self.cluster_summary:
                    manifest["clusters"] = self.cluster_summary | self.small_clusters.say(splits)
                write_manifest(scratch, manifest)
        self.cache_folder = folder

    def find_folder(self) -> Path:
        """Return the cache folder; build it if no other process has."""
        self.prepare_data()
        assert self.cache_folder is not None
        return self.cache_folder

    def _identity(self) -> dict[str, Any]:
        # Equal numbers of blocks may hold other text.
        assert self.cache_folder is not None
        return {**super()._identity(), "cache": self.cache_folder.name}
