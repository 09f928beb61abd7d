"""One label space for all domains; what differs is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from tandem_pl.errors import InputError

from .image_files import in_order
from .image_sources import ImageSource

LISTED = 8  # names in a message


def find_classes(
    sources: Sequence[ImageSource], classes: int | Sequence[str | int] | None = None
) -> list[str]:
    """The class names of all sources, in the order of their numbers.

    Args:
        sources: all domains of all splits.
        classes: the names, or their number where they are numbered; None: those of the sources,
            which must then be the same in all.

    Raises:
        InputError: fewer than two classes, a name twice, or sources that differ.
    """
    for source in sources:
        twice = _twice(source.names or ())
        if twice is not None:
            raise InputError(f"{source.where} has the class {twice!r} twice: name each once.")
    if classes is not None:
        names = [str(c) for c in (range(classes) if isinstance(classes, int) else classes)]
        twice = _twice(names)
        if twice is not None:
            raise InputError(f"classes has {twice!r} twice: name every class once.")
        if len(names) < 2:
            raise InputError(
                f"classes={classes!r} must name at least 2 classes, or be their number."
            )
        return names
    named = [source for source in sources if source.names is not None]
    if not named:
        found = in_order(_numbers(sources))
    else:
        found = list(named[0].names or ())
        numbered = next((source for source in sources if source.names is None), None)
        if numbered is not None and not all(name.isdigit() for name in found):
            raise InputError(
                f"the labels of {numbered.where} are numbers and those of {named[0].where} names "
                f"({_some(found)}): give classes: [...], the names in the order of the numbers."
            )
    for source in sources:
        _check_same(source, found, (named or list(sources))[0].where)
    if len(found) < 2:
        raise InputError(
            f"{sources[0].where} has {len(found)} class ({_some(found)}), and there must be at "
            "least 2: give folders or labels of more, or name all as classes: [...]."
        )
    return found


def _twice(names: Sequence[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)


def _numbers(sources: Sequence[ImageSource]) -> list[str]:
    highest = max((int(s.labels.max(initial=-1)) for s in sources), default=-1)
    return [str(number) for number in range(highest + 1)]


def _check_same(source: ImageSource, classes: Sequence[str], first: str) -> None:
    """Refuses a source whose classes are not exactly `classes`."""
    if source.names is None:
        _check_range(source, len(classes))
        mine = {str(number) for number in np.unique(source.labels).tolist()}
    else:
        _check_range(source, len(source.names))
        mine = set(source.names)
    differences = []
    if mine - set(classes):
        differences.append(f"has the classes {_some(in_order(mine - set(classes)))} beyond")
    if set(classes) - mine:
        differences.append(f"lacks the classes {_some(in_order(set(classes) - mine))} of")
    if differences:
        whose = first if source.where != first else "the other domains"
        raise InputError(
            f"{source.where} {' and '.join(differences)} {whose}: mend its folders or labels, or "
            "give classes: [...] (or their number) if a domain may hold some of them only."
        )
    empty = np.flatnonzero(np.bincount(source.labels, minlength=len(source.names or ())) == 0)
    if source.names is not None and len(empty):
        raise InputError(
            f"{source.where} has no image of the class {source.names[empty[0]]!r}: give it some, "
            "or give classes: [...] if a domain may hold some of them only."
        )


def _check_range(source: ImageSource, classes: int) -> None:
    bad = np.flatnonzero((source.labels < 0) | (source.labels >= classes))
    if len(bad):
        number = int(bad[0])
        raise InputError(
            f"{source.place(number)} has the label {source.labels[number]}, outside 0 to "
            f"{classes - 1}: mend it, or the number of classes."
        )


def class_numbers(source: ImageSource, classes: Sequence[str]) -> np.ndarray:
    """The class of every image as its place in `classes`, int64 [N].

    Raises:
        InputError: a class that is not in `classes`, or a number out of range.
    """
    if source.names is None or len(source) == 0:
        _check_range(source, len(classes))
        return source.labels
    _check_range(source, len(source.names))
    place = {name: number for number, name in enumerate(classes)}
    table = np.array([place.get(name, -1) for name in source.names], dtype=np.int64)
    numbers = table[source.labels]
    unknown = np.unique(source.labels[numbers < 0])
    if len(unknown):
        names = [source.names[number] for number in unknown.tolist()]
        raise InputError(
            f"{source.where} has the classes {_some(names)}, which classes={list(classes)!r} does "
            "not name: add them there, or remove the images."
        )
    return numbers


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(map(repr, names[:LISTED])) + more
