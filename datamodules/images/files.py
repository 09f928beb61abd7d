"""The files of image folders: images in a subfolder for each class, or Parquet files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from tandem_pl.datamodules.sources.file_listing import walk_files
from tandem_pl.datamodules.sources.file_rows import PARQUET
from tandem_pl.errors import InputError

SPLITS_BY_NAME = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SPLIT_NAMES = SPLITS_BY_NAME.keys()


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
    if {name.lower() for name in names} <= SPLIT_NAMES:
        raise InputError(
            f"{where}, whose subfolders {', '.join(names)} look like splits and not classes: give "
            f"one of them, such as {str(root / names[0])!r}."
        )


def _list_images(folder: str, prefix: str) -> Iterator[str]:
    suffixes = _image_suffixes()
    paths = (str(path) for path in walk_files(Path(folder)))
    start = len(str(Path(folder)))
    return (prefix + path[start:] for path in paths if suffix_of(path) in suffixes)


def list_parquet_files(root: Path, where: str) -> list[Path]:
    """List the Parquet files below a folder, sorted.

    Raises:
        InputError: there are images as well, a folder cannot be read, or the files are of several
            splits, by the names of files or subfolders.
    """
    files = parquet_files(root)
    if not files:
        return []
    images = (path for path in walk_files(root) if suffix_of(path) in _image_suffixes())
    image = next(images, None)
    what = f"{where} is the folder {str(root)!r}"
    names = [file.relative_to(root).as_posix() for file in files]
    if image is not None:
        raise InputError(
            f"{what} with Parquet files ({names[0]}) and images ({image.relative_to(root)}): give "
            "a folder that has one or the other."
        )
    splits = {_split_of(name): name for name in reversed(names)}
    if len(splits.keys() - {None}) > 1:
        examples = ", ".join(sorted(name for split, name in splits.items() if split))
        raise InputError(
            f"{what}, whose Parquet files are of several splits ({examples}): give those of one, "
            f"by a folder or by a pattern such as {str(root / '**' / 'train*.parquet')!r}."
        )
    return files


def parquet_files(root: Path) -> list[Path]:
    """Return the Parquet files below a folder, sorted."""
    return sorted(path for path in walk_files(root) if suffix_of(path) in PARQUET)


def _split_of(name: str) -> str | None:
    """Return the split that a path names.

    Example:
        >>> _split_of("data/train-00000-of-00002.parquet"), _split_of("trainees.parquet")
        ('train', None)
    """
    words = (re.split(r"[^a-z]", part.lower())[0] for part in name.split("/"))
    return next((SPLITS_BY_NAME[word] for word in words if word in SPLITS_BY_NAME), None)


def suffix_of(path: str | Path) -> str:
    """Return the suffix of a path, in lower case."""
    return os.path.splitext(path)[1].lower()


@cache
def _image_suffixes() -> frozenset[str]:
    known = Image.registered_extensions()
    return frozenset(suffix for suffix, kind in known.items() if kind in Image.OPEN)
