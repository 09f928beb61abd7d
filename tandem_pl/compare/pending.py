"""The cells that are still to run."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from tandem_pl.errors import InputError
from tandem_pl.yaml_files import parse_yaml, read_yaml

from .cells import Cell, dump


def pending_cells(cells: Sequence[Cell], overwrite: bool = False) -> list[Cell]:
    """Return the cells to run: those without a result, and those that need one of them.

    Raises:
        InputError: a finished cell had another configuration, unless `overwrite`.
    """
    stale: dict[str, Cell] = {}
    for cell in cells:
        if not cell.result.exists() or any(name in stale for name in cell.needs):
            stale[cell.name] = cell
            continue
        key = first_difference(_read(cell.folder / "cell.yaml"), parse_yaml(dump(cell.config)))
        if key is None:
            continue
        if not overwrite:
            raise InputError(
                f"{cell.folder} holds a result of other settings ({key}): give another --folder, "
                "or --overwrite to run such cells again."
            )
        stale[cell.name] = cell
    return list(stale.values())


def remove(cells: Iterable[Cell]) -> None:
    """Delete the folders of cells."""
    for cell in cells:
        shutil.rmtree(cell.folder, ignore_errors=True)


def first_difference(old: Any, new: Any, key: str = "") -> str | None:
    """Return the first key at which two configurations differ, or None.

    >>> first_difference({"a": {"b": 1}}, {"a": {"b": 2}})
    'a.b'
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            path = f"{key}.{name}" if key else str(name)
            found = first_difference(old.get(name), new.get(name), path)
            if found is not None:
                return found
        return None
    return None if old == new else key


def _read(path: Path) -> Any:
    try:
        return read_yaml(path)
    except (OSError, yaml.YAMLError):
        return None
