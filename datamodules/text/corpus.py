"""A corpus while it is prepared: its documents, their splits, and near-duplicates across these."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

from tandem_pl.datamodules.sources.domains import Source
from tandem_pl.errors import InputError

from .documents import DROPPED, SPLIT_CODES, TARGET, TEST, TRAIN, read_texts, select_documents
from .near_duplicates import HeldOutIndex, sample_windows
from .packing import SPLITS, batches
from .workers import Workers


class Corpus:
    """The documents of all domains, and which split each falls in.

    Args:
        sources: domain -> where its documents lie.
        text_column: column of the text.

    Attributes:
        codes: domain -> uint8 of shape `[documents]`, see `documents.SPLIT_CODES`.
    """

    def __init__(self, sources: Mapping[str, Source], text_column: str) -> None:
        self.sources = sources
        self.text_column = text_column
        self.codes: dict[str, np.ndarray] = {}

    def texts(self, domain: str, wanted: np.ndarray | None = None) -> Iterator[str]:
        """A fresh pass over a domain's documents, or those for which `wanted` is true."""
        texts = read_texts(self.sources[domain], self.text_column)
        return texts if wanted is None else select_documents(domain, texts, wanted)

    def map(
        self,
        workers: Workers,
        function: Callable[[list[str]], Any],
        domain: str,
        wanted: np.ndarray | None,
        about: str,
    ) -> Iterator[Any]:
        """Results of `function` on batches of the wanted documents, with a progress bar."""
        total = None if wanted is None else int(wanted.sum())
        with tqdm(desc=f"{about} {domain}", total=total, unit=" documents", delay=1) as bar:
            texts = batches(self.texts(domain, wanted))

            def counted() -> Iterator[list[str]]:
                for batch in texts:
                    yield batch
                    bar.update(len(batch))

            yield from workers.map(function, counted())


def drop_near_duplicates(
    corpus: Corpus, workers: Workers, threshold: float, shift: int
) -> dict[str, dict[str, int]]:
    """Drop the documents that resemble those of another split; see `near_duplicates`.

    Test documents are kept before target documents, and both before training documents; then
    held-out documents go that the documents kept mostly cover. Changes `corpus.codes`.

    Returns:
        How many were dropped, by domain and split.

    Raises:
        InputError: nothing is left of a domain's split.
    """
    look = partial(sample_windows, shift=shift)
    hashes, counts = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for domain, codes in corpus.codes.items():
        held_out = (codes == TARGET) | (codes == TEST)
        for found, numbers in corpus.map(workers, look, domain, held_out, "held-out text of"):
            hashes.append(found)
            counts.append(numbers)
    places = {d: np.flatnonzero((c == TARGET) | (c == TEST)) for d, c in corpus.codes.items()}
    is_test = np.concatenate([corpus.codes[d][rows] == TEST for d, rows in places.items()])
    index = HeldOutIndex(np.concatenate(hashes), np.concatenate(counts), is_test, threshold)
    dropped = {domain: dict.fromkeys(SPLITS, 0) for domain in corpus.codes}
    for domain, codes in corpus.codes.items():
        train = np.flatnonzero(codes == TRAIN)
        judged = [np.empty(0, dtype=bool)]
        for found, numbers in corpus.map(workers, look, domain, codes == TRAIN, "comparing"):
            judged.append(index.judge(found, numbers))
        goes = train[np.concatenate(judged)]
        codes[goes] = DROPPED
        dropped[domain]["train"] = len(goes)
    goes_too = np.split(index.finish(), np.cumsum([len(rows) for rows in places.values()])[:-1])
    for (domain, rows), goes in zip(places.items(), goes_too, strict=True):
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
