"""Find the images whose content is that of a held-out image, whatever their names are.

Content is the encoded file, or the pixels of arrays; an image that was saved again is another one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from .passes import map_chunks, remember
from .sources import ImageSource

END = 4096  # bytes at the end of an image that nearly always tell it from others

#: Some images of a source: their numbers, int64 [N].
Images = tuple[ImageSource, np.ndarray]
#: Position of an image in `others`, and the held-out image as a position in `held` and its number.
Copy = tuple[int, int, int]


def find_copies(
    held: Sequence[Images], others: Sequence[Images], threads: int, cache_dir: Path
) -> list[list[Copy]]:
    """Return the images of each of `others` that have the content of one in `held`.

    Sizes are compared first, then the ends of the images, then all bytes, so that few images are
    read as a whole. What is found is stored in `cache_dir` until a source's stamp changes.

    Args:
        held: images that are held out.
        others: images to search.
        threads: how many threads read.
        cache_dir: folder of the results.
    """
    name = _stamp(held, others)
    if name is None:
        return _compare(held, others, threads)
    file = cache_dir / "images" / f"copies-{name}.json"
    found = remember(file, lambda: _compare(held, others, threads))
    return [[(a, b, c) for a, b, c in copies] for copies in found]


def _stamp(held: Sequence[Images], others: Sequence[Images]) -> str | None:
    """Return a digest that changes with the content of the images; None if that is not known."""
    digest = hashlib.blake2b(f"{len(held)} ".encode(), digest_size=16)
    stamps = {id(source): source.content_stamp() for source, _ in [*held, *others]}
    for source, rows in [*held, *others]:
        stamp = stamps[id(source)]
        if stamp is None:
            return None
        digest.update(f"{stamp} {len(rows)} ".encode())
        digest.update(np.ascontiguousarray(rows).data)
    return digest.hexdigest()


def _compare(held: Sequence[Images], others: Sequence[Images], threads: int) -> list[list[Copy]]:
    parts = [*held, *others]
    owner = np.repeat(np.arange(len(parts)), [len(rows) for _, rows in parts])
    place = np.concatenate([np.arange(len(rows)) for _, rows in parts])
    is_held = owner < len(held)
    sizes = np.concatenate([source.content_sizes()[rows] for source, rows in parts])
    keys = sizes.copy()
    left = _shared(keys, is_held, np.flatnonzero(sizes >= 0))

    def digest(end: int | None) -> Callable[[int], int]:
        def of(number: int) -> int:
            source, rows = parts[owner[number]]
            content = source.content(int(rows[place[number]]), end)
            hashed = hashlib.blake2b(b"%d " % sizes[number], digest_size=8)
            hashed.update(content)
            return int.from_bytes(hashed.digest(), "little", signed=True)

        return of

    for end, what in ((END, "comparing images"), (None, "comparing similar images")):
        keys[left] = np.fromiter(_map(digest(end), left, threads, what), np.int64, len(left))
        left = _shared(keys, is_held, left)
    first: dict[int, int] = {}
    for number in left[is_held[left]].tolist():
        first.setdefault(int(keys[number]), number)
    copies: list[list[Copy]] = [[] for _ in others]
    for number in left[~is_held[left]].tolist():
        original = first[int(keys[number])]
        row = int(held[owner[original]][1][place[original]])
        copies[owner[number] - len(held)].append((int(place[number]), int(owner[original]), row))
    return copies


def _shared(keys: np.ndarray, is_held: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Return those in `left` whose key both a held-out and another image have."""
    mine, theirs = left[is_held[left]], left[~is_held[left]]
    both = np.intersect1d(keys[mine], keys[theirs])
    return left[np.isin(keys[left], both)]


def _map(
    function: Callable[[int], int], numbers: np.ndarray, threads: int, what: str
) -> Iterator[int]:
    def some(places: range) -> list[int]:
        return [function(number) for number in numbers[places.start : places.stop].tolist()]

    return map_chunks(some, len(numbers), threads, what)
