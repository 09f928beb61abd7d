"""Read the documents that are clustered: all of them in batches, or a sample by their content."""

import hashlib
import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from tandem_pl.datamodules.sources.source import Source

from .embedders import GivenEmbeddings
from .hashed import excerpt

BATCH_CHARACTERS = 1 << 20
BATCH_DOCUMENTS = 512

#: `read(source, columns)` yields `(where, row, text)` for every row of a source. The row holds what
#: a data module reads later, and the columns; a text of white space is no document.
Read = Callable[[Source, Sequence[str]], Iterator[tuple[str, dict[str, Any], str]]]


class Document(NamedTuple):
    """A document: where it was read, the number of its given domain, its row, text and vector."""

    where: str
    given: int
    row: dict[str, Any]
    text: str
    vector: np.ndarray | None  # if embeddings are given


class Sample(NamedTuple):
    """Some documents of one pool: excerpts, their keys, and embeddings if these are given.

    They are in the order of the keys, which are hashes of text and seed.
    """

    keys: list[int]
    where: list[str]
    texts: list[str]
    vectors: np.ndarray | None


def read_documents(
    sources: Mapping[str, Source], read: Read, given: GivenEmbeddings | None = None
) -> Iterator[Document]:
    """Yield the documents of all sources in order.

    Args:
        sources: given domain -> its rows.
        read: see `Read`.
        given: embeddings computed elsewhere.

    Raises:
        InputError: the embeddings have another number of rows than the data without rows that are
            skipped.
    """
    columns = [given.column] if given and given.column else []
    number = -1
    for place, source in enumerate(sources.values()):
        for where, row, text in read(source, columns):
            number += 1
            vector = given.vector(row, number, where) if given else None
            if text.strip():
                kept = {key: value for key, value in row.items() if key not in columns}
                yield Document(where, place, kept, text, vector)
    if given:
        given.check_rows(number + 1, sum(source.skipped for source in sources.values()))


def batch_documents(documents: Iterable[Document], about: str) -> Iterator[list[Document]]:
    """Yield documents in lists of bounded size, under a progress bar."""
    batch: list[Document] = []
    characters = 0
    for document in tqdm(documents, desc=about, unit=" documents", delay=1):
        batch.append(document)
        characters += len(document.text)
        if characters >= BATCH_CHARACTERS or len(batch) == BATCH_DOCUMENTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def sample_documents(
    documents: Iterable[Document], pools: int, size: int, seed: int
) -> list[Sample]:
    """Return up to `size` different documents of each pool.

    Those with the smallest hashes of text and seed are taken, in that order, so that neither the
    order of files nor their folder matters.

    Args:
        documents: all documents.
        pools: how many; with one, all given domains are in it, else each is a pool.
        size: documents of a pool, at most.
        seed: decides which documents are taken.
    """
    heaps: list[list[tuple[int, str, str, np.ndarray | None]]] = [[] for _ in range(pools)]
    taken: list[set[int]] = [set() for _ in range(pools)]
    for document in tqdm(documents, desc="sampling documents", unit=" documents", delay=1):
        place = document.given if pools > 1 else 0
        heap, keys = heaps[place], taken[place]
        key = -hash_text(document.text, seed)  # the heap gives up the largest hash first
        if key in keys or (len(heap) == size and key < heap[0][0]):
            continue
        keys.add(key)
        item = (key, document.where, excerpt(document.text), document.vector)
        if len(heap) < size:
            heapq.heappush(heap, item)
        else:
            keys.discard(heapq.heappushpop(heap, item)[0])
    return [_sample(sorted(heap, key=lambda item: -item[0])) for heap in heaps]


def _sample(items: Sequence[tuple[int, str, str, np.ndarray | None]]) -> Sample:
    vectors = [vector for *_, vector in items if vector is not None]
    return Sample(
        [-key for key, *_ in items],
        [where for _, where, *_ in items],
        [text for _, _, text, _ in items],
        np.stack(vectors) if vectors else None,
    )


def hash_text(text: str, seed: int = 0) -> int:
    """Return 64 bits that stand for a text."""
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8, key=f"clusters {seed}".encode())
    return int.from_bytes(digest.digest(), "big")
