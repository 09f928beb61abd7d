"""Find documents of one split that stand, nearly or in part, in another: overlap of windows.

A document's windows are its runs of `WINDOW` bytes, in lower case and with all white space made one
space. Where half of a training document's windows occur in held-out documents, it would teach the
test by heart, and it is dropped.

Windows are compared exactly, by 64-bit hashes, rather than through MinHash signatures: containment
is seen as well as likeness (a test document within a long training document), nothing is missed for
want of a matching band, the result does not depend on chance, and NumPy suffices. In a large corpus
only the windows whose hash falls in 1 of 2^k are looked at, the same ones wherever they stand, so
that memory and time stay bounded; a document with fewer than `MIN_WINDOWS` of those counts as a
duplicate only where it is an exact one.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

WINDOW = 50  # bytes
MIN_WINDOWS = 4  # looked at in a document, to judge it
MAX_INDEX = 1 << 21  # windows of held-out documents looked at, about
MAX_LOOKUPS = 1 << 26  # windows of all documents looked at, about
CHUNK = 1 << 15  # windows hashed at once: what fits a core's cache
MULTIPLIER = 0x9E3779B97F4A7C15
INVERSE = pow(MULTIPLIER, -1, 1 << 64)


def normalize(text: str) -> bytes:
    r"""What windows are made of: lower case, white space as single spaces.

    Example:
        >>> normalize("Some\n\t Text ")
        b'some text'
    """
    return " ".join(text.lower().split()).encode("utf-8")


def choose_shift(characters: int, held_out_share: float) -> int:
    """The k for which 1 of 2^k windows is looked at.

    Args:
        characters: length of the whole corpus.
        held_out_share: share of it in the target and test splits.

    Example:
        >>> choose_shift(10**6, 0.1), choose_shift(2 * 10**9, 0.1)
        (0, 7)
    """
    most = max(characters * held_out_share / MAX_INDEX, characters / MAX_LOOKUPS)
    return int(np.ceil(np.log2(max(most, 1.0))))


def window_hashes(data: np.ndarray) -> np.ndarray:
    """Hash of every window of `data` (uint8, shape `[n]`): uint64 of shape `[n - WINDOW + 1]`.

    The hash of bytes b is the sum of T[b_j] M^j modulo 2^64, for an odd M and a table T of random
    numbers. Differences of running sums give it for all windows at once.
    """
    values = _table()[data]
    powers, inverses = _powers()
    hashes = np.empty(max(len(data) - WINDOW + 1, 0), dtype=np.uint64)
    for start in range(0, len(hashes), CHUNK):
        part = values[start : start + CHUNK + WINDOW - 1]
        sums = np.zeros(len(part) + 1, dtype=np.uint64)
        np.cumsum(part * powers[: len(part)], out=sums[1:])
        count = len(part) - WINDOW + 1
        np.multiply(
            sums[WINDOW:] - sums[:-WINDOW], inverses[:count], out=hashes[start : start + count]
        )
    return hashes


def sample_windows(texts: Sequence[str], shift: int) -> tuple[np.ndarray, np.ndarray]:
    """The windows looked at in each text.

    Returns:
        Their hashes, uint64 of shape `[windows]`, text by text, and how many are each text's, int64
        of shape `[texts]`.
    """
    parts = [normalize(text) for text in texts]
    ends = np.cumsum([len(part) for part in parts])
    hashes = window_hashes(np.frombuffer(b"".join(parts), dtype=np.uint8))
    # The highest bits of the hash depend on all bytes of the window.
    chosen = np.arange(len(hashes))
    if shift:
        chosen = np.flatnonzero(hashes < np.uint64(1 << (64 - shift)))
    # Those of a text begin in it and end in it; the others lie across two texts.
    starts = np.searchsorted(chosen, np.concatenate([[0], ends[:-1]]))
    counts = np.searchsorted(chosen, ends - WINDOW, side="right") - starts
    counts = np.maximum(counts, 0)
    inside = np.repeat(starts - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
    return hashes[chosen[inside]], counts


class HeldOutIndex:
    """The windows of the target and test documents, and which of them other documents cover.

    Args:
        hashes: the windows of all held-out documents, as `sample_windows` gives them.
        counts: how many are each document's.
        is_test: whether each document is of the test split; the others are of the target split.
        threshold: share of its windows from which a document counts as a near-duplicate.

    Attributes:
        dropped: which of the held-out documents go, bool of shape `[documents]`; target documents
            that resemble test documents from the start, the others after `finish`.
    """

    def __init__(
        self, hashes: np.ndarray, counts: np.ndarray, is_test: np.ndarray, threshold: float
    ) -> None:
        self.threshold = threshold
        self._counts = counts
        self._is_test = is_test
        self._windows = np.unique(hashes)
        self._places = np.searchsorted(self._windows, hashes).astype(np.int32)
        owners = np.repeat(np.arange(len(counts)), counts)
        in_test = np.zeros(len(self._windows), dtype=bool)
        in_test[self._places[is_test[owners]]] = True
        self.dropped = ~is_test & self._mostly(in_test[self._places], counts)
        kept_target = ~is_test & ~self.dropped
        self._by_target = np.zeros(len(self._windows), dtype=bool)
        self._by_target[self._places[kept_target[owners]]] = True
        self._held_out = in_test | self._by_target
        self._by_train = np.zeros(len(self._windows), dtype=bool)

    def judge(self, hashes: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Which training documents resemble held-out ones, bool of shape `[documents]`.

        The windows of those that do not are marked as covered.
        """
        if not len(self._windows):
            return np.zeros(len(counts), dtype=bool)
        places = np.searchsorted(self._windows, hashes)
        places[places == len(self._windows)] = 0
        found = (self._windows[places] == hashes) & self._held_out[places]
        resembles = self._mostly(found, counts)
        self._by_train[places[found & np.repeat(~resembles, counts)]] = True
        return resembles

    def finish(self) -> np.ndarray:
        """`dropped`, with the held-out documents that the kept documents together mostly cover.

        Target documents are held against training documents, test documents against both.
        """
        by_train = self._mostly(self._by_train[self._places], self._counts)
        by_any = self._mostly((self._by_train | self._by_target)[self._places], self._counts)
        self.dropped = self.dropped | np.where(self._is_test, by_any, by_train)
        return self.dropped

    def _mostly(self, hits: np.ndarray, counts: np.ndarray) -> np.ndarray:
        owners = np.repeat(np.arange(len(counts)), counts)
        shares = np.bincount(owners, weights=hits, minlength=len(counts)) / np.maximum(counts, 1)
        return (shares >= self.threshold) & (counts >= MIN_WINDOWS)


@lru_cache(maxsize=1)
def _table() -> np.ndarray:
    data = b"".join(hashlib.blake2b(bytes([byte]), digest_size=8).digest() for byte in range(256))
    return np.frombuffer(data, dtype="<u8").astype(np.uint64)


@lru_cache(maxsize=1)
def _powers() -> tuple[np.ndarray, np.ndarray]:
    size = CHUNK + WINDOW
    factors = np.ones((2, size), dtype=np.uint64)
    factors[0, 1:], factors[1, 1:] = MULTIPLIER, INVERSE
    powers, inverses = np.cumprod(factors, axis=1)
    return powers, inverses
