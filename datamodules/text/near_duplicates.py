"""Drop documents of one split that are nearly or in part in another: they leak the test set.

A document's windows are its runs of `WINDOW` bytes, in lower case and with all white space made one
space. A training document is dropped if half of its windows occur in held-out documents.

Windows are compared exactly, by 64-bit hashes, and not by MinHash: a test document within a long
training document is found as well, and nothing is missed by chance. In a large corpus only the
windows whose hash falls in 1 of 2^k are looked at, the same ones in every document, to bound memory
and time; a document with fewer than `MIN_WINDOWS` of those is only dropped if it is an exact copy.
"""

import hashlib
from collections.abc import Sequence
from functools import partial

import numpy as np

from .corpus import Corpus
from .documents import DROPPED, SPLIT_CODES, TARGET, TEST, TRAIN, TooLittleTextError

WINDOW = 50  # bytes
MIN_WINDOWS = 4  # looked at in a document, to judge it
MAX_INDEX = 1 << 21  # windows of held-out documents looked at, about
MAX_LOOKUPS = 1 << 26  # windows of all documents looked at, about
MULTIPLIER = 0x9E3779B97F4A7C15
TABLE = np.frombuffer(  # a random number for each byte
    b"".join(hashlib.blake2b(bytes([byte]), digest_size=8).digest() for byte in range(256)), "<u8"
).astype(np.uint64)


def drop_near_duplicates(corpus: Corpus, threshold: float) -> dict[str, dict[str, int]]:
    """Drop the documents that resemble those of another split, in `corpus.codes`.

    Test documents are kept before target documents, and both before training documents; then the
    held-out documents are dropped that the kept documents mostly cover.

    Args:
        corpus: the documents, with their splits.
        threshold: share of its windows from which a document is a near-duplicate.

    Returns:
        How many were dropped, by domain and split.

    Raises:
        InputError: nothing is left of a domain's split.
    """
    shift = choose_shift(sum(corpus.characters.values()), corpus.held_out_share)
    sample = partial(sample_windows, shift=shift)
    held_out = {d: (codes == TARGET) | (codes == TEST) for d, codes in corpus.codes.items()}
    found = [(np.empty(0, np.uint64), np.empty(0, np.int64))]
    for domain, rows in held_out.items():
        found += corpus.map(sample, domain, rows, "held-out text of")
    hashes, counts = (np.concatenate(parts) for parts in zip(*found, strict=True))
    is_test = np.concatenate([corpus.codes[d][rows] == TEST for d, rows in held_out.items()])
    index = HeldOutIndex(hashes, counts, is_test, threshold)
    before = {domain: codes.copy() for domain, codes in corpus.codes.items()}
    for domain, codes in corpus.codes.items():
        train = codes == TRAIN
        judged = [index.judge(*part) for part in corpus.map(sample, domain, train, "comparing")]
        codes[train] = np.where(np.concatenate([np.empty(0, bool), *judged]), DROPPED, TRAIN)
    gone = index.finish()
    dropped: dict[str, dict[str, int]] = {}
    for domain, codes in corpus.codes.items():
        rows = np.flatnonzero(held_out[domain])
        codes[rows[gone[: len(rows)]]] = DROPPED
        gone = gone[len(rows) :]
        lost = before[domain][codes != before[domain]]
        dropped[domain] = {split: int((lost == code).sum()) for split, code in SPLIT_CODES.items()}
    emptied = [
        (domain, split)
        for domain, codes in corpus.codes.items()
        for split, code in SPLIT_CODES.items()
        if (before[domain] == code).any() and not (codes == code).any()
    ]
    if emptied:
        domain, split = emptied[0]
        raise TooLittleTextError(
            f"domain {domain!r} has no document left in its {split} split: "
            f"near_duplicate={threshold} dropped {dropped[domain][split]} that resemble "
            "other splits; raise it, set it to null, or give other documents.",
            list(dict.fromkeys(domain for domain, _ in emptied if TRAIN in before[domain])),
        )
    return dropped


def choose_shift(characters: int, held_out_share: float) -> int:
    """Return the k for which 1 of 2^k windows is looked at, by the length of the corpus.

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
    """Return the hashes of the windows that are looked at, and how many each text has.

    Shapes are uint64 `[windows]`, text by text, and int64 `[texts]`.
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
        self._dropped = ~is_test & self._mostly(in_test[self._places], counts)
        kept_target = ~is_test & ~self._dropped
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
        """Return which held-out documents are dropped, bool of shape `[documents]`.

        These are the target documents that resemble test documents, and those that the kept
        documents mostly cover: training documents, and for test documents target documents too.
        """
        by_train = self._mostly(self._by_train[self._places], self._counts)
        by_any = self._mostly((self._by_train | self._by_target)[self._places], self._counts)
        return self._dropped | np.where(self._is_test, by_any, by_train)

    def _mostly(self, hits: np.ndarray, counts: np.ndarray) -> np.ndarray:
        owners = np.repeat(np.arange(len(counts)), counts)
        shares = np.bincount(owners, weights=hits, minlength=len(counts)) / np.maximum(counts, 1)
        return (shares >= self.threshold) & (counts >= MIN_WINDOWS)
