"""Image files in folders that have a subfolder for each class."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from tandem_pl.errors import InputError

SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing"}


def sort_names(names: Iterable[str]) -> list[str]:
    """Sort class names: as numbers if all are numbers, else by character.

    Example:
        >>> sort_names({"10", "9"}), sort_names({"10", "nine"})
        (['9', '10'], ['10', 'nine'])
    """
    names = list(names)
    numbers = all(name.isascii() and name.isdigit() for name in names)
    return sorted(names, key=lambda name: (int(name), name)) if numbers else sorted(names)


def list_class_folder(root: Path, where: str) -> tuple[np.ndarray, list[str], list[str]]:
    """List the images in the subfolders of a folder, sorted by class and path.

    Images are the files with a suffix that Pillow reads, except hidden ones.

    Returns:
        The class of every image int64 [N], class names, and paths relative to the folder.

    Raises:
        InputError: there is no subfolder, a folder cannot be read, or the subfolders are splits.
    """
    try:
        with os.scandir(root) as entries:
            names = sort_names(e.name for e in entries if e.is_dir() and e.name[0] != ".")
        _check_classes(names, root, f"{where} is the folder {str(root)!r}")
        files = [sorted(_list_images(os.path.join(root, name), name)) for name in names]
    except OSError as error:
        reason = f"{error.strerror}: {error.filename}"
        raise InputError(f"{where} cannot be listed ({reason}): give a folder that can.") from error
    labels = np.repeat(np.arange(len(names)), [len(some) for some in files])
    return labels, names, [name for some in files for name in some]


def _check_classes(names: list[str], root: Path, where: str) -> None:
    if not names:
        raise InputError(f"{where}, which has no subfolder: give one with a subfolder a class.")
    if SPLIT_NAMES.issuperset(name.lower() for name in names):
        raise InputError(
            f"{where}, whose subfolders {', '.join(names)} look like splits and not classes: give "
            f"one of them, such as {str(root / names[0])!r}."
        )


def _list_images(folder: str, prefix: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name[0] == ".":
                continue
            name = f"{prefix}/{entry.name}"
            if os.path.splitext(entry.name)[1].lower() in _image_suffixes():
                if entry.is_file():
                    yield name
            elif entry.is_dir():
                yield from _list_images(entry.path, name)


@cache
def _image_suffixes() -> frozenset[str]:
    known = Image.registered_extensions()
    return frozenset(suffix for suffix, kind in known.items() if kind in Image.OPEN)
