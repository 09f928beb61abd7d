"""Pack documents into blocks of tokens on disk, and read the blocks back.

The tokens of a domain's split form one stream, with an end-of-text token after every document; the
stream is cut into blocks of `block_size` tokens, and what is left at its end (fewer than
`block_size` tokens) is dropped and counted. Blocks lie in Arrow files of one fixed-size-list column
`input_ids`, memory-mapped when read, so `datasets.Dataset.from_file` opens them too.
"""

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import torch
import yaml
from torch import Tensor
from torch.utils.data import Dataset

from tandem_pl.errors import InputError

from .tokenization import Tokenizer

SPLITS = ("train", "target", "test")
MANIFEST = "manifest.yaml"
BATCH_CHARACTERS = 1 << 20  # texts are tokenized together until they hold this many characters
BATCH_BLOCKS = 1024  # blocks in one Arrow record batch


def smallest_dtype(vocab_size: int) -> np.dtype:
    """The smallest unsigned integer type that holds the ids `0 .. vocab_size - 1`.

    Example:
        >>> str(smallest_dtype(256)), str(smallest_dtype(257)), str(smallest_dtype(100_000))
        ('uint8', 'uint16', 'uint32')
    """
    return np.min_scalar_type(vocab_size - 1)


def token_streams(documents: Iterable[str], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """Tokenize documents in batches: each array is the tokens and end-of-text of some documents."""
    eos = np.asarray([tokenizer.eos_token_id], dtype=np.int64)
    for batch in _batches(documents):
        parts = []
        for ids in tokenizer.encode_batch(batch):
            parts += [ids, eos]
        yield np.concatenate(parts)


def cut_blocks(
    streams: Iterable[np.ndarray], block_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cut a stream of tokens into blocks, one step an incoming array.

    Yields:
        `(blocks, rest)`: blocks of shape `[n, block_size]` (n may be 0), and the tokens after the
        last of them, shape `[fewer than block_size]`, which open the next step's first block.

    Example:
        >>> steps = list(cut_blocks([np.arange(5), np.arange(5, 8)], block_size=3))
        >>> [blocks.tolist() for blocks, _ in steps], steps[-1][1].tolist()
        ([[[0, 1, 2]], [[3, 4, 5]]], [6, 7])
    """
    rest = np.empty(0, dtype=np.int64)
    for stream in streams:
        stream = np.concatenate([rest, stream])
        whole = len(stream) // block_size * block_size
        rest = stream[whole:]
        yield stream[:whole].reshape(-1, block_size), rest


def write_blocks(
    path: Path, documents: Iterable[str], tokenizer: Tokenizer, block_size: int
) -> dict[str, int]:
    """Write the blocks of `documents` to the Arrow file `path`.

    Returns:
        The counts `documents`, `tokens` (end-of-text tokens included), `blocks` and
        `dropped_tokens`, with `tokens = blocks * block_size + dropped_tokens`.
    """
    counts = {"documents": 0, "tokens": 0, "blocks": 0, "dropped_tokens": 0}

    def counted() -> Iterator[str]:
        for document in documents:
            counts["documents"] += 1
            yield document

    dtype = smallest_dtype(tokenizer.vocab_size)
    schema = pa.schema({"input_ids": pa.list_(pa.from_numpy_dtype(dtype), block_size)})
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for blocks, rest in cut_blocks(token_streams(counted(), tokenizer), block_size):
            for start in range(0, len(blocks), BATCH_BLOCKS):
                flat = pa.array(blocks[start : start + BATCH_BLOCKS].astype(dtype).reshape(-1))
                column = pa.FixedSizeListArray.from_arrays(flat, block_size)
                writer.write_batch(pa.record_batch([column], schema=schema))
            counts["blocks"] += len(blocks)
            counts["dropped_tokens"] = len(rest)
    counts["tokens"] = counts["blocks"] * block_size + counts["dropped_tokens"]
    return counts


def blocks_path(folder: Path, split: str, domain: str) -> Path:
    """Where a domain's split lies in a cache folder; any name makes a safe file name."""
    return folder / split / f"{quote(domain, safe=' ')}.arrow"


def build_blocks(
    folder: Path,
    documents: Mapping[str, Mapping[str, Iterable[str]]],
    tokenizer: Tokenizer,
    block_size: int,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the blocks of every split and domain and the manifest, then put `folder` in place.

    All is written to a temporary folder beside `folder` and renamed when whole, so a build that
    was killed leaves nothing that could be loaded. Of several builders at once the first to finish
    wins, and the others drop their copy and use the winner's.

    Args:
        folder: the cache folder to make.
        documents: `documents[split][domain]`, for every split of `SPLITS`.
        tokenizer: gives the tokens.
        block_size: tokens a block.
        about: what else the manifest shall say, as plain YAML values.

    Returns:
        The manifest: `about`, `block_size`, `vocab_size`, and the counts of `write_blocks` under
        `splits`, split and domain.

    Raises:
        InputError: a split of a domain has fewer tokens than one block.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = folder.parent / f".{folder.name}.{uuid.uuid4().hex}.tmp"
    try:
        splits: dict[str, dict[str, dict[str, int]]] = {}
        for split, domains in documents.items():
            splits[split] = {}
            for domain, texts in domains.items():
                counts = write_blocks(
                    blocks_path(scratch, split, domain), texts, tokenizer, block_size
                )
                if counts["blocks"] == 0:
                    raise InputError(
                        f"domain {domain!r} has {counts['tokens']} tokens in its {split} split, "
                        f"fewer than one block of block_size {block_size}; "
                        "give a smaller block_size, a larger split or more documents."
                    )
                splits[split][domain] = counts
        manifest = {
            **about,
            "block_size": block_size,
            "vocab_size": tokenizer.vocab_size,
            "splits": splits,
        }
        with (scratch / MANIFEST).open("w", encoding="utf-8") as file:
            yaml.safe_dump(manifest, file, sort_keys=False, allow_unicode=True)
        try:
            os.replace(scratch, folder)
        except OSError:
            if not (folder / MANIFEST).exists():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return read_manifest(folder)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a cache folder that `build_blocks` made."""
    return dict(yaml.safe_load((folder / MANIFEST).read_text(encoding="utf-8")))


class PackedBlocks(Dataset[dict[str, Tensor]]):
    """The blocks of one Arrow file, memory-mapped.

    A sample is `{"input_ids": LongTensor[block_size]}`; `tokens_per_sample` is the block size.
    A pickled copy holds only the path and
    opens the file anew, so workers share its pages and not a copy of its content.

    Args:
        path: a file that `write_blocks` wrote.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._open()

    def _open(self) -> None:
        # Straight to NumPy views of the mapped file: several times quicker a batch than formatted
        # rows of `datasets`.
        with pa.memory_map(self.path) as source:
            column = pa.ipc.open_stream(source).read_all().column("input_ids")
        self.block_size = self.tokens_per_sample = int(column.type.list_size)
        self._chunks = [
            chunk.flatten().to_numpy(zero_copy_only=True).reshape(-1, self.block_size)
            for chunk in column.chunks
        ]
        self._starts = np.cumsum([0] + [len(chunk) for chunk in self._chunks])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Tensor]]:
        """The samples of a batch at once; they are rows of one tensor."""
        rows = np.asarray(indices, dtype=np.int64)
        if np.any((rows < 0) | (rows >= len(self))):
            raise IndexError(f"an index of {indices} is not in 0 .. {len(self) - 1}")
        chunks = np.searchsorted(self._starts, rows, side="right") - 1
        batch = np.empty((len(rows), self.block_size), dtype=np.int64)
        places = zip(chunks.tolist(), (rows - self._starts[chunks]).tolist(), strict=True)
        for place, (chunk, row) in enumerate(places):
            batch[place] = self._chunks[chunk][row]
        return [{"input_ids": block} for block in torch.from_numpy(batch)]

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path = state["path"]
        self._open()


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
