"""One list of classes for all domains; sources that differ are refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from tandem_pl.errors import InputError

from .files import sort_names
from .sources import ImageSource

LISTED = 8  # names in a message
CORRECT = (
    "correct its folders or labels, or give classes: [...] (or their number) if a domain may have "
    "only some of them."
)


def find_classes(
    sources: Sequence[ImageSource], classes: int | Sequence[str | int] | None = None
) -> list[str]:
    """Return the class names of all sources, in the order of their numbers.

    Args:
        sources: all domains of all splits.
        classes: the names, or how many there are if they are numbers; None for those of the
            sources, which must then be the same in all.

    Raises:
        InputError: fewer than two classes, a name twice, or sources that differ.
    """
    for source in sources:
        _check_unique(source.names or (), f"{source.where} has the class")
    if classes is not None:
        names = [str(c) for c in (range(classes) if isinstance(classes, int) else classes)]
        _check_unique(names, "classes has")
        what = f"classes={classes!r} has {len(names)}"
    else:
        first = next((source for source in sources if source.names is not None), sources[0])
        highest = max(int(source.labels.max(initial=-1)) for source in sources)
        names = list(map(str, range(highest + 1)) if first.names is None else first.names)
        for source in sources:
            _check_same(source, names, first)
        what = f"{first.where} has {len(names)} class ({_some(names)})"
    if len(names) < 2:
        raise InputError(f"{what}: there must be at least 2 classes.")
    return names


def class_numbers(source: ImageSource, classes: Sequence[str]) -> np.ndarray:
    """Return the class of every image as its position in `classes`, int64 [N].

    Raises:
        InputError: a class that is not in `classes`, or a number out of range.
    """
    _check_range(source, len(classes if source.names is None else source.names))
    if source.names is None:
        return source.labels
    position = {name: number for number, name in enumerate(classes)}
    numbers = np.array([position.get(name, -1) for name in source.names], np.int64)[source.labels]
    unknown = np.unique(source.labels[numbers < 0]).tolist()
    if unknown:
        names = _some(source.names[number] for number in unknown)
        raise InputError(
            f"{source.where} has the classes {names}, which are not in classes: add them there, or "
            "remove the images."
        )
    return numbers


def _check_unique(names: Sequence[str], what: str) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError(f"{what} {name!r} twice: name every class once.")


def _check_same(source: ImageSource, classes: Sequence[str], first: ImageSource) -> None:
    """Raise an error unless the source has exactly these classes, with an image of each."""
    if source.names is None and not all(name.isdigit() for name in classes):
        raise InputError(
            f"the labels of {source.where} are numbers and those of {first.where} names "
            f"({_some(classes)}): give classes: [...], the names in the order of the numbers."
        )
    names = classes if source.names is None else source.names
    _check_range(source, len(names))
    counts = np.bincount(source.labels, minlength=len(names))
    own = set(names)
    if source.names is None:
        own = {str(number) for number in np.flatnonzero(counts)}
    more, fewer = own - set(classes), set(classes) - own
    if more or fewer:
        differences = [f"has the classes {_some(sort_names(more))} beyond"] if more else []
        differences += [f"lacks the classes {_some(sort_names(fewer))} of"] if fewer else []
        whose = "the other domains" if source is first else first.where
        raise InputError(f"{source.where} {' and '.join(differences)} {whose}: {CORRECT}")
    if not counts.all():
        empty = names[int(counts.argmin())]
        raise InputError(f"{source.where} has no image of the class {empty!r}: {CORRECT}")


def _check_range(source: ImageSource, classes: int) -> None:
    bad = np.flatnonzero((source.labels < 0) | (source.labels >= classes)).tolist()
    if bad:
        raise InputError(
            f"{source.place(bad[0])} has the label {source.labels[bad[0]]}, outside 0 to "
            f"{classes - 1}: correct it, or the number of classes."
        )


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(map(repr, names[:LISTED])) + more
