"""Drop documents of one split that are nearly or in part in another: they leak the test set.

A document's windows are its runs of `WINDOW` bytes, in lower case and with all white space made one
space. A training document is dropped if half of its windows occur in held-out documents.

Windows are compared exactly, by 64-bit hashes, and not through MinHash signatures: a test document
within a long training document is found as well, nothing is missed by chance, and NumPy suffices.
In a large corpus only the windows whose hash falls in 1 of 2^k are looked at, the same ones in
every document, so that memory and time stay bounded; a document with fewer than `MIN_WINDOWS` of
those counts as a duplicate only if it is an exact one.
"""

import hashlib
from collections.abc import Sequence
from functools import partial

import numpy as np

from tandem_pl.errors import InputError

from .corpus import Corpus
from .documents import DROPPED, SPLIT_CODES, SPLITS, TARGET, TEST, TRAIN

WINDOW = 50  # bytes
MIN_WINDOWS = 4  # looked at in a document, to judge it
MAX_INDEX = 1 << 21  # windows of held-out documents looked at, about
MAX_LOOKUPS = 1 << 26  # windows of all documents looked at, about
MULTIPLIER = 0x9E3779B97F4A7C15
TABLE = np.frombuffer(  # a random number for each byte
    b"".join(hashlib.blake2b(bytes([byte]), digest_size=8).digest() for byte in range(256)), "<u8"
).astype(np.uint64)


def drop_near_duplicates(
    corpus: Corpus, threshold: float, held_out_share: float
) -> dict[str, dict[str, int]]:
    """Drop the documents that resemble those of another split; changes `corpus.codes`.

    Test documents are kept before target documents, and both before training documents; then the
    held-out documents are dropped that the kept documents mostly cover.

    Args:
        corpus: the documents, with their splits.
        threshold: share of its windows from which a document counts as a near-duplicate.
        held_out_share: share of the corpus in the target and test splits, about.

    Returns:
        How many were dropped, by domain and split.

    Raises:
        InputError: nothing is left of a domain's split.
    """
    shift = choose_shift(sum(corpus.characters.values()), held_out_share)
    sample = partial(sample_windows, shift=shift)
    places = {d: np.flatnonzero((c == TARGET) | (c == TEST)) for d, c in corpus.codes.items()}
    hashes, counts = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for domain, codes in corpus.codes.items():
        held_out = (codes == TARGET) | (codes == TEST)
        for found, numbers in corpus.map(sample, domain, held_out, "held-out text of"):
            hashes.append(found)
            counts.append(numbers)
    is_test = np.concatenate([corpus.codes[d][rows] == TEST for d, rows in places.items()])
    index = HeldOutIndex(np.concatenate(hashes), np.concatenate(counts), is_test, threshold)
    dropped = {domain: dict.fromkeys(SPLITS, 0) for domain in corpus.codes}
    for domain, codes in corpus.codes.items():
        judged = [np.empty(0, dtype=bool)]
        for found, numbers in corpus.map(sample, domain, codes == TRAIN, "comparing"):
            judged.append(index.judge(found, numbers))
        gone = np.flatnonzero(codes == TRAIN)[np.concatenate(judged)]
        codes[gone] = DROPPED
        dropped[domain]["train"] = len(gone)
    held_out_dropped = np.split(index.finish(), np.cumsum([len(r) for r in places.values()])[:-1])
    for (domain, rows), goes in zip(places.items(), held_out_dropped, strict=True):
        codes = corpus.codes[domain]
        for split in ("target", "test"):
            dropped[domain][split] = int((codes[rows[goes]] == SPLIT_CODES[split]).sum())
        codes[rows[goes]] = DROPPED
        for split, code in SPLIT_CODES.items():
            if not (codes == code).any():
                raise InputError(
                    f"domain {domain!r} has no document left in its {split} split: "
                    f"near_duplicate={threshold} dropped {dropped[domain][split]} that resemble "
                    "other splits; raise it, set it to null, or give other documents."
                )
    return dropped


def choose_shift(characters: int, held_out_share: float) -> int:
    """Return the k for which 1 of 2^k windows is looked at.

    Args:
        characters: length of the whole corpus.
        held_out_share: share of it in the target and test splits.

    Example:
        >>> choose_shift(10**6, 0.1), choose_shift(2 * 10**9, 0.1)
        (0, 7)
    """
    most = max(characters * held_out_share / MAX_INDEX, characters / MAX_LOOKUPS)
    return int(np.ceil(np.log2(max(most, 1.0))))


