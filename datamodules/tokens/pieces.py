"""`Pieces`: integers in several files as one sequence; a part is copied when it is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


class Buffer(NamedTuple):
    """Bytes of integers of one type: a memory-mapped file, or a part of one."""

    data: NDArray[np.uint8]
    dtype: np.dtype


class Pieces:
    """A sequence of integers, piece by piece.

    Args:
        buffers: where they lie.
        owners: [P] the buffer of each piece.
        starts: [P] the byte at which it starts there.
        lengths: [P] its integers.

    Example:
        >>> data = np.arange(5, dtype="<u2")
        >>> pieces = Pieces.rows(Buffer(data.view(np.uint8), data.dtype), [4, 0], [3, 1])
        >>> len(pieces), pieces.read(0, 4).tolist(), pieces.row(1).tolist()
        (4, [2, 3, 4, 0], [0])
    """

    def __init__(
        self, buffers: Sequence[Buffer], owners: Integers, starts: Integers, lengths: Integers
    ) -> None:
        self.buffers = list(buffers)
        self.owners, self.starts, self.lengths = owners, starts, lengths
        self.ends = np.cumsum(lengths, dtype=np.int64)

    @classmethod
    def rows(cls, buffer: Buffer, starts: object, lengths: object) -> Pieces:
        """Return the rows of one buffer, which start at these bytes."""
        lengths = np.asarray(lengths, np.int64)
        owners = np.zeros(len(lengths), np.int64)
        return cls([buffer], owners, np.asarray(starts, np.int64), lengths)

    @classmethod
    def whole(cls, buffer: Buffer) -> Pieces:
        """Return all of a buffer as one piece."""
        return cls.rows(buffer, [0], [len(buffer.data) // buffer.dtype.itemsize])

    @classmethod
    def chain(cls, parts: Sequence[Pieces]) -> Pieces:
        """Return the pieces of all parts, one after the other."""
        counts = np.cumsum([0] + [len(part.buffers) for part in parts])
        owners = [part.owners + first for part, first in zip(parts, counts[:-1], strict=True)]
        return cls(
            [buffer for part in parts for buffer in part.buffers],
            np.concatenate(owners),
            np.concatenate([part.starts for part in parts]),
            np.concatenate([part.lengths for part in parts]),
        )

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def row(self, number: int) -> NDArray[np.integer]:
        """Return one piece, a view of its buffer."""
        buffer = self.buffers[self.owners[number]]
        return np.frombuffer(
            buffer.data, buffer.dtype, int(self.lengths[number]), int(self.starts[number])
        )

    def read(self, start: int, stop: int) -> Integers:
        """Return the integers `start .. stop - 1` of the sequence."""
        found = np.empty(stop - start, np.int64)
        place, number = start, int(np.searchsorted(self.ends, start, side="right"))
        while place < stop:
            skipped = place - int(self.ends[number] - self.lengths[number])
            part = self.row(number)[skipped : skipped + stop - place]
            found[place - start : place - start + len(part)] = part
            place += len(part)
            number += 1
        return found

    def joined(self) -> Pieces:
        """Return the same sequence in as few pieces as it can be."""
        sizes = np.array([buffer.dtype.itemsize for buffer in self.buffers], np.int64)
        stops = self.starts + self.lengths * sizes[self.owners]
        first = np.ones(len(self.owners), bool)
        first[1:] = (self.starts[1:] != stops[:-1]) | (self.owners[1:] != self.owners[:-1])
        heads = np.flatnonzero(first)
        lengths = np.add.reduceat(self.lengths, heads) if len(heads) else self.lengths
        return Pieces(self.buffers, self.owners[heads], self.starts[heads], lengths)

    def select(self, kept: NDArray[np.bool_]) -> Pieces:
        """Return some of the pieces."""
        return Pieces(self.buffers, self.owners[kept], self.starts[kept], self.lengths[kept])

    def cut(self, skipped: Integers, lengths: Integers) -> Pieces:
        """Return of each piece `lengths` integers after `skipped` ones."""
        sizes = np.array([buffer.dtype.itemsize for buffer in self.buffers], np.int64)
        return Pieces(
            self.buffers, self.owners, self.starts + skipped * sizes[self.owners], lengths
        )

    def groups(self, most: int = 1 << 22) -> Iterator[slice]:
        """Yield ranges of pieces that hold about `most` integers."""
        start = 0
        while start < len(self.lengths):
            before = int(self.ends[start] - self.lengths[start])
            stop = max(int(np.searchsorted(self.ends, before + most)), start + 1)
            yield slice(start, stop)
            start = stop

    def largest(self) -> int:
        """Return the largest integer; every piece is read once, without a copy."""
        pieces = self.joined()
        return max(
            (int(pieces.row(n).max()) for n in range(len(pieces.lengths)) if pieces.lengths[n]),
            default=-1,
        )
