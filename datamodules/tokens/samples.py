"""Samples of tokens: blocks of a stream, or rows; and which of them are held out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from tandem_pl.errors import InputError

from .sources import Tokens

MOST_PIECES = 16  # that a held-out split of a domain consists of
LEAST_SAMPLES = 32  # in such a piece, if there are several


class TokenSamples(Dataset[dict[str, Tensor]]):
    """Samples `{"input_ids": LongTensor[T]}`, with `labels` if asked for; read when asked for.

    Args:
        where: the source's name in messages.
        tokens: the tokens. Of a stream, sample i is the i-th block of `block_size` tokens.
        block_size: tokens in a block, and most in a row.
        ranges: [K, 2] first and last + 1 of the samples' numbers, in order; None for all.
        labelled: whether samples have labels, which are the tokens if there are none.
        vocab_size: ids must lie below it; None if it is not known.

    Raises:
        InputError: a row that is longer than `block_size`.
    """

    def __init__(
        self,
        where: str,
        tokens: Tokens,
        block_size: int,
        ranges: NDArray[np.int64] | None = None,
        labelled: bool = False,
        vocab_size: int | None = None,
    ) -> None:
        self.where, self.tokens, self.block_size = where, tokens, block_size
        self.labelled, self.vocab_size = labelled, vocab_size
        if ranges is None:
            ranges = np.array([[0, count_samples(where, tokens, block_size)]])
        self.ranges = ranges
        self._ends = np.cumsum(ranges[:, 1] - ranges[:, 0])
        if not tokens.rows:
            self.tokens_per_sample = block_size

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is not in 0 .. {len(self) - 1}")
        piece = int(np.searchsorted(self._ends, index, side="right"))
        number = int(self.ranges[piece, 1] - self._ends[piece]) + index
        ids, labels = self._read(number)
        self._check(ids, number)
        sample = {"input_ids": torch.from_numpy(ids)}
        if self.labelled:
            sample["labels"] = torch.from_numpy(ids.copy() if labels is None else labels)
        return sample

    def _read(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        ids, labels = self.tokens.ids, self.tokens.labels
        if self.tokens.rows:
            found = ids.row(number).astype(np.int64)
            return found, None if labels is None else labels.row(number).astype(np.int64)
        start, stop = number * self.block_size, (number + 1) * self.block_size
        return ids.read(start, stop), None if labels is None else labels.read(start, stop)

    def _check(self, ids: NDArray[np.int64], number: int) -> None:
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or (self.vocab_size is not None and high >= self.vocab_size):
            raise InputError(
                f"{self.where} has the token {low if low < 0 else high} in sample {number}, and "
                f"ids must be 0 or more and below vocab_size={self.vocab_size}; give the size of "
                "the tokenizer's vocabulary, or the dtype of the tokens."
            )


def count_samples(where: str, tokens: Tokens, block_size: int) -> int:
    """Return the number of whole blocks, or of rows."""
    if not tokens.rows:
        return len(tokens.ids) // block_size
    longest = int(tokens.ids.lengths.max(initial=0))
    if longest > block_size:
        raise InputError(
            f"{where} has a row of {longest:,} tokens, more than block_size {block_size:,}; raise "
            "block_size, or set rows to false in its map to cut all rows, joined, into blocks."
        )
    return len(tokens.ids.lengths)


def hold_out(
    samples: int, fractions: Mapping[str, float], seed: int, where: str
) -> dict[str, NDArray[np.int64]]:
    """Divide a domain's samples: some contiguous pieces for each held-out split, the rest to train.

    Pieces are few and contiguous, because neighbours in a stream may be parts of one document.

    Args:
        samples: their number.
        fractions: split -> its share; 0 for none.
        seed: decides where the pieces lie.
        where: the domain's name, for messages and for the places.

    Returns:
        "train" and each split -> [K, 2] first and last + 1 of the samples' numbers.

    Raises:
        InputError: too few samples.

    Example:
        >>> parts = hold_out(100, {"target": 0.05, "test": 0.1}, 0, "web")
        >>> {split: int((ranges[:, 1] - ranges[:, 0]).sum()) for split, ranges in parts.items()}
        {'train': 85, 'target': 5, 'test': 10}
    """
    counts = {s: max(round(share * samples), 1) for s, share in fractions.items() if share > 0}
    if sum(counts.values()) >= samples:
        raise InputError(
            f"{where} has {samples} samples, too few to hold out {' and '.join(counts)} data; give "
            "it more, a smaller block_size, or data of their own as target and test."
        )
    pieces = min(max(min(counts.values(), default=1) // LEAST_SAMPLES, 1), MOST_PIECES)
    key = hashlib.blake2b(where.encode(), digest_size=8).digest()
    generator = np.random.default_rng([seed, int.from_bytes(key, "little")])
    parts: dict[str, list[list[int]]] = {"train": [], **{split: [] for split in fractions}}
    bounds = _even(samples, pieces)
    shares = {split: np.diff(_even(count, pieces)) for split, count in counts.items()}
    for piece in range(pieces):
        start, stop = int(bounds[piece]), int(bounds[piece + 1])
        order = [list(shares)[i] for i in generator.permutation(len(shares))]
        free = stop - start - sum(int(shares[split][piece]) for split in order)
        gaps = np.sort(generator.integers(0, free + 1, len(order)))
        place = start
        for split, before in zip(order, np.diff(gaps, prepend=0), strict=True):
            first = place + int(before)
            parts["train"].append([place, first])
            place = first + int(shares[split][piece])
            parts[split].append([first, place])
        parts["train"].append([place, stop])
    return {split: _merged(ranges) for split, ranges in parts.items()}


def _even(total: int, parts: int) -> NDArray[np.int64]:
    return np.arange(parts + 1, dtype=np.int64) * total // parts


def _merged(ranges: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Return the ranges that are not empty, neighbours as one."""
    merged: list[list[int]] = []
    for start, stop in ranges:
        if start == stop:
            continue
        if merged and merged[-1][1] == start:
            merged[-1][1] = stop
        else:
            merged.append([start, stop])
    return np.array(merged, np.int64).reshape(-1, 2)
