"""`ImageSource`: labelled images that are decoded on request, and facts of files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image


class ImageSource:
    """Images with labels; a subclass says where they are.

    Args:
        where: the source's name in error messages, such as "train['real']".
        labels: int64 [N]: positions in `names`, or class numbers if there are no names.
        names: class names, or None.
    """

    def __init__(self, where: str, labels: np.ndarray, names: Sequence[str] | None) -> None:
        self.where = where
        self.labels = np.ascontiguousarray(labels, dtype=np.int64)
        self.names = None if names is None else list(names)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, number: int, channels: int, convert: bool) -> Image.Image:
        """Return image `number`, of mode "L" or "RGB" by `channels`.

        Raises:
            UnreadableImageError: it cannot be decoded, or has other channels and `convert` is off.
        """
        raise NotImplementedError

    def place(self, number: int) -> str:
        """Return the name of image `number` in error messages."""
        return f"{self.where}, image {number}"

    def digest(self) -> str:
        """Return a digest of the labels and of what names the images, for checkpoints."""
        return digest_of([self.labels.data])

    def stamp(self) -> str | None:
        """Return a digest that changes if an image may have become unreadable; None if none can."""
        return None

    def content_stamp(self) -> str | None:
        """Return a digest that changes if an image may have changed; None if that is not known."""
        return self.stamp()

    def content_sizes(self) -> np.ndarray:
        """Return the bytes of every image's content, int64 [N]; -1 if there is none."""
        return np.full(len(self), -1)

    def content(self, number: int, end: int | None = None) -> bytes:
        """Return the bytes that make image `number` what it is; only the last `end` of them."""
        raise NotImplementedError


def digest_of(parts: Iterable[Any]) -> str:
    """Return a digest of bytes."""
    hashed = hashlib.blake2b(digest_size=16)
    for part in parts:
        hashed.update(part)
    return hashed.hexdigest()


def file_facts(path: str) -> bytes:
    """Return name, size and time of change of a file."""
    try:
        stat = os.stat(path)
        return os.fsencode(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n")
    except OSError:
        return os.fsencode(f"{path}\0gone\n")


def file_size(path: str) -> int:
    """Return the bytes of a file; -1 if it is gone."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def read_end(path: str, end: int | None) -> bytes:
    """Return the last `end` bytes of a file, or all."""
    try:
        with open(path, "rb") as file:
            if end:
                file.seek(max(os.fstat(file.fileno()).st_size - end, 0))
            return file.read()
    except OSError:
        return os.fsencode(path)  # of which there is no copy; decoding it names the reason
