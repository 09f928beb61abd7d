"""The files that a path, a folder, a glob pattern or a list of these stands for.

Links are followed, and a file that is reached in several ways is there once. What exists is taken
as it is named, before brackets, stars and question marks make a pattern of it.
"""

import codecs
import glob
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tandem_pl.errors import InputError
from tandem_pl.files import encoding_of

from .file_rows import BINARY, PARQUET_MAGIC
from .reading import COMPRESSED


class FileList(NamedTuple):
    """The files of a source, and how many of its folders' were left out, by the reason."""

    files: list[Path]
    left_out: dict[str, int]


def list_files(domain: str, source: str | Sequence[str]) -> list[Path]:
    """Return the files that `find_files` finds."""
    return find_files(domain, source).files


def find_files(domain: str, source: str | Sequence[str]) -> FileList:
    """Find the files of one domain, sorted by path, each once.

    Args:
        domain: name of the domain, for the error messages.
        source: a file, a folder (read recursively, without hidden files, `__pycache__`, binary
            files and links to nothing), a glob pattern (`**` crosses folders), or a list of these.
            `~` is expanded.

    Raises:
        InputError: an entry matches no file, or a folder cannot be listed.
    """
    entries = [source] if isinstance(source, str | os.PathLike) else source
    if not isinstance(entries, Sequence) or not all(
        isinstance(entry, str | os.PathLike) for entry in entries
    ):
        raise InputError(
            f"domain {domain!r} has the source {source!r}; give a path, a folder, a glob pattern, "
            "a list of these, or a map with path or dataset."
        )
    found: list[Path] = []
    left_out: dict[str, int] = {}
    for entry in entries:
        path = expand_user(entry)
        matches = match_files(path)
        if path.is_dir():
            for file in walk_files(path, skipped=("__pycache__",)):
                reason = _why_left_out(file)
                if reason:
                    left_out[reason] = left_out.get(reason, 0) + 1
                else:
                    matches.append(file)
        if not matches:
            if path.is_dir():
                raise InputError(f"domain {domain!r}: {_no_text(path, str(entry))}")
            raise InputError(
                f"domain {domain!r}: {str(entry)!r} matches no file; "
                f"give an existing file, folder or glob pattern (looked from {os.getcwd()})."
            )
        found += (match.absolute() for match in matches)
    if not found:
        raise InputError(f"domain {domain!r} has an empty list of sources; give at least one path.")
    return FileList(once(found), left_out)


def _no_text(folder: Path, name: str) -> str:
    """Return what a folder without text has instead, by suffix, and what to do."""
    suffixes = Counter(file.suffix or "no suffix" for file in walk_files(folder))
    kinds = ", ".join(f"{suffix} ({count})" for suffix, count in suffixes.most_common(5))
    others = f" that can be read as text; those in it end with {kinds}" if kinds else ""
    return f"the folder {name!r} has no files{others}; give a file, folder or glob pattern of text."


def expand_user(path: str | os.PathLike[str]) -> Path:
    """Return the path with a leading `~` expanded, unless that is the name of what exists."""
    return Path(path) if os.path.lexists(path) else Path(os.path.expanduser(path))


def match_files(path: Path) -> list[Path]:
    """Return the files that a path or a glob pattern names, see `match_paths`."""
    found = match_paths(path)
    return [p for p in found if (not p.is_dir() if p == path else p.is_file())]


def match_paths(path: Path) -> list[Path]:
    """Return the files and folders that a path or a glob pattern names, in no order.

    The longest beginning of a pattern that exists is taken as it is named.
    """
    if os.path.lexists(path):
        return [path]
    parts, base = path.parts, Path()
    for place, part in enumerate(parts):
        if not os.path.lexists(base / part):
            return [Path(found) for found in _match(base, parts[place:])]
        base /= part
    return []


def _match(base: Path, parts: Sequence[str]) -> Iterator[str]:
    """Yield what a pattern matches below an existing folder; `glob` loops with links at `**`."""
    if "**" not in parts:
        yield from glob.glob(os.path.join(glob.escape(str(base)), *parts))
        return
    place = parts.index("**")
    for top in _match(base, parts[:place]) if place else [str(base)]:
        for folder, files in _walk(Path(top), ()) if os.path.isdir(top) else ():
            yield from _match(folder, parts[place + 1 :]) if parts[place + 1 :] else map(str, files)


def walk_files(folder: Path, skipped: Sequence[str] = ()) -> Iterator[Path]:
    """Yield the files below a folder, without hidden ones; links are followed, each folder once.

    Args:
        folder: the folder.
        skipped: names of files and folders to leave out.

    Raises:
        InputError: a folder cannot be listed.
    """
    for _, files in _walk(folder, skipped):
        yield from files


def _walk(folder: Path, skipped: Sequence[str]) -> Iterator[tuple[Path, list[Path]]]:
    left, seen = deque([folder]), set()
    while left:
        place = left.popleft()
        real = os.path.realpath(place)
        if real in seen:
            continue
        seen.add(real)
        files = []
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    path = place / entry.name
                    if entry.name.startswith(".") or entry.name in skipped:
                        continue
                    if not path.is_dir() if entry.is_symlink() else not entry.is_dir():
                        files.append(path)
                    elif entry.is_symlink():
                        # Last, so that a folder is named by its own path if it has one here.
                        left.append(path)
                    else:
                        left.appendleft(path)
        except OSError as error:
            raise InputError(
                f"the folder {str(place)!r} cannot be listed ({error.strerror}); correct its "
                "permissions, or leave it out."
            ) from error
        yield place, files


def once(paths: Iterable[Path]) -> list[Path]:
    """Return the paths in order; of several to the same file, that without a link."""
    real_folder = cache(os.path.realpath)
    found: dict[str, Path] = {}
    linked: list[tuple[str, Path]] = []
    for path in sorted(set(paths)):
        real = os.path.join(real_folder(path.parent), path.name)
        real = os.path.realpath(real) if os.path.islink(real) else real
        if real == str(path.absolute()):
            found[real] = path
        else:
            linked.append((real, path))
    for real, path in sorted(linked, key=lambda pair: (pair[1].is_symlink(), pair[1])):
        found.setdefault(real, path)
    return sorted(found.values())


def _why_left_out(path: Path) -> str | None:
    """Return why a file of a folder is not read; None if it is."""
    if not path.is_file():
        return "link to nothing" if path.is_symlink() else "no file"
    if path.suffix.lower() in {*COMPRESSED, *BINARY}:
        return None
    try:
        with path.open("rb") as file:
            head = file.read(8000)
    except OSError:
        return None  # the reader names the reason
    if head.startswith(PARQUET_MAGIC):
        return None
    encoding = encoding_of(head)
    if encoding.startswith("utf-8"):
        return "binary" if b"\0" in head else None  # as git tells
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return "binary"
    return "binary" if "\0" in text else None
