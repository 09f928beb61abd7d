"""One CSV that names the images of all domains, with their labels."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tandem_pl.datamodules.sources.file_rows import CSV
from tandem_pl.errors import InputError
from tandem_pl.files import read_text

from .files import sort_names
from .sources import ImageFiles, ImageSource

COLUMNS = ("path", "label", "domain")
SPLITS = ("train", "target", "test")


class Line(NamedTuple):
    """A line of the table."""

    number: int
    path: str
    label: str
    domain: str
    split: str


def open_table(path: str, root: str | None = None) -> dict[str, dict[str, ImageSource]]:
    """Open the domains of every split that a table names.

    Args:
        path: a .csv or .tsv with the columns `path`, `label`, `domain` and optionally `split`.
            Without this column all images belong to "train".
        root: folder that the paths are relative to; None for the table's folder.

    Returns:
        `sources[split][domain]` for every split of `SPLITS`; domains are sorted by name.

    Raises:
        InputError: a missing file, column, value or image, an unknown split, or an image twice.
    """
    file = Path(path).expanduser()
    folder = file.parent if root is None else Path(root).expanduser()
    lines: dict[tuple[str, str], list[Line]] = {}
    first_line: dict[str, int] = {}  # real path -> the line that names it first
    real_folder = cache(os.path.realpath)  # resolves the links of each folder once
    for line in _read_lines(file):
        place = os.path.join(folder, line.path)
        above, name = os.path.split(place)
        real = os.path.join(real_folder(above), name)
        real = os.path.realpath(real) if os.path.islink(real) else real
        if first_line.setdefault(real, line.number) != line.number:
            raise InputError(
                f"{file}, lines {first_line[real]} and {line.number}: both name {real!r}, and an "
                "image belongs to one domain and split: remove one."
            )
        if not os.path.isfile(place):
            raise InputError(
                f"{file}, line {line.number}: {place!r} is no file: correct the path (relative to "
                f"{'root' if root is not None else 'the folder of the table'}) or remove the line."
            )
        lines.setdefault((line.split, line.domain), []).append(line)
    if not lines:
        raise InputError(f"table {str(file)!r} has no row: give one with images.")
    sources: dict[str, dict[str, ImageSource]] = {split: {} for split in SPLITS}
    for split, domain in sorted(lines):
        rows = lines[split, domain]
        names = sort_names({row.label for row in rows})
        number = {name: position for position, name in enumerate(names)}
        labels = np.array([number[row.label] for row in rows])
        where, paths = f"{split}[{domain!r}]", [row.path for row in rows]
        sources[split][domain] = ImageFiles(where, labels, names, paths, folder)
    return sources


def _read_lines(file: Path) -> Iterator[Line]:
    separator = CSV.get(file.suffix.lower())
    if separator is None or not file.is_file():
        raise InputError(f"table {str(file)!r} is no .csv or .tsv file: give the path of one.")
    try:
        reader = csv.DictReader(
            io.StringIO(read_text(file)),
            delimiter=separator,
            restval="",
            # As in other sources, tabs have no quotes: a stray one would join rows.
            quoting=csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL,
        )
        columns = reader.fieldnames or ()
        for column in COLUMNS:
            if column not in columns:
                raise InputError(
                    f"table {str(file)!r} has no column {column!r} (its columns are "
                    f"{', '.join(map(repr, columns))}): rename one."
                )
        for row in reader:
            path, label, domain = values = [row[column].strip() for column in COLUMNS]
            where = f"{file}, line {reader.line_num}"
            if not all(values):
                empty = COLUMNS[values.index("")]
                raise InputError(f"{where}: {empty} is empty: fill or remove the row.")
            split = row.get("split", "train").strip()
            if split not in SPLITS:
                raise InputError(f"{where}: split {split!r} is unknown: use {', '.join(SPLITS)}.")
            yield Line(reader.line_num, path, label, domain, split)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"table {str(file)!r} cannot be read ({error}): write it again as CSV in UTF-8."
        ) from error
