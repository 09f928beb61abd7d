"""Text of your own as a mixture: one source a domain, or one saved dataset with a domain column."""

import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from tandem_pl.datamodules.batching import ConfiguredDataModule
from tandem_pl.datamodules.sources.domains import Source, check_given, open_domains
from tandem_pl.errors import InputError

from .documents import (
    DROPPED,
    SPLIT_CODES,
    assign_splits,
    check_fractions,
    document_keys,
    read_texts,
    select_documents,
)
from .packed_blocks import open_blocks
from .packing import MANIFEST, SPLITS, batches, build_blocks, read_manifest, summarize
from .tokenization import load_tokenizer

CACHE_FORMAT = 2  # raise it when the same settings shall give other blocks

#: `documents[split][domain]`: the documents of every split, in the order they are packed.
SplitDocuments = dict[str, dict[str, Iterator[str]]]


def default_cache_dir() -> Path:
    """`$TANDEM_CACHE`, or `tandem_pl` in `$XDG_CACHE_HOME`, or `~/.cache/tandem_pl`."""
    if os.environ.get("TANDEM_CACHE"):
        return Path(os.environ["TANDEM_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tandem_pl"


class PackedTextDataModule(ConfiguredDataModule):
    """What text data modules share: a cache of packed blocks, built once and memory-mapped.

    A subclass says what its documents are (`documents`) and what they depend on (`settings`). The
    cache folder is named by a fingerprint of the settings and the tokenizer, so that changing any
    of them builds anew; its `manifest.yaml` holds the settings and counts.
    """

    def __init__(
        self,
        tokenizer: str = "bytes",
        block_size: int = 128,
        cache_dir: str | None = None,
        **batching: Any,
    ) -> None:
        super().__init__(**batching)
        if block_size < 2:
            raise InputError(f"block_size is {block_size}; give at least 2 tokens.")
        self.tokenizer = load_tokenizer(tokenizer)
        self.tokenizer_name = tokenizer
        self.vocab_size = self.tokenizer.vocab_size
        self.block_size = block_size
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir else default_cache_dir()
        self.cache_folder: Path | None = None

    def settings(self) -> dict[str, Any]:
        """All that decides which text falls in which split, as plain JSON values."""
        raise NotImplementedError

    def documents(self) -> tuple[SplitDocuments, dict[str, int]]:
        """The documents of every split and domain, and the duplicates dropped a domain."""
        raise NotImplementedError

    def prepare_data(self) -> None:
        """Build the cache, where it is not there yet."""
        settings = {
            "format": CACHE_FORMAT,
            "kind": type(self).__name__,
            "tokenizer": self.tokenizer.fingerprint,
            "block_size": self.block_size,
            **self.settings(),
        }
        name = hashlib.blake2b(json.dumps(settings).encode(), digest_size=12).hexdigest()
        folder = self.cache_dir / f"{type(self).__name__}-{name}"
        if not (folder / MANIFEST).exists():
            documents, duplicates = self.documents()
            with tqdm(desc="packing", unit=" documents", delay=1) as bar:
                counted = {
                    split: {domain: _advance(bar, texts) for domain, texts in domains.items()}
                    for split, domains in documents.items()
                }
                about = {
                    "tokenizer_name": self.tokenizer_name,
                    "settings": settings,
                    "duplicates_dropped": duplicates,
                }
                build_blocks(folder, counted, self.tokenizer, self.block_size, about)
        self.cache_folder = folder

    def setup(self, stage: str | None = None) -> None:
        """Open the blocks of every split and domain (building them first where they are not)."""
        self.prepare_data()  # only looks, where another process has built
        assert self.cache_folder is not None
        self.manifest = read_manifest(self.cache_folder)
        opened = open_blocks(self.cache_folder, self.manifest)
        self.train_sets = dict(opened["train"])
        self.target_sets = dict(opened["target"])
        self.test_sets = dict(opened["test"])
        super().setup(stage)

    def _identity(self) -> dict[str, Any]:
        # The fingerprint too: equal numbers of blocks may hold other text.
        assert self.cache_folder is not None
        return {**super()._identity(), "cache": self.cache_folder.name}

    def summary(self) -> list[dict[str, Any]]:
        """One row a domain, see `packing.summarize`."""
        self.prepare_data()
        assert self.cache_folder is not None
        return summarize(read_manifest(self.cache_folder))


class TextMixtureDataModule(PackedTextDataModule):
    """Blocks of tokens from your own text, split by document into train, target and test.

    A sample is `{"input_ids": LongTensor[block_size]}`. A document falls in one split whole, the
    same one whenever the documents, fractions and `split_seed` are the same; texts met twice are
    dropped, in and across domains (the first domain keeps them).

    Args:
        domains: domain -> a path, folder, glob pattern or list of these: plain text (every file a
            document), `.jsonl`, `.parquet` or `.csv`; or a map with `path` or `dataset`, and
            `column`, see `sources.open_source`. Give this or `dataset`.
        dataset: folder of a dataset written by `Dataset.save_to_disk`, JSON lines, Parquet or CSV,
            or a name on the Hugging Face hub, with a domain column; or a map with `dataset`,
            `config` and `split`.
        domain_column: column of `dataset` that names a document's domain.
        text_column: column of `dataset`, JSON lines, Parquet and CSV files that holds the text.
        tokenizer: `"bytes"`, or a saved tokenizer's folder or `tokenizer.json`.
        block_size: tokens a sample.
        target_fraction: share of every domain's documents for the target split.
        test_fraction: share for the test split.
        split_seed: decides which documents fall in which split; `seed` only orders the batches, so
            runs of several seeds share one split and one cache.
        encoding_errors: `"raise"` or `"replace"`, for text files that are not UTF-8.
        corrupt: `"stop"` or `"skip"`, for rows that cannot be read; skipped ones are counted in a
            warning.
        cache_dir: folder of the caches; by default see `default_cache_dir`.
        batching: see `ConfiguredDataModule`.

    Raises:
        InputError: neither or both of `domains` and `dataset`, a bad fraction, and, when the cache
            is built, a source that cannot be read or has too few documents.

    Example:
        >>> data = TextMixtureDataModule({"books": "books/*.txt", "code": ["src", "lib"]})
        >>> data.vocab_size
        257
    """

    def __init__(
        self,
        domains: dict[str, str | list[str] | dict[str, Any]] | None = None,
        dataset: str | dict[str, Any] | None = None,
        domain_column: str = "domain",
        text_column: str = "text",
        tokenizer: str = "bytes",
        block_size: int = 128,
        target_fraction: float = 0.05,
        test_fraction: float = 0.05,
        split_seed: int = 0,
        encoding_errors: str = "raise",
        corrupt: Literal["stop", "skip"] = "stop",
        cache_dir: str | None = None,
        **batching: Any,
    ) -> None:
        super().__init__(
            tokenizer=tokenizer,
            block_size=block_size,
            cache_dir=cache_dir,
            **batching,
        )
        check_given(domains, dataset)
        check_fractions(target_fraction, test_fraction)
        self.domains = domains
        self.dataset = dataset
        self.domain_column = domain_column
        self.text_column = text_column
        self.target_fraction = target_fraction
        self.test_fraction = test_fraction
        self.split_seed = split_seed
        self.encoding_errors = encoding_errors
        self.corrupt = corrupt

    def sources(self) -> dict[str, Source]:
        """Domain -> where its documents lie."""
        return open_domains(
            self.domains, self.dataset, self.domain_column, self.encoding_errors, self.corrupt
        )

    def settings(self) -> dict[str, Any]:
        """The options that decide the splits, and for every domain a digest of its source."""
        sources = self.sources()
        return {
            "sources": {domain: source.digest() for domain, source in sources.items()},
            "columns": {domain: source.column for domain, source in sources.items()},
            "domain_column": self.domain_column if self.dataset else None,
            "text_column": self.text_column,
            "target_fraction": self.target_fraction,
            "test_fraction": self.test_fraction,
            "split_seed": self.split_seed,
            "encoding_errors": self.encoding_errors,
            "corrupt": self.corrupt,
        }

    def documents(self) -> tuple[SplitDocuments, dict[str, int]]:
        """Read every source once to decide the splits; the iterators read it again."""
        sources = self.sources()
        keys = {}
        for domain, source in sources.items():
            texts = tqdm(
                read_texts(source, self.text_column),
                desc=f"reading {domain}",
                unit=" documents",
                delay=1,
            )
            parts = [document_keys(batch, self.split_seed) for batch in batches(texts)]
            keys[domain] = np.concatenate([np.empty((0, 2), np.uint64), *parts])
            if source.skipped:
                warnings.warn(
                    f"domain {domain!r}: {source.skipped} corrupt rows were left out; the first: "
                    f"{source.first_skipped}",
                    stacklevel=2,
                )
        codes = assign_splits(keys, self.target_fraction, self.test_fraction)
        documents = {
            split: {
                domain: select_documents(
                    domain,
                    read_texts(source, self.text_column),
                    codes[domain] == SPLIT_CODES[split],
                )
                for domain, source in sources.items()
            }
            for split in SPLITS
        }
        return documents, {domain: int((row == DROPPED).sum()) for domain, row in codes.items()}


def _advance(bar: "tqdm[Any]", texts: Iterator[str]) -> Iterator[str]:
    for text in texts:
        bar.update()
        yield text
