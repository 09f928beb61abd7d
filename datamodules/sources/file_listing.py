"""The files that a path, a folder, a glob pattern or a list of these stands for."""

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from tandem_pl.errors import InputError

from .file_rows import PARQUET, is_binary


def list_files(domain: str, source: str | Sequence[str]) -> list[Path]:
    """List the files of one domain, sorted by path, each once.

    Args:
        domain: name of the domain, for the error messages.
        source: a file, a folder (read recursively; hidden files, `__pycache__` and binary files
            left out), a glob pattern (`**` crosses folders), or a list of these. `~` is expanded.

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
        if path.is_file():
            matches: Iterable[Path] = [path]
        elif path.is_dir():
            matches = _walk(path)
        else:
            matches = (Path(p) for p in glob.glob(str(path), recursive=True))
            matches = [p for p in matches if p.is_file()]
        if not matches:
            raise InputError(
                f"domain {domain!r}: {str(entry)!r} matches no file; "
                f"give an existing file, folder or glob pattern (looked from {os.getcwd()})."
            )
        found.update(p.absolute() for p in matches)
    if not found:
        raise InputError(f"domain {domain!r} has an empty list of sources; give at least one path.")
    return sorted(found)


def _walk(folder: Path) -> list[Path]:
    def wanted(path: Path) -> bool:
        parts = path.relative_to(folder).parts
        return not any(part.startswith(".") or part == "__pycache__" for part in parts)

    files = (path for path in folder.rglob("*") if wanted(path) and path.is_file())
    return [path for path in files if path.suffix.lower() in PARQUET or not is_binary(path)]
