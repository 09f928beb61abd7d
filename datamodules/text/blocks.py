"""Write blocks of tokens to one Arrow file, which `PackedBlocks` reads memory-mapped.

The tokens of a domain's split form one stream, with an end-of-text token after every document; the
stream is cut into blocks of `block_size` tokens, and the rest at its end (fewer than `block_size`
tokens) is dropped and counted. The file has one fixed-size-list column `input_ids`;
`datasets.Dataset.from_file` opens it too.
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from .tokenization import Tokenizer

COUNTS = ("documents", "tokens", "blocks", "dropped_tokens", "longest_document")
BATCH_TOKENS = 1 << 18  # tokens in one Arrow record batch, about


def smallest_dtype(vocab_size: int) -> np.dtype:
    """Return the smallest unsigned integer type that holds the ids `0 .. vocab_size - 1`.

    Example:
        >>> str(smallest_dtype(256)), str(smallest_dtype(257)), str(smallest_dtype(100_000))
        ('uint8', 'uint16', 'uint32')
    """
    return np.min_scalar_type(vocab_size - 1)


def encode_documents(texts: Sequence[str], tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens of documents, each with its end-of-text token.

    Returns:
        All tokens one after the other, shape `[tokens]` of the smallest type that holds them, and
        the number of tokens of each document, int64 of shape `[documents]`.
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

    A context manager, which completes the file if there was no error.

    Args:
        path: the file to write; its folder is made.
        vocab_size: decides the type of the ids in the file.
        block_size: tokens in a block.

    Attributes:
        counts: `documents`, `tokens` (end-of-text tokens included), `blocks`, `dropped_tokens`
            (`tokens = blocks * block_size + dropped_tokens`), `longest_document` (in tokens), and
            `digest`, which changes with the blocks; complete on exit.
    """

    def __init__(self, path: Path, vocab_size: int, block_size: int) -> None:
        self.block_size = block_size
        self.dtype = smallest_dtype(vocab_size)
        self._schema = pa.schema(
            {"input_ids": pa.list_(pa.from_numpy_dtype(self.dtype), block_size)}
        )
        self._rest = np.empty(0, self.dtype)
        self._digest = hashlib.blake2b(digest_size=16)
        self.counts: dict[str, Any] = dict.fromkeys(COUNTS, 0)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_stream(self._file, self._schema)

    def __enter__(self) -> "BlockWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            if kind is None:
                self._flush()
                self.counts["dropped_tokens"] = len(self._rest)
                self.counts["digest"] = self._digest.hexdigest()
                self._writer.close()
                self._file.close()
        finally:
            with suppress(OSError):
                self._file.close()

    def write(self, tokens: np.ndarray, lengths: np.ndarray) -> None:
        """Add documents, as `encode_documents` gives them."""
        self.counts["documents"] += len(lengths)
        self.counts["tokens"] += len(tokens)
        longest = int(lengths.max(initial=self.counts["longest_document"]))
        self.counts["longest_document"] = longest
        self._rest = np.concatenate([self._rest, tokens], dtype=self.dtype, casting="unsafe")
        if len(self._rest) >= max(BATCH_TOKENS, self.block_size):
            self._flush()

    def _flush(self) -> None:
        whole = len(self._rest) // self.block_size * self.block_size
        stream, self._rest = self._rest[:whole], self._rest[whole:]
        if whole:
            self._digest.update(stream.data)
            column = pa.FixedSizeListArray.from_arrays(pa.array(stream), self.block_size)
            self._writer.write_batch(pa.record_batch([column], schema=self._schema))
            self.counts["blocks"] += whole // self.block_size
