"""Text of your own as a mixture: one source a domain, or one saved dataset with a domain column."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from tandem_pl.errors import InputError

from .documents import Reader, list_files, read_documents, read_saved_dataset
from .mixture import MixtureDataModule
from .packing import MANIFEST, SPLITS, PackedBlocks, blocks_path, build_blocks, read_manifest
from .tokenization import load_tokenizer

CACHE_FORMAT = 1  # raise it when the same settings shall give other blocks

#: `documents[split][domain]`: the documents of every split, in the order they are packed.
SplitDocuments = dict[str, dict[str, Iterator[str]]]


def default_cache_dir() -> Path:
    """`$TANDEM_CACHE`, or `tandem_pl` in `$XDG_CACHE_HOME`, or `~/.cache/tandem_pl`."""
    if os.environ.get("TANDEM_CACHE"):
        return Path(os.environ["TANDEM_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tandem_pl"


def document_key(text: str, seed: int) -> bytes:
    """16 bytes that stand for a document: equal texts have equal keys, the seed orders them.

    Example:
        >>> document_key("a", 0) == document_key("a", 0) != document_key("a", 1)
        True
    """
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16, key=str(seed).encode()).digest()


def assign_splits(
    readers: Mapping[str, Reader], target_fraction: float, test_fraction: float, seed: int
) -> tuple[dict[str, dict[bytes, str]], dict[str, int]]:
    """Assign every document to one split, by its content alone.

    A domain's distinct documents are ranked by `document_key`; the first `test_fraction` of them
    are test, the next `target_fraction` target and the rest train, each at least one document. A
    text met before, in this domain or in an earlier one, is a duplicate and has no split here.

    Args:
        readers: domain -> a fresh pass over its documents.
        target_fraction: share of a domain's documents for the target split.
        test_fraction: share for the test split.
        seed: changes which documents fall where.

    Returns:
        `splits[domain][key]`, the split of each document, and the number of duplicates a domain.

    Raises:
        InputError: a domain has fewer than three distinct documents.
    """
    seen: set[bytes] = set()
    splits: dict[str, dict[bytes, str]] = {}
    duplicates: dict[str, int] = {}
    for domain, reader in readers.items():
        keys: list[bytes] = []
        count = 0
        for text in tqdm(reader(), desc=f"reading {domain}", unit=" documents", delay=1):
            count += 1
            key = document_key(text, seed)
            if key not in seen:
                seen.add(key)
                keys.append(key)
        if len(keys) < 3:
            raise InputError(
                f"domain {domain!r} has {len(keys)} distinct documents ({count} read) but needs 3, "
                "one each to train, target and test; add documents, split its file into several, "
                "or leave the domain out."
            )
        keys.sort()
        tests = max(1, min(round(test_fraction * len(keys)), len(keys) - 2))
        targets = max(1, min(round(target_fraction * len(keys)), len(keys) - tests - 1))
        names = ["test"] * tests + ["target"] * targets
        names += ["train"] * (len(keys) - len(names))
        splits[domain] = dict(zip(keys, names, strict=True))
        duplicates[domain] = count - len(keys)
    return splits, duplicates


def select_split(
    reader: Reader, splits: Mapping[bytes, str], split: str, seed: int
) -> Iterator[str]:
    """The documents of one split, in the order read, each text once."""
    left = {key for key, name in splits.items() if name == split}
    for text in reader():
        key = document_key(text, seed)
        if key in left:
            left.remove(key)
            yield text


class PackedTextDataModule(MixtureDataModule):
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
        **mixture_options: Any,
    ) -> None:
        super().__init__(**mixture_options)
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
        opened = {
            split: {
                domain: PackedBlocks(blocks_path(self.cache_folder, split, domain))
                for domain in self.manifest["splits"][split]
            }
            for split in SPLITS
        }
        self.train_sets = dict(opened["train"])
        self.target_sets = dict(opened["target"])
        self.test_sets = dict(opened["test"])
        super().setup(stage)

    def _identity(self) -> dict[str, Any]:
        # The fingerprint too: equal numbers of blocks may hold other text.
        assert self.cache_folder is not None
        return {**super()._identity(), "cache": self.cache_folder.name}

    def summary(self) -> list[dict[str, Any]]:
        """One row a domain: documents, tokens, blocks and dropped tokens of every split.

        The names are `domain`, `duplicates_dropped`, then `train_documents`, `train_tokens`,
        `train_blocks`, `train_dropped_tokens` and the same for `target` and `test`.
        """
        self.prepare_data()
        assert self.cache_folder is not None
        manifest = read_manifest(self.cache_folder)
        return [
            {
                "domain": domain,
                "duplicates_dropped": manifest["duplicates_dropped"][domain],
                **{
                    f"{split}_{name}": count
                    for split in SPLITS
                    for name, count in manifest["splits"][split][domain].items()
                },
            }
            for domain in manifest["splits"]["train"]
        ]


class TextMixtureDataModule(PackedTextDataModule):
    """Blocks of tokens from your own text, split by document into train, target and test.

    A sample is `{"input_ids": LongTensor[block_size]}`. A document falls in one split whole, the
    same one whenever the documents, fractions and `split_seed` are the same; texts met twice are
    dropped, in and across domains (the first domain keeps them).

    Args:
        domains: domain -> a path, folder, glob pattern or list of these: plain text (every file a
            document), `.jsonl` or `.parquet`. Give this or `dataset`.
        dataset: folder of a dataset written by `Dataset.save_to_disk`, with a domain column.
        domain_column: column of `dataset` that names a document's domain.
        text_column: column of `dataset`, JSON lines and Parquet files that holds the text.
        tokenizer: `"bytes"`, or a saved tokenizer's folder or `tokenizer.json`.
        block_size: tokens a sample.
        target_fraction: share of every domain's documents for the target split.
        test_fraction: share for the test split.
        split_seed: decides which documents fall in which split; `seed` only orders the batches, so
            runs of several seeds share one split and one cache.
        encoding_errors: `"raise"` or `"replace"`, for text files that are not UTF-8.
        cache_dir: folder of the caches; by default see `default_cache_dir`.
        batch_size: samples a batch.
        weights: where the mixture starts, in any of the ways `MixtureDataModule` takes.
        target_weights: shares of the target domains, written alike; None: equal.
        seed: of the order of samples.
        num_workers: of the data loaders.
        epoch_batches: batches an epoch without a reweighting callback; None: the data once.
        allocation: `"debt"` or `"multinomial"`, see `MixtureDataModule`.
        eval_batch_size: of validation and test; None: `batch_size`.
        validate_target: whether `fit` also validates, on the target data.

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
        domains: dict[str, str | list[str]] | None = None,
        dataset: str | None = None,
        domain_column: str = "domain",
        text_column: str = "text",
        tokenizer: str = "bytes",
        block_size: int = 128,
        target_fraction: float = 0.05,
        test_fraction: float = 0.05,
        split_seed: int = 0,
        encoding_errors: str = "raise",
        cache_dir: str | None = None,
        batch_size: int = 32,
        weights: str | dict[str, float] | None = None,
        target_weights: str | dict[str, float] | None = None,
        seed: int = 0,
        num_workers: int = 0,
        epoch_batches: int | None = None,
        allocation: Literal["debt", "multinomial"] = "debt",
        eval_batch_size: int | None = None,
        validate_target: bool = False,
    ) -> None:
        super().__init__(
            tokenizer=tokenizer,
            block_size=block_size,
            cache_dir=cache_dir,
            batch_size=batch_size,
            weights=weights,
            target_weights=target_weights,
            seed=seed,
            num_workers=num_workers,
            epoch_batches=epoch_batches,
            allocation=allocation,
            eval_batch_size=eval_batch_size,
            validate_target=validate_target,
        )
        if bool(domains) == bool(dataset):
            raise InputError(
                "give either domains (a source a domain) or dataset (a saved dataset with a "
                f"domain column), not {'both' if domains else 'neither'}."
            )
        for key, fraction in (
            ("target_fraction", target_fraction),
            ("test_fraction", test_fraction),
            ("target_fraction + test_fraction", target_fraction + test_fraction),
        ):
            if not 0 < fraction < 1:
                raise InputError(
                    f"{key} is {fraction}; it must lie between 0 and 1, both excluded."
                )
        self.domains = domains
        self.dataset = dataset
        self.domain_column = domain_column
        self.text_column = text_column
        self.target_fraction = target_fraction
        self.test_fraction = test_fraction
        self.split_seed = split_seed
        self.encoding_errors = encoding_errors

    def settings(self) -> dict[str, Any]:
        """The options that decide the splits, and for every domain a digest of its files."""
        if self.dataset is not None:
            sources = {"dataset": _digest(list_files("dataset", self.dataset))}
        else:
            sources = {
                domain: _digest(list_files(domain, source))
                for domain, source in (self.domains or {}).items()
            }
        return {
            "sources": sources,
            "domain_column": self.domain_column if self.dataset else None,
            "text_column": self.text_column,
            "target_fraction": self.target_fraction,
            "test_fraction": self.test_fraction,
            "split_seed": self.split_seed,
            "encoding_errors": self.encoding_errors,
        }

    def documents(self) -> tuple[SplitDocuments, dict[str, int]]:
        """Read every source once to decide the splits; the iterators read it again."""
        if self.dataset is not None:
            readers = read_saved_dataset(self.dataset, self.text_column, self.domain_column)
        else:
            readers = {
                domain: partial(
                    read_documents,
                    list_files(domain, source),
                    self.text_column,
                    self.encoding_errors,
                )
                for domain, source in (self.domains or {}).items()
            }
        splits, duplicates = assign_splits(
            readers, self.target_fraction, self.test_fraction, self.split_seed
        )
        documents = {
            split: {
                domain: select_split(reader, splits[domain], split, self.split_seed)
                for domain, reader in readers.items()
            }
            for split in SPLITS
        }
        return documents, duplicates


def _advance(bar: "tqdm[Any]", texts: Iterator[str]) -> Iterator[str]:
    for text in texts:
        bar.update()
        yield text


def _digest(files: list[Path]) -> str:
    """Changes with the files' names, sizes and times of change."""
    digest = hashlib.blake2b(digest_size=16)
    for path in files:
        stat = path.stat()
        digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()