def normalize(text: str) -> bytes:
    r"""Return what windows are made of: lower case, white space as single spaces.

    Example:
        >>> normalize("Some\n\t Text ")
        b'some text'
    """
    return " ".join(text.lower().split()).encode("utf-8")


def window_hashes(data: np.ndarray) -> np.ndarray:
    """Hash every window of `data` (uint8, shape `[n]`): uint64 of shape `[n - WINDOW + 1]`.

    The hash of bytes b is the sum of TABLE[b_j] MULTIPLIER^j modulo 2^64. The hashes of 1, 2, 4, …
    bytes follow from each other, and those that add up to `WINDOW` bytes are put together.
    """
    part, size = TABLE[data], 1  # hashes of `size` bytes
    hashes, done = np.zeros(len(data) + 1, np.uint64), 0  # hashes of `done` bytes
    while True:
        if WINDOW & size:
            power = np.uint64(pow(MULTIPLIER, done, 1 << 64))
            hashes = hashes[: max(len(part) - done, 0)] + part[done:] * power
            done += size
        if done == WINDOW:
            return hashes
        power = np.uint64(pow(MULTIPLIER, size, 1 << 64))
        part = part[:-size] + part[size:] * power
        size *= 2


def sample_windows(texts: Sequence[str], shift: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the windows of each text that are looked at.

    Returns:
        Their hashes, uint64 of shape `[windows]`, text by text, and the number of each text's
        windows, int64 of shape `[texts]`.
    """
    parts = [normalize(text) for text in texts]
    ends = np.cumsum([len(part) for part in parts])
    hashes = window_hashes(np.frombuffer(b"".join(parts), dtype=np.uint8))
    # The highest bits of the hash depend on all bytes of the window.
    chosen = np.arange(len(hashes))
    if shift:
        chosen = np.flatnonzero(hashes < np.uint64(1 << (64 - shift)))
    # A text's windows begin and end in it; windows across two texts are left out.
    starts = np.searchsorted(chosen, np.concatenate([[0], ends[:-1]]))
    counts = np.maximum(np.searchsorted(chosen, ends - WINDOW, side="right") - starts, 0)
    inside = np.repeat(starts - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
    return hashes[chosen[inside]], counts


class HeldOutIndex:
    """The windows of the target and test documents, and which of them other documents cover.

    Args:
        hashes: the windows of all held-out documents, as `sample_windows` gives them.
        counts: the number of each document's windows.
        is_test: whether each document is of the test split; the others are of the target split.
        threshold: share of its windows from which a document counts as a near-duplicate.

    Attributes:
        dropped: which of the held-out documents are dropped, bool of shape `[documents]`; target
            documents that resemble test documents from the start, the others after `finish`.
    """

    def __init__(
        self, hashes: np.ndarray, counts: np.ndarray, is_test: np.ndarray, threshold: float
    ) -> None:
        self.threshold = threshold
        self._counts, self._is_test = counts, is_test
        self._windows, places = np.unique(hashes, return_inverse=True)
        self._places = places.astype(np.int32)
        owners = np.repeat(np.arange(len(counts)), counts)
        in_test, self._by_target, self._by_train = np.zeros((3, len(self._windows)), dtype=bool)
        in_test[self._places[is_test[owners]]] = True
        self.dropped = ~is_test & self._mostly(in_test[self._places], counts)
        kept_target = ~is_test & ~self.dropped
        self._by_target[self._places[kept_target[owners]]] = True
        self._held_out = in_test | self._by_target

    def judge(self, hashes: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Return which training documents resemble held-out ones, bool of shape `[documents]`.

        The windows of those that do not are marked as covered.
        """
        if not len(self._windows):
            return np.zeros(len(counts), dtype=bool)
        order = np.argsort(hashes)  # sorted look-ups are five times faster
        places = np.empty(len(hashes), dtype=np.int64)
        places[order] = np.searchsorted(self._windows, hashes[order])
        places[places == len(self._windows)] = 0
        found = (self._windows[places] == hashes) & self._held_out[places]
        resembles = self._mostly(found, counts)
        self._by_train[places[found & np.repeat(~resembles, counts)]] = True
        return resembles

    def finish(self) -> np.ndarray:
        """Return `dropped`, with the held-out documents that the kept documents mostly cover.

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
