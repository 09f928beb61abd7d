"""A folder of packed blocks: `manifest.yaml`, and an Arrow file for each split and domain."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from tandem_pl.errors import InputError
from tandem_pl.files import file_names
from tandem_pl.yaml_files import dump_yaml, read_yaml

from .blocks import COUNTS, BlockWriter, encode_documents
from .documents import SPLIT_CODES, SPLITS, TooLittleTextError
from .threads import map_in_threads
from .tokenization import Tokenizer

if TYPE_CHECKING:
    from .packed_blocks import PackedBlocks

MANIFEST = "manifest.yaml"
BATCH_CHARACTERS = 1 << 20  # texts are tokenized together until they hold this many characters

#: domain -> its documents, and the code of each one's split (uint8 of shape `[documents]`).
Documents = Mapping[str, tuple[Iterable[str], np.ndarray]]


def batches(texts: Iterable[str], about: str, total: int | None = None) -> Iterator[list[str]]:
    """Yield texts in lists of about `BATCH_CHARACTERS`, under a progress bar.

    Args:
        texts: the texts; one that is longer ends its list.
        about: the label of the progress bar.
        total: how many texts there are, if that is known.
    """
    batch: list[str] = []
    characters = 0
    with tqdm(desc=about, total=total, unit=" documents", delay=1) as bar:
        for text in texts:
            batch.append(text)
            characters += len(text)
            if characters >= BATCH_CHARACTERS:
                yield batch
                bar.update(len(batch))
                batch, characters = [], 0
        if batch:
            yield batch
            bar.update(len(batch))


def blocks_path(
    folder: Path, split: str, domain: str, names: Mapping[str, str] | None = None
) -> Path:
    """Return the file of a domain's split; any name of a domain makes a safe file name.

    Args:
        folder: the folder of blocks.
        split: the split.
        domain: the domain.
        names: `file_names` of all domains; None if names that differ in case are of no concern.
    """
    return folder / split / f"{(names or file_names([domain]))[domain]}.arrow"


def find_blocks(folder: Path, split: str, domain: str, names: Mapping[str, str]) -> Path:
    """Return the existing file of a domain's split, also in a folder with names of before."""
    path, old = blocks_path(folder, split, domain, names), f"{quote(domain, safe=' ')}.arrow"
    found = os.path.exists(path) or not os.path.exists(folder / split / old)
    return path if found else folder / split / old


def write_splits(
    folder: Path,
    documents: Documents,
    tokenizer: Tokenizer,
    block_size: int,
    threads: int,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Tokenize every domain once and write the splits that it has documents in.

    Args:
        folder: the folder to write to.
        documents: the documents to write, in order.
        tokenizer: gives the tokens.
        block_size: tokens in a block.
        threads: how many tokenize.

    Returns:
        `BlockWriter.counts` by split and domain.

    Raises:
        InputError: a split of a domain has fewer tokens than one block.
    """
    encode = partial(encode_documents, tokenizer=tokenizer)
    splits: dict[str, dict[str, dict[str, Any]]] = {split: {} for split in SPLITS}
    names = file_names(documents)
    for domain, (texts, codes) in documents.items():
        with ExitStack() as stack:
            writers = {}
            for split in (split for split in SPLITS if SPLIT_CODES[split] in codes):
                path = blocks_path(folder, split, domain, names)
                writer = BlockWriter(path, tokenizer.vocab_size, block_size)
                writers[split] = stack.enter_context(writer)
            packed = batches(texts, f"packing {domain}", len(codes))
            for tokens, lengths in map_in_threads(encode, packed, threads):
                batch, codes = codes[: len(lengths)], codes[len(lengths) :]
                for split, writer in writers.items():
                    chosen = batch == SPLIT_CODES[split]
                    writer.write(tokens[np.repeat(chosen, lengths)], lengths[chosen])
        for split, writer in writers.items():
            counts = splits[split][domain] = writer.counts
            if counts["blocks"] == 0:
                raise TooLittleTextError(
                    f"domain {domain!r} has {counts['tokens']} tokens in its {split} split, "
                    f"fewer than one block of block_size {block_size}; "
                    "give a smaller block_size, a larger split or more documents.",
                    [domain] if "train" in writers else [],
                )
    return splits


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest, the last file of a folder of blocks."""
    (folder / MANIFEST).write_text(dump_yaml(manifest), encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a folder of blocks."""
    return dict(read_yaml(folder / MANIFEST))


def every_domain(manifest: Mapping[str, Any]) -> list[str]:
    """Return the domains of all splits: those that are trained on first."""
    return list(dict.fromkeys(name for split in SPLITS for name in manifest["splits"][split]))


def open_blocks(folder: Path, manifest: Mapping[str, Any]) -> dict[str, dict[str, PackedBlocks]]:
    """Return the blocks of every split and domain.

    Raises:
        InputError: a file is missing, or has not as many blocks as the manifest says.
    """
    from .packed_blocks import PackedBlocks  # imports torch, which `tandem prepare` does not need

    opened: dict[str, dict[str, PackedBlocks]] = {split: {} for split in SPLITS}
    names = file_names(every_domain(manifest))
    for split in SPLITS:
        for domain, counts in manifest["splits"][split].items():
            path = find_blocks(folder, split, domain, names)
            try:
                blocks = PackedBlocks(path)
            except (OSError, pa.ArrowInvalid) as error:
                raise InputError(
                    f"{path} cannot be read ({error}); copy the folder {folder} whole, or build it "
                    "again."
                ) from error
            if len(blocks) != counts["blocks"]:
                raise InputError(
                    f"{path} has {len(blocks)} blocks but the manifest says {counts['blocks']}; "
                    f"copy the folder {folder} whole, or build it again."
                )
            opened[split][domain] = blocks
    return opened


def summarize(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row a domain: `domain`, `duplicates_dropped`, and the counts of each split.

    The names of counts are `train_documents`, `train_tokens`, `train_blocks`,
    `train_dropped_tokens`, `train_longest_document`, and the same for `target` and `test`; they are
    0 for a split that the domain does not have.
    """
    none = dict.fromkeys(COUNTS, 0)
    return [
        {
            "domain": domain,
            "duplicates_dropped": manifest["duplicates_dropped"][domain],
            **{
                f"{split}_{name}": count
                for split in SPLITS
                for name, count in manifest["splits"][split].get(domain, none).items()
                if name != "digest"
            },
        }
        for domain in every_domain(manifest)
    ]
