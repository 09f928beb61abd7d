"""A corpus while it is prepared: its documents, and the split of each."""

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from tandem_pl.datamodules.sources.domains import Source
from tandem_pl.errors import InputError

from .block_folder import Documents, batches
from .documents import (
    DROPPED,
    Part,
    assign_splits,
    document_keys,
    domains_of,
    read_texts,
    select_documents,
)
from .threads import map_in_threads

BPE_CHARACTERS = 50_000_000  # text that a tokenizer is trained on, at most


class Corpus:
    """The documents of all domains; the text is read again in every pass.

    A domain's documents are those of its target data, if it has some, and then its own.

    Args:
        sources: part -> its rows, see `parts_of`.
        text_column: column of the text.
        threads: how many work on a pass.

    Attributes:
        parts: domain -> its parts, target data first.
        codes: domain -> uint8 of shape `[documents]`, see `documents.SPLIT_CODES`.
        characters: domain -> length of its text.
        for_bpe: domain that is trained on -> the documents that a tokenizer may be trained on, bool
            of shape `[documents]`: about the same amount of text from each domain.
        held_out_share: share of the text in the target and test splits, about.
    """

    def __init__(self, sources: Mapping[Part, Source], text_column: str, threads: int) -> None:
        self.sources = sources
        self.text_column = text_column
        self.threads = threads
        self.parts: dict[str, list[Part]] = {domain: [] for domain in domains_of(sources)}
        for part in sources:
            self.parts[part.domain].append(part)
        self.codes: dict[str, np.ndarray] = {}
        self.characters: dict[str, int] = {}
        self.for_bpe: dict[str, np.ndarray] = {}
        self.held_out_share = 0.0

    def assign_splits(
        self,
        target_fraction: float,
        test_fraction: float,
        seed: int,
        train_only: Collection[str] | None = None,
    ) -> None:
        """Read every document once and decide its split, see `documents.assign_splits`."""
        keys: dict[Part, np.ndarray] = {}
        lengths: dict[Part, int] = {}
        measure = partial(_keys_and_characters, seed=seed)
        for part, source in self.sources.items():
            chunks = [np.empty((0, 2), np.uint64)]
            lengths[part] = 0
            texts = batches(read_texts(source, self.text_column), f"reading {part.domain}")
            for found, characters in map_in_threads(measure, texts, self.threads):
                chunks.append(found)
                lengths[part] += characters
            keys[part] = np.concatenate(chunks)
            if not len(keys[part]):
                skipped = f" ({source.skipped} skipped: {source.first_skipped})"
                raise InputError(
                    f"domain {part.domain!r} has no documents{skipped if source.skipped else ''}; "
                    "give it some text or leave it out."
                )
        codes = assign_splits(keys, target_fraction, test_fraction, train_only)
        self.codes = {d: np.concatenate([codes[p] for p in row]) for d, row in self.parts.items()}
        self.characters = {d: sum(lengths[p] for p in row) for d, row in self.parts.items()}
        target = sum(length for part, length in lengths.items() if part.is_target)
        share = target / sum(lengths.values())
        self.held_out_share = (
            share + (1 - share) * test_fraction if target else target_fraction + test_fraction
        )
        trained_on = [part.domain for part in keys if not part.is_target]
        quota = BPE_CHARACTERS / len(trained_on)
        for domain in trained_on:
            order = np.concatenate([keys[part][:, 1] for part in self.parts[domain]])
            # The second half of a key is as good as a random number.
            share = min(1.0, quota / self.characters[domain])
            self.for_bpe[domain] = order < 2.0**64 * share

    def duplicates(self) -> dict[str, int]:
        """Return the number of dropped documents of each domain."""
        return {domain: int((codes == DROPPED).sum()) for domain, codes in self.codes.items()}

    def texts(self, domain: str, wanted: np.ndarray | None = None) -> Iterator[str]:
        """Yield a domain's documents, or those for which `wanted` is true."""
        sources = (self.sources[part] for part in self.parts[domain])
        texts = chain.from_iterable(read_texts(source, self.text_column) for source in sources)
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
        wanted: np.ndarray,
        about: str,
    ) -> Iterator[Any]:
        """Yield the results of `function` on batches of the wanted documents, in order."""
        texts = batches(self.texts(domain, wanted), f"{about} {domain}", int(wanted.sum()))
        return map_in_threads(function, texts, self.threads)


def _keys_and_characters(texts: list[str], seed: int) -> tuple[np.ndarray, int]:
    return document_keys(texts, seed), sum(map(len, texts))


def count_skipped(sources: Mapping[Part, Source]) -> tuple[dict[str, int], dict[str, str]]:
    """Return the rows left out of each domain in the last pass, and the first one's message."""
    counts = dict.fromkeys(domains_of(sources), 0)
    first: dict[str, str] = {}
    for part, source in sources.items():
        counts[part.domain] += source.skipped
        if source.first_skipped:
            first.setdefault(part.domain, source.first_skipped)
    return counts, first
