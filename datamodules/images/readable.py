"""Find the images of a source that can be decoded, and remember the others."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from .decoding import UnreadableImageError
from .passes import map_chunks, remember
from .sources import ImageSource

#: Number of the image, and the message that says why it cannot be used.
Bad = tuple[int, str]


def find_readable(
    source: ImageSource, channels: int, convert: bool, threads: int, cache_dir: Path
) -> np.ndarray:
    """Return the numbers of the images that can be decoded, int64, in order.

    Every image is decoded once, as `read_image` does. The bad ones are stored in `cache_dir` until
    the source's stamp changes, and counted in a warning that names the first. A source without a
    stamp has no bad images.
    """
    bad = _find_bad(source, channels, convert, threads, cache_dir)
    if bad:
        warnings.warn(
            f"{source.where}: {len(bad)} of {len(source)} images were left out, as they cannot be "
            f"used; the first: {bad[0][1]}",
            stacklevel=2,
        )
    return np.delete(np.arange(len(source)), [number for number, _ in bad])


def check_readable(
    source: ImageSource, channels: int, convert: bool, threads: int, cache_dir: Path
) -> None:
    """Decode every image once, as `find_readable` does.

    Raises:
        UnreadableImageError: an image cannot be used; the message names the first, and how many.
    """
    bad = _find_bad(source, channels, convert, threads, cache_dir)
    if len(bad) == 1:
        raise UnreadableImageError(bad[0][1])
    if bad:
        raise UnreadableImageError(
            f"{source.where}: {len(bad)} of {len(source)} images cannot be used; the first: "
            f"{bad[0][1]}"
        )


def _find_bad(
    source: ImageSource, channels: int, convert: bool, threads: int, cache_dir: Path
) -> list[Bad]:
    stamp = source.stamp()
    if stamp is None:
        return []
    name = f"unreadable-{stamp}-{channels}-{'any' if convert else 'own'}.json"
    file = cache_dir / "images" / name
    bad = remember(file, lambda: _decode_all(source, channels, convert, threads))
    return [(number, message) for number, message in bad]


def _decode_all(source: ImageSource, channels: int, convert: bool, threads: int) -> list[Bad]:
    def check(numbers: range) -> list[Bad]:
        bad = []
        for number in numbers:
            try:
                source.read(number, channels, convert)
            except UnreadableImageError as error:
                bad.append((number, str(error)))
        return bad

    return list(map_chunks(check, len(source), threads, f"checking {source.where}"))
