"""A corpus while it is prepared: its documents, and the split of each."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from tandem_pl.datamodules.sources.domains import Source
from tandem_pl.errors import InputError

from .block_folder import Documents, batches
from .documents import DROPPED, assign_splits, document_keys, read_texts, select_documents
from .threads import map_in_threads

BPE_CHARACTERS = 50_000_000  # text that a tokenizer is trained on, at most


class Corpus:
    """The documents of all domains; the text is read again in every pass.

    Args:
        sources: domain -> its rows.
        text_column: column of the text.
        threads: how many work on a pass.

    Attributes:
        codes: domain -> uint8 of shape `[documents]`, see `documents.SPLIT_CODES`.
        characters: domain -> length of its text.
        for_bpe: domain -> the documents that a tokenizer may be trained on, bool of shape
            `[documents]`: about the same amount of text from each domain.
    """

    def __init__(self, sources: Mapping[str, Source], text_column: str, threads: int) -> None:
        self.sources = sources
        self.text_column = text_column
        self.threads = threads
        self.codes: dict[str, np.ndarray] = {}
        self.characters: dict[str, int] = {}
        self.for_bpe: dict[str, np.ndarray] = {}

    def assign_splits(self, target_fraction: float, test_fraction: float, seed: int) -> None:
        """Read every document once and decide its split, see `documents.assign_splits`."""
        keys: dict[str, np.ndarray] = {}
        measure = partial(_keys_and_characters, seed=seed)
        for domain, source in self.sources.items():
            parts = [np.empty((0, 2), np.uint64)]
            self.characters[domain] = 0
            for found, characters in self.map(measure, domain, None, "reading"):
                parts.append(found)
                self.characters[domain] += characters
            keys[domain] = np.concatenate(parts)
            if not len(keys[domain]):
                skipped = f" ({source.skipped} skipped: {source.first_skipped})"
                raise InputError(
                    f"domain {domain!r} has no documents{skipped if source.skipped else ''}; give "
                    "it some text or leave it out."
                )
        self.codes = assign_splits(keys, target_fraction, test_fraction)
        quota = BPE_CHARACTERS / len(keys)
        self.for_bpe = {
            # The second half of a key is as good as a random number.
            domain: keys[domain][:, 1] < 2.0**64 * min(1.0, quota / self.characters[domain])
            for domain in keys
        }

    def duplicates(self) -> dict[str, int]:
        """Return the number of dropped documents of each domain."""
        return {domain: int((codes == DROPPED).sum()) for domain, codes in self.codes.items()}

    def texts(self, domain: str, wanted: np.ndarray | None = None) -> Iterator[str]:
        """Yield a domain's documents, or those for which `wanted` is true."""
        texts = read_texts(self.sources[domain], self.text_column)
        return texts if wanted is None else select_documents(domain, texts, wanted)

    def documents(self) -> Documents:
        """Return the documents that were not dropped, to be written."""
        return {
            domain: (self.texts(domain, codes != DROPPED), codes[codes != DROPPED])
            for domain, codes in self.codes.items()
        }

    def map(
        self,
        function: Callable[[list[str]], Any],
        domain: str,
        wanted: np.ndarray | None,
        about: str,
    ) -> Iterator[Any]:
        """Yield the results of `function` on batches of the wanted documents, in order."""
        total = None if wanted is None else int(wanted.sum())
        texts = batches(self.texts(domain, wanted), f"{about} {domain}", total)
        return map_in_threads(function, texts, self.threads)


def _keys_and_characters(texts: list[str], seed: int) -> tuple[np.ndarray, int]:
    return document_keys(texts, seed), sum(map(len, texts))
