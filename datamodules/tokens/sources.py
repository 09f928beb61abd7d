"""Open the tokens of a domain: which format a path has, and its rows or its stream."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem_pl.checks import check_choice
from tandem_pl.datamodules.sources.file_listing import expand_user, match_paths
from tandem_pl.errors import InputError

from .hugging_face import is_hugging_face, read_hugging_face
from .litdata_chunks import is_litdata, read_litdata
from .mds import is_mds, read_mds
from .megatron import is_megatron, read_megatron
from .nanogpt import is_nanogpt, read_nanogpt
from .pieces import Integers, Pieces
from .reading import IDS, LABELS, MASK, Columns, Kind, Options

#: The first that matches a path reads it, unless its map names a kind.
KINDS = {
    "megatron": Kind(is_megatron, read_megatron),
    "nanogpt": Kind(is_nanogpt, read_nanogpt),
    "huggingface": Kind(is_hugging_face, read_hugging_face),
    "litdata": Kind(is_litdata, read_litdata),
    "mds": Kind(is_mds, read_mds),
}
KEYS = ("path", "kind", "dtype", "column", "split", "rows")
SPLITS = {"train", "val", "valid", "validation", "dev", "test"}

#: A domain's tokens in a configuration: a path, a pattern, a list of these, or a map with `KEYS`.
TokenSpec = str | Sequence[str] | Mapping[str, Any]


class Tokens:
    """A domain's tokens; a pickled copy opens them again, so that processes share their pages.

    Args:
        where: what messages call the source.
        spec: what it was opened from.
        ids: the tokens. A piece is a sample if `rows`; else all are one stream.
        labels: as many numbers, piece by piece, -100 for tokens without a loss; None: the tokens.
        rows: whether every row is a sample of its own.
        kinds: the formats that were read.
    """

    def __init__(
        self,
        where: str,
        spec: TokenSpec,
        ids: Pieces,
        labels: Pieces | None,
        rows: bool,
        kinds: tuple[str, ...],
    ) -> None:
        self.where, self.spec = where, spec
        self.ids, self.labels, self.rows, self.kinds = ids, labels, rows, kinds

    def __reduce__(self) -> tuple[Any, ...]:
        return open_tokens, (self.where, self.spec)


def open_tokens(where: str, spec: TokenSpec) -> Tokens:
    """Open a domain's tokens; nothing is copied.

    Args:
        where: what messages call the source, such as "train['web']".
        spec: a path, a pattern or a list of these; or a map with `path` (the same) and `kind` (of
            `KINDS`), `dtype` (of files that do not name it), `column` (of the tokens), `split` (of
            a saved data set) and `rows` (whether every row is a sample; None: if there are labels).

    Raises:
        InputError: a path that does not exist or is of no known kind, or tokens that cannot be
            used.
    """
    given: dict[str, Any] = dict(spec) if isinstance(spec, Mapping) else {"path": spec}
    for key in given:
        if key not in KEYS:
            raise InputError(f"{where} has the unknown key {key!r}; use {', '.join(KEYS)}.")
    if given.get("path") is None:
        raise InputError(f"{where} has no path; give the path of its tokens.")
    kind = given.get("kind")
    if kind is not None:
        check_choice(f"{where}.kind", kind, tuple(KINDS))
    options = Options(given.get("dtype"), given.get("column"), given.get("split"))
    paths = [given["path"]] if isinstance(given["path"], str | Path) else list(given["path"])
    parts: list[tuple[str, Columns]] = []
    for path in paths:
        for place in find_places(where, str(path)):
            name = kind or _kind_of(where, place)
            parts.append((name, KINDS[name].read(place, options)))
    if not parts:
        raise InputError(f"{where} has an empty list of paths; give at least one.")
    names = set(parts[0][1])
    if any(set(columns) != names for _, columns in parts):
        raise InputError(f"{where} has labels in some of its paths only; give these as a domain.")
    columns = {name: Pieces.chain([part[name] for _, part in parts]) for name in parts[0][1]}
    for name in names - {IDS[0]}:
        if not np.array_equal(columns[name].lengths, columns[IDS[0]].lengths):
            raise InputError(f"{where} has rows whose {name} have another length than the tokens.")
    if MASK in columns:
        columns = _without_padding(columns, where)
    rows = given.get("rows")
    rows = LABELS in columns if rows is None else bool(rows)
    if rows:
        kept = columns[IDS[0]].lengths > 0
        if not kept.all():
            empty = int((~kept).sum())
            warnings.warn(f"{where}: {empty} rows without a token were left out", stacklevel=2)
            columns = {name: pieces.select(kept) for name, pieces in columns.items()}
    else:
        columns = {name: pieces.joined() for name, pieces in columns.items()}
    kinds = tuple(dict.fromkeys(name for name, _ in parts))
    return Tokens(where, spec, columns[IDS[0]], columns.get(LABELS), rows, kinds)


def find_places(where: str, path: str) -> list[Path]:
    """Return the files and folders that a path or pattern names, each to be read by one reader.

    A path of Megatron-LM is its prefix, too; a folder of `.bin` files is all of them.

    Raises:
        InputError: none, or a folder of several splits.
    """
    index = Path(f"{expand_user(path)}.idx")
    found = [index] if index.is_file() else sorted(match_paths(expand_user(path)))
    found = found or sorted(match_paths(index))
    places: list[Path] = []
    for place in found:
        files = sorted(place.glob("*.bin")) if place.is_dir() else []
        known = any(kind.matches(place) for kind in KINDS.values())
        places += files if files and not known else [place]
    # Of a pair of Megatron-LM, one file stands for both.
    places = [p for p in places if p.suffix != ".idx" or p.with_suffix(".bin") not in places]
    if not places:
        raise InputError(
            f"{where}: {path!r} matches nothing; give the path of a .bin file, a prefix of "
            "Megatron-LM, or a folder of a saved data set, litdata or MDS."
        )
    words = {
        word for p in places for word in re.split(r"[^a-z]+", p.stem.lower()) if word in SPLITS
    }
    if len(words) > 1 and len(places) > 1:
        raise InputError(
            f"{where}: {path!r} holds files of {' and '.join(sorted(words))} data; give one of "
            f"them, such as {str(places[-1])!r}, or a pattern."
        )
    return places


def _kind_of(where: str, place: Path) -> str:
    for name, kind in KINDS.items():
        if kind.matches(place):
            return name
    raise InputError(
        f"{where}: {str(place)!r} holds no tokens in a known format; the formats are "
        f"{', '.join(KINDS)}."
    )


def _without_padding(columns: Columns, where: str) -> Columns:
    """Return the columns without the tokens that the attention mask hides at the ends of rows."""
    mask = columns.pop(MASK)
    skipped, lengths = np.zeros(len(mask.lengths), np.int64), mask.lengths.copy()
    for group in mask.groups():
        start = int(mask.ends[group.start] - mask.lengths[group.start])
        visible = mask.read(start, int(mask.ends[group.stop - 1])) != 0
        if not visible.all():
            skipped[group], lengths[group] = _visible_parts(visible, mask.lengths[group], where)
    return {name: pieces.cut(skipped, lengths) for name, pieces in columns.items()}


def _visible_parts(
    visible: NDArray[np.bool_], sizes: Integers, where: str
) -> tuple[Integers, Integers]:
    """Return how many hidden tokens each row begins with, and how many visible ones follow.

    Args:
        visible: the masks of all rows, one after the other.
        sizes: [rows] the length of each.
        where: the source, for messages.

    Raises:
        InputError: a row has hidden tokens between visible ones.
    """
    stops = np.cumsum(sizes)
    starts = stops - sizes
    before = np.concatenate([[0], np.cumsum(visible)])  # visible tokens before each place
    lengths = before[stops] - before[starts]
    places = np.append(np.flatnonzero(visible), len(visible))
    first = places[before[starts]]  # the first visible token from the row's start on
    skipped = np.where(lengths > 0, first - starts, 0)
    first = starts + skipped
    if (before[first + lengths] - before[first] != lengths).any():
        raise InputError(
            f"{where} has rows with hidden tokens between others (attention_mask 1, 0, 1); pad "
            "rows at one end, or leave the attention_mask out."
        )
    return skipped, lengths
