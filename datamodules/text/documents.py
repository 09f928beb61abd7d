"""Documents of a domain: their text, the keys that stand for them, and the split each falls in.

Memory is by the document and not by its text: 16 bytes for the key, and about 40 at the peak, while
keys are sorted to find duplicates; afterwards one.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from tandem_pl.datamodules.sources.domains import Source
from tandem_pl.errors import InputError

SPLITS = ("train", "target", "test")
TRAIN, TARGET, TEST, DROPPED = 0, 1, 2, 255
#: The code of every split; documents that are in none have the code `DROPPED`.
SPLIT_CODES = {"train": TRAIN, "target": TARGET, "test": TEST}


def read_texts(source: Source, text_column: str = "text") -> Iterator[str]:
    """Yield the documents of a source in order, without those of white space only.

    Args:
        source: reads the rows.
        text_column: column of the text, if the source does not name its own.

    Raises:
        InputError: a missing column; a row that cannot be read or whose text is not a string,
            unless the source skips those.
    """
    column = source.column or text_column
    for where, row in source.rows([column]):
        text = row[column]
        if not isinstance(text, str):
            source.refuse(
                f"{where} has a {column!r} of type {type(text).__name__}; every text must be a "
                'string: correct that row or set corrupt to "skip".'
            )
        elif text.strip():
            yield text


def digest_texts(sources: Mapping[str, Source], text_column: str) -> dict[str, str]:
    """Return domain -> what changes whenever its documents may have changed."""
    return {d: s.digest([s.column or text_column]) for d, s in sources.items()}


def document_key(text: str, seed: int) -> bytes:
    """Return 16 bytes that stand for a text: equal texts have equal keys, the seed orders them.

    Example:
        >>> document_key("a", 0) == document_key("a", 0) != document_key("a", 1)
        True
    """
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16, key=str(seed).encode()).digest()


def document_keys(texts: Iterable[str], seed: int) -> np.ndarray:
    """Return `document_key` of every text as two numbers, uint64 of shape `[documents, 2]`.

    Rows sort as the keys do.
    """
    data = b"".join(document_key(text, seed) for text in texts)
    return np.frombuffer(data, dtype=">u8").reshape(-1, 2).astype(np.uint64)


def assign_splits(
    keys: Mapping[str, np.ndarray], target_fraction: float, test_fraction: float
) -> dict[str, np.ndarray]:
    """Assign every document to one split, by its content alone.

    A domain's distinct documents are ranked by their keys; the first `test_fraction` of them are
    test, the next `target_fraction` target and the rest train, each at least one document. A text
    met before, in this domain or in an earlier one, is a duplicate and falls in no split.

    Args:
        keys: domain -> keys of its documents as read, shape `[documents, 2]`.
        target_fraction: share of a domain's documents for the target split.
        test_fraction: share for the test split.

    Returns:
        domain -> the code of each document's split, uint8 of shape `[documents]`: one of
        `SPLIT_CODES`, or `DROPPED` for a duplicate.

    Raises:
        InputError: a domain has fewer than three distinct documents.
    """
    every = np.concatenate([np.empty((0, 2), np.uint64), *keys.values()])
    order = np.lexsort((every[:, 1], every[:, 0]))  # stable: equal rows keep their order
    first = np.ones(len(every), dtype=bool)
    first[order[1:]] = np.any(every[order[1:]] != every[order[:-1]], axis=1)
    codes: dict[str, np.ndarray] = {}
    stop = 0
    for domain, domain_keys in keys.items():
        start, stop = stop, stop + len(domain_keys)
        kept = np.flatnonzero(first[start:stop])
        if len(kept) < 3:
            raise InputError(
                f"domain {domain!r} has {len(kept)} distinct documents ({len(domain_keys)} read) "
                "but needs 3, one each to train, target and test; add documents, split its file "
                "into several, or leave the domain out."
            )
        ranked = kept[np.lexsort((domain_keys[kept, 1], domain_keys[kept, 0]))]
        tests = max(1, min(round(test_fraction * len(kept)), len(kept) - 2))
        targets = max(1, min(round(target_fraction * len(kept)), len(kept) - tests - 1))
        codes[domain] = np.full(len(domain_keys), DROPPED, dtype=np.uint8)
        codes[domain][ranked] = TRAIN
        codes[domain][ranked[:tests]] = TEST
        codes[domain][ranked[tests : tests + targets]] = TARGET
    return codes


def select_documents(domain: str, texts: Iterable[str], wanted: np.ndarray) -> Iterator[str]:
    """Yield the texts whose entry of `wanted` (bool of shape `[documents]`) is true.

    Raises:
        InputError: there are more or fewer texts than entries, so the source has changed.
    """
    count = 0
    for text in texts:
        if count < len(wanted) and wanted[count]:
            yield text
        count += 1
    if count != len(wanted):
        raise InputError(
            f"domain {domain!r} had {len(wanted)} documents when it was read first and {count} "
            "afterwards; leave its files alone while they are read, and start again."
        )


def check_fractions(target_fraction: float, test_fraction: float) -> None:
    """Raise `InputError` if the splits' shares leave nothing for one of them."""
    for key, fraction in (
        ("target_fraction", target_fraction),
        ("test_fraction", test_fraction),
        ("target_fraction + test_fraction", target_fraction + test_fraction),
    ):
        if not 0 < fraction < 1:
            raise InputError(f"{key} is {fraction}; it must lie between 0 and 1, both excluded.")
