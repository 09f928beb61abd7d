"""Documents of a domain: their text, the keys that stand for them, and the split each falls in.

Memory is by the document and not by its text: 16 bytes for the key, and about 40 at the peak, while
keys are sorted to find duplicates; afterwards one.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from tandem_pl.datamodules.sources.domains import Source
from tandem_pl.errors import InputError

SPLITS = ("train", "target", "test")
TRAIN, TARGET, TEST, DROPPED = 0, 1, 2, 255
#: The code of every split; documents that are in none have the code `DROPPED`.
SPLIT_CODES = {"train": TRAIN, "target": TARGET, "test": TEST}

Value = TypeVar("Value")


class TooLittleTextError(InputError):
    """A domain has too little text for its splits.

    Attributes:
        domains: such domains that are trained on: all that are known when it is raised.
    """

    def __init__(self, message: str, domains: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.domains = tuple(domains)


class Part(NamedTuple):
    """Where documents come from: a domain's own source, or target data under its name."""

    domain: str
    is_target: bool = False


def with_split_codes(splits: Mapping[str, list[str]]) -> tuple[list[str], np.ndarray]:
    """Return the documents of all splits [N], and the code of each one's split, uint8 [N].

    >>> texts, codes = with_split_codes({"train": ["a", "b"], "test": ["c"]})
    >>> texts, (codes[:2] == SPLIT_CODES["train"]).tolist(), len(codes)
    (['a', 'b', 'c'], [True, True], 3)
    """
    codes = [SPLIT_CODES[split] for split, texts in splits.items() for _ in texts]
    return [text for texts in splits.values() for text in texts], np.array(codes, np.uint8)


def parts_of(sources: Mapping[str, Value], target: Mapping[str, Value]) -> dict[Part, Value]:
    """Return the parts of a corpus in the order in which they keep a text that several have.

    Target data come first, so that training data never hold what the target or its test has.

    >>> [tuple(part) for part in parts_of({"web": 1}, {"exam": 2})]
    [('exam', True), ('web', False)]
    """
    first = {Part(domain, is_target=True): value for domain, value in target.items()}
    return first | {Part(domain): value for domain, value in sources.items()}


def domains_of(parts: Iterable[Part]) -> list[str]:
    """Return the domains: those that are trained on first."""
    return list(dict.fromkeys(part.domain for part in sorted(parts, key=lambda p: p.is_target)))


def read_texts(source: Source, text_column: str = "text") -> Iterator[str]:
    """Yield the documents of a source in order, without those of white space only.

    Args:
        source: reads the rows.
        text_column: column of the text, if the source does not name its own.

    Raises:
        InputError: a missing column; a row that cannot be read or whose text is not a string,
            unless the source skips those.
    """
    return (text for *_, text in read_text_rows(source, (), text_column) if text.strip())


def read_text_rows(
    source: Source, columns: Sequence[str], text_column: str
) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield `(where, row, text)` for every row of a source, see `read_texts`.

    The row has the text as `text_column`, and the columns.
    """
    column = source.column or text_column
    for where, row in source.rows([column, *columns]):
        text = row[column]
        if isinstance(text, str):
            yield where, {text_column: text, **{name: row[name] for name in columns}}, text
        else:
            source.refuse(
                f"{where} has a {column!r} of type {type(text).__name__}; every text must be a "
                'string: correct that row or set corrupt to "skip".'
            )


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


def splits_of(part: Part, has_target: bool) -> tuple[str, ...]:
    """Return the splits that a part's documents fall in, with or without target data of its own."""
    if not has_target:
        return SPLITS
    return ("target", "test") if part.is_target else ("train", "test")


def splits_for(
    part: Part, has_target: bool, count: int, train_only: Collection[str] | None
) -> tuple[str, ...]:
    """Return the splits of a part with so many documents, see `assign_splits`."""
    splits = splits_of(part, has_target)
    if train_only is None or part.is_target:
        return splits
    return ("train",) if count < len(splits) or part.domain in train_only else splits


def assign_splits(
    keys: Mapping[Part, np.ndarray],
    target_fraction: float,
    test_fraction: float,
    train_only: Collection[str] | None = None,
) -> dict[Part, np.ndarray]:
    """Assign every document to one split, by its content alone.

    A part's distinct documents are ranked by their keys; the first `test_fraction` of them are
    test, the next `target_fraction` target and the rest train, each at least one document. A text
    met before, in this part or in an earlier one, is a duplicate and falls in no split. If there
    are parts of target data, all of these but their test documents are target, and the others have
    no target documents.

    Args:
        keys: part -> keys of its documents as read, shape `[documents, 2]`; see `parts_of`.
        target_fraction: share of a part's documents for the target split.
        test_fraction: share for the test split.
        train_only: domains whose documents are all train; so are those of other domains with too
            few for their splits. None if each domain must have enough.

    Returns:
        part -> the code of each document's split, uint8 of shape `[documents]`: one of
        `SPLIT_CODES`, or `DROPPED` for a duplicate.

    Raises:
        InputError: a part has fewer distinct documents than splits, or none with `train_only`.
    """
    every = np.concatenate([np.empty((0, 2), np.uint64), *keys.values()])
    order = np.lexsort((every[:, 1], every[:, 0]))  # stable: equal rows keep their order
    first = np.ones(len(every), dtype=bool)
    first[order[1:]] = np.any(every[order[1:]] != every[order[:-1]], axis=1)
    codes: dict[Part, np.ndarray] = {}
    stop, has_target = 0, any(part.is_target for part in keys)
    for part, part_keys in keys.items():
        start, stop = stop, stop + len(part_keys)
        kept = np.flatnonzero(first[start:stop])
        splits = splits_for(part, has_target, len(kept), train_only)
        noun = "document" if len(kept) == 1 else "documents"
        distinct = f"{noun} not in the target" if "target" not in splits else f"distinct {noun}"
        read = f"{distinct} ({len(part_keys)} read)"
        if len(part_keys) and not len(kept) and not has_target:
            raise TooLittleTextError(
                f"domain {part.domain!r}: all {len(part_keys)} documents are also in an earlier "
                "domain; give it other text, or leave it out.",
                [part.domain],
            )
        check_enough(part, splits, len(kept), read, "add documents, split its file into several,")
        if splits == ("train",):
            codes[part] = np.full(len(part_keys), DROPPED, dtype=np.uint8)
            codes[part][kept] = TRAIN
            continue
        ranked = kept[np.lexsort((part_keys[kept, 1], part_keys[kept, 0]))]
        tests = max(1, min(round(test_fraction * len(kept)), len(kept) - len(splits) + 1))
        targets = max(1, min(round(target_fraction * len(kept)), len(kept) - tests - 1))
        codes[part] = np.full(len(part_keys), DROPPED, dtype=np.uint8)
        codes[part][ranked] = SPLIT_CODES[splits[0]]
        codes[part][ranked[:tests]] = TEST
        if splits == SPLITS:
            codes[part][ranked[tests : tests + targets]] = TARGET
    return codes


def check_enough(part: Part, splits: Sequence[str], count: int, what: str, advice: str) -> None:
    """Raise `InputError` if a part has fewer documents than splits."""
    if count < len(splits):
        names = " and ".join(filter(None, (", ".join(splits[:-1]), splits[-1])))
        kind = "target" if part.is_target else "domain"
        raise TooLittleTextError(
            f"{kind} {part.domain!r} has {count} {what} but needs {len(splits)}, one each to "
            f"{names}; {advice} or leave it out.",
            [] if part.is_target else [part.domain],
        )


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
