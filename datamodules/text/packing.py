"""Pack documents into blocks of tokens on disk.

The tokens of a domain's split form one stream, with an end-of-text token after every document; the
stream is cut into blocks of `block_size` tokens, and what is left at its end (fewer than
`block_size` tokens) is dropped and counted. Blocks lie in Arrow files of one fixed-size-list column
`input_ids`, which `packed_blocks` maps into memory, and `datasets.Dataset.from_file` opens too.
"""

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import yaml

from tandem_pl.errors import InputError

from .tokenization import Tokenizer

SPLITS = ("train", "target", "test")
MANIFEST = "manifest.yaml"
BATCH_CHARACTERS = 1 << 20  # texts are tokenized together until they hold this many characters
BATCH_TOKENS = 1 << 18  # tokens in one Arrow record batch, about
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def smallest_dtype(vocab_size: int) -> np.dtype:
    """The smallest unsigned integer type that holds the ids `0 .. vocab_size - 1`.

    Example:
        >>> str(smallest_dtype(256)), str(smallest_dtype(257)), str(smallest_dtype(100_000))
        ('uint8', 'uint16', 'uint32')
    """
    return np.min_scalar_type(vocab_size - 1)


def encode_documents(texts: Sequence[str], tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of documents, each with its end-of-text token.

    Returns:
        All tokens one after the other, shape `[tokens]` of the smallest type that holds them, and
        how many are each document's, int64 of shape `[documents]`.
    """
    dtype = smallest_dtype(tokenizer.vocab_size)
    if not texts:
        return np.empty(0, dtype), np.empty(0, np.int64)
    eos = np.asarray([tokenizer.eos_token_id])
    parts = [part for ids in tokenizer.encode_batch(texts) for part in (ids, eos)]
    lengths = np.asarray([len(ids) + 1 for ids in parts[::2]], dtype=np.int64)
    return np.concatenate(parts, dtype=dtype, casting="unsafe"), lengths


class BlockWriter:
    """Writes one stream of tokens to an Arrow file, in blocks; memory does not grow with it.

    Args:
        path: the file to write; its folder is made.
        vocab_size: decides the type of the stored ids.
        block_size: tokens a block.
    """

    def __init__(self, path: Path, vocab_size: int, block_size: int) -> None:
        self.block_size = block_size
        self.dtype = smallest_dtype(vocab_size)
        self._schema = pa.schema(
            {"input_ids": pa.list_(pa.from_numpy_dtype(self.dtype), block_size)}
        )
        self._waiting: list[np.ndarray] = []
        self._tokens_waiting = 0
        self._digest = hashlib.blake2b(digest_size=16)
        self.counts = {
            "documents": 0,
            "tokens": 0,
            "blocks": 0,
            "dropped_tokens": 0,
            "longest_document": 0,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_stream(self._file, self._schema)

    def write(self, tokens: np.ndarray, lengths: np.ndarray) -> None:
        """Add documents, as `encode_documents` gives them."""
        self.counts["documents"] += len(lengths)
        self.counts["tokens"] += len(tokens)
        longest = int(lengths.max(initial=0))
        self.counts["longest_document"] = max(self.counts["longest_document"], longest)
        self._waiting.append(tokens)
        self._tokens_waiting += len(tokens)
        if self._tokens_waiting >= max(BATCH_TOKENS, self.block_size):
            self._flush()

    def close(self) -> dict[str, Any]:
        """Finish the file.

        Returns:
            The counts `documents`, `tokens` (end-of-text tokens included), `blocks`,
            `dropped_tokens` (`tokens = blocks * block_size + dropped_tokens`) and
            `longest_document` (in tokens), and `digest`, which stands for the blocks.
        """
        self._flush()
        self.counts["dropped_tokens"] = self._tokens_waiting
        self._writer.close()
        self._file.close()
        return {**self.counts, "digest": self._digest.hexdigest()}

    def abandon(self) -> None:
        """Let go of the file after an error."""
        with suppress(OSError):
            self._file.close()

    def _flush(self) -> None:
        if not self._waiting:
            return
        stream = np.concatenate(self._waiting, dtype=self.dtype, casting="unsafe")
        whole = len(stream) // self.block_size * self.block_size
        self._waiting, self._tokens_waiting = [stream[whole:]], len(stream) - whole
        if whole:
            self._digest.update(stream[:whole].data)
            column = pa.FixedSizeListArray.from_arrays(pa.array(stream[:whole]), self.block_size)
            self._writer.write_batch(pa.record_batch([column], schema=self._schema))
            self.counts["blocks"] += whole // self.block_size


def write_blocks(
    path: Path, documents: Iterable[str], tokenizer: Tokenizer, block_size: int
) -> dict[str, Any]:
    """Write the blocks of `documents` to the Arrow file `path`; gives `BlockWriter.close`."""
    writer = BlockWriter(path, tokenizer.vocab_size, block_size)
    try:
        for texts in batches(documents):
            writer.write(*encode_documents(texts, tokenizer))
        return writer.close()
    except BaseException:
        writer.abandon()
        raise


def batches(documents: Iterable[str]) -> Iterator[list[str]]:
    """Documents in lists of about `BATCH_CHARACTERS`; a longer document ends its list."""
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


def blocks_path(folder: Path, split: str, domain: str) -> Path:
    """Where a domain's split lies in a folder of blocks; any name makes a safe file name."""
    return folder / split / f"{quote(domain, safe=' ')}.arrow"


def check_blocks(domain: str, split: str, counts: Mapping[str, Any], block_size: int) -> None:
    """Raises `InputError` where a split of a domain has not one whole block."""
    if counts["blocks"] == 0:
        raise InputError(
            f"domain {domain!r} has {counts['tokens']} tokens in its {split} split, "
            f"fewer than one block of block_size {block_size}; "
            "give a smaller block_size, a larger split or more documents."
        )


@contextmanager
def new_folder(folder: Path, overwrite: bool = False) -> Iterator[Path]:
    """A scratch folder beside `folder`, renamed to it when all went well and deleted when not.

    So a build that was killed leaves nothing that could be loaded. Of several builders at once the
    first to finish wins, and the others drop their copy and use the winner's; with `overwrite` the
    last one does, and what was there is deleted once the new folder is whole.

    Raises:
        InputError: no space left on the device, or `folder` cannot be written.
    """
    scratch = folder.parent / f".{folder.name}.{uuid.uuid4().hex}.tmp"
    old = scratch.with_suffix(".old")
    try:
        scratch.mkdir(parents=True)
        yield scratch
        if overwrite and folder.exists():
            os.replace(folder, old)
        try:
            os.replace(scratch, folder)
        except OSError:
            if not (folder / MANIFEST).exists():
                raise
    except OSError as error:
        if error.errno in NO_SPACE:
            raise InputError(
                f"{folder} cannot be written: no space is left on its device; free some or choose "
                "a folder elsewhere (nothing was left behind)."
            ) from error
        if isinstance(error, PermissionError | NotADirectoryError | FileExistsError):
            raise InputError(
                f"{folder} cannot be written ({error.strerror}: {error.filename}); choose a folder "
                "elsewhere."
            ) from error
        raise
    finally:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest, the last file of a folder of blocks."""
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        yaml.safe_dump(dict(manifest), file, sort_keys=False, allow_unicode=True)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder of blocks."""
    return dict(yaml.safe_load((folder / MANIFEST).read_text(encoding="utf-8")))


def build_blocks(
    folder: Path,
    documents: Mapping[str, Mapping[str, Iterable[str]]],
    tokenizer: Tokenizer,
    block_size: int,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the blocks of every split and domain and the manifest, by way of `new_folder`.

    Args:
        folder: the cache folder to make.
        documents: `documents[split][domain]`, for every split of `SPLITS`.
        tokenizer: gives the tokens.
        block_size: tokens a block.
        about: what else the manifest shall say, as plain YAML values.

    Returns:
        The manifest: `about`, `block_size`, `vocab_size`, and what `write_blocks` gives under
        `splits`, split and domain.

    Raises:
        InputError: a split of a domain has fewer tokens than one block.
    """
    with new_folder(folder) as scratch:
        splits: dict[str, dict[str, dict[str, Any]]] = {}
        for split, domains in documents.items():
            splits[split] = {}
            for domain, texts in domains.items():
                path = blocks_path(scratch, split, domain)
                counts = write_blocks(path, texts, tokenizer, block_size)
                check_blocks(domain, split, counts, block_size)
                splits[split][domain] = counts
        sizes = {"block_size": block_size, "vocab_size": tokenizer.vocab_size}
        write_manifest(scratch, {**about, **sizes, "splits": splits})
    return read_manifest(folder)


def summarize(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a domain: `domain`, `duplicates_dropped`, and the counts of each split.

    The names of counts are `train_documents`, `train_tokens`, `train_blocks`,
    `train_dropped_tokens`, `train_longest_document`, and the same for `target` and `test`.
    """
    return [
        {
            "domain": domain,
            "duplicates_dropped": manifest["duplicates_dropped"][domain],
            **{
                f"{split}_{name}": count
                for split in SPLITS
                for name, count in manifest["splits"][split][domain].items()
                if name != "digest"
            },
        }
        for domain in manifest["splits"]["train"]
    ]
