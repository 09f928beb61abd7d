"""The files that a path, a folder, a glob pattern or a list of these stands for."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from tandem_pl.errors import InputError

from .file_rows import BINARY
from .reading import COMPRESSED


def list_files(domain: str, source: str | Sequence[str]) -> list[Path]:
    """List the files of one domain, sorted by path, each once.

    Args:
        domain: name of the domain, for the error messages.
        source: a file, a folder (read recursively, without hidden files, `__pycache__` and binary
            files), a glob pattern (`**` crosses folders), or a list of these. `~` is expanded.

    Raises:
        InputError: an entry matches no file.
    """
    entries = [source] if isinstance(source, str | os.PathLike) else source
    if not isinstance(entries, Sequence) or not all(
        isinstance(entry, str | os.PathLike) for entry in entries
    ):
        raise InputError(
            f"domain {domain!r} has the source {source!r}; give a path, a folder, a glob pattern, "
            "a list of these, or a map with path or dataset."
        )
    found: set[Path] = set()
    for entry in entries:
        path = Path(entry).expanduser()
        matches = _list_folder(path) if path.is_dir() else match_files(path)
        if not matches:
            raise InputError(
                f"domain {domain!r}: {str(entry)!r} matches no file; "
                f"give an existing file, folder or glob pattern (looked from {os.getcwd()})."
            )
        found.update(p.absolute() for p in matches)
    if not found:
        raise InputError(f"domain {domain!r} has an empty list of sources; give at least one path.")
    return sorted(found)


def match_files(path: Path) -> list[Path]:
    """Return the files that a path or a glob pattern names, in no order."""
    if path.is_file():
        return [path]
    return [Path(p) for p in glob.glob(str(path), recursive=True) if os.path.isfile(p)]


def _list_folder(folder: Path) -> list[Path]:
    def is_wanted(path: Path) -> bool:
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
        return not hidden and path.is_file() and not _is_binary(path)

    return [path for path in folder.rglob("*") if is_wanted(path)]


def _is_binary(path: Path) -> bool:
    if path.suffix.lower() in COMPRESSED | BINARY:
        return False
    try:
        with path.open("rb") as file:
            return b"\0" in file.read(8000)  # as git tells
    except OSError:
        return False  # the reader names the reason
