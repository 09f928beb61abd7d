"""Image files by class: folders with a subfolder for each class, and tables of paths.

A listing of a million files is two arrays of numbers, which loader workers share.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from tandem_pl.datamodules.sources.file_rows import CSV
from tandem_pl.errors import InputError

SPLITS = ("train", "target", "test")
SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing"}


class PathList:
    """Paths relative to a folder, in one array of bytes rather than an object each.

    Args:
        root: the folder.
        names: the paths, with "/" between folders.

    Example:
        >>> paths = PathList("data", ["cat/1.png", "dog/2.png"])
        >>> len(paths), paths[1]
        (2, 'data/dog/2.png')
    """

    def __init__(self, root: str, names: Iterable[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self.root = root
        self.ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self.bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.ends)

    def name(self, number: int) -> str:
        """The path relative to the root."""
        start = self.ends[number - 1] if number else 0
        return os.fsdecode(self.bytes[start : self.ends[number]].tobytes())

    def __getitem__(self, number: int) -> str:
        return os.path.join(self.root, self.name(number))


def in_order(names: Iterable[str]) -> list[str]:
    """Class names sorted: as numbers where all are, else by character.

    Example:
        >>> in_order({"10", "9"}), in_order({"10", "nine"})
        (['9', '10'], ['10', 'nine'])
    """
    names = list(names)
    numbers = all(name.isascii() and name.isdigit() for name in names)
    return sorted(names, key=lambda name: (int(name), name)) if numbers else sorted(names)


def list_class_folder(root: Path, where: str) -> tuple[list[str], np.ndarray, PathList]:
    """The images in the subfolders of a folder, sorted by class and path.

    Files are told by the suffixes that Pillow reads; hidden ones and others are left out.

    Args:
        root: the folder.
        where: what messages call it.

    Returns:
        Class names, the class of every image int64[N], and their paths.

    Raises:
        InputError: no subfolder, a folder that cannot be read, or subfolders that are splits.
    """
    try:
        with os.scandir(root) as entries:
            found = [e.name for e in entries if not e.name.startswith(".") and e.is_dir()]
        names = in_order(found)
        if not names:
            raise InputError(
                f"{where} is the folder {str(root)!r}, which has no subfolder: give one with a "
                "subfolder of images for each class, or a table of paths and labels."
            )
        if SPLIT_NAMES.issuperset(name.lower() for name in names):
            raise InputError(
                f"{where} is the folder {str(root)!r}, whose subfolders {', '.join(names)} look "
                f"like splits and not classes: give one of them, such as {str(root / names[0])!r}."
            )
        files = [sorted(_images(os.path.join(root, name), name)) for name in names]
    except OSError as error:
        raise InputError(
            f"{where} cannot be listed ({error.strerror}: {error.filename}): mend its permissions "
            "or give another folder."
        ) from error
    labels = np.repeat(np.arange(len(names)), [len(some) for some in files])
    return names, labels, PathList(str(root), (name for some in files for name in some))


def _images(folder: str, prefix: str) -> Iterator[str]:
    suffixes = _suffixes()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = f"{prefix}/{entry.name}"
            if os.path.splitext(entry.name)[1].lower() in suffixes:
                if entry.is_file():
                    yield name
            elif entry.is_dir():
                yield from _images(entry.path, name)


@cache
def _suffixes() -> frozenset[str]:
    known = Image.registered_extensions()
    return frozenset(suffix for suffix, kind in known.items() if kind in Image.OPEN)


class Table:
    """A CSV of images: columns `path`, `label` and `domain`, and `split` if there is one.

    Args:
        path: the CSV (or .tsv). Paths in it are relative to its folder, or to `root`.
        root: the folder of the images.

    Attributes:
        domains: `domains[split][domain]` is a pair of `PathList` and labels; the split is "train"
            where the table names none. Domains are sorted by name.

    Raises:
        InputError: a missing file, column, value or image, an unknown split, or a path twice.
    """

    def __init__(self, path: str, root: str | None = None) -> None:
        file = Path(path).expanduser()
        folder = Path(root).expanduser() if root is not None else file.parent
        self.path = str(file)
        rows: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
        seen: dict[str, int] = {}
        real_folder = cache(os.path.realpath)  # of a million images, links are looked for only once
        for line, name, label, domain, split in self._rows(file):
            above, last = os.path.split(os.path.join(folder, name))
            real = os.path.join(real_folder(above), last)
            real = os.path.realpath(real) if os.path.islink(real) else real
            if real in seen:
                raise InputError(
                    f"{file}, lines {seen[real]} and {line}: both name {real!r}, and an image "
                    "belongs to one domain and split: remove one."
                )
            seen[real] = line
            if not os.path.isfile(os.path.join(folder, name)):
                raise InputError(
                    f"{file}, line {line}: {os.path.join(folder, name)!r} is no file: mend the "
                    "path or remove the line; paths are relative to "
                    f"{'root' if root is not None else 'the folder of the table'}."
                )
            names, labels = rows.setdefault((split, domain), ([], []))
            names.append(name)
            labels.append(label)
        if not rows:
            raise InputError(f"table {str(file)!r} has no row: give one with images.")
        self.domains: dict[str, dict[str, tuple[PathList, Sequence[str]]]] = {}
        for split, domain in sorted(rows):
            names, labels = rows[split, domain]
            self.domains.setdefault(split, {})[domain] = (PathList(str(folder), names), labels)

    def _rows(self, file: Path) -> Iterator[tuple[int, str, str, str, str]]:
        separator = CSV.get(file.suffix.lower())
        if separator is None or not file.is_file():
            raise InputError(f"table {str(file)!r} is no .csv or .tsv file: give the path of one.")
        try:
            with file.open(newline="", encoding="utf-8-sig") as lines:
                reader = csv.DictReader(lines, delimiter=separator)
                for column in ("path", "label", "domain"):
                    if column not in (reader.fieldnames or ()):
                        raise InputError(
                            f"table {str(file)!r} has no column {column!r} (its columns are "
                            f"{', '.join(map(repr, reader.fieldnames or ()))}): rename one."
                        )
                for row in reader:
                    yield self._checked(file, reader.line_num, row)
        except UnicodeDecodeError as error:
            raise InputError(f"table {str(file)!r} is not UTF-8: convert it.") from error
        except csv.Error as error:
            raise InputError(f"table {str(file)!r} cannot be read ({error}): mend it.") from error

    def _checked(
        self, file: Path, line: int, row: dict[str, str | None]
    ) -> tuple[int, str, str, str, str]:
        values = [(row.get(column) or "").strip() for column in ("path", "label", "domain")]
        for column, value in zip(("path", "label", "domain"), values, strict=True):
            if not value:
                raise InputError(f"{file}, line {line}: {column} is empty: fill or remove the row.")
        split = (row["split"] or "").strip() if "split" in row else "train"
        if split not in SPLITS:
            raise InputError(
                f"{file}, line {line}: split {split!r} is unknown: use {', '.join(SPLITS)}."
            )
        name, label, domain = values
        return line, name, label, domain, split
