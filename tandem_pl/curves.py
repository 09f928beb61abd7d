"""Which domains have curves in the loggers, and the tags of these curves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from .simplex import Array

MOST_CURVES = 30  # domains with curves; of more domains, the largest have them
AHEAD = 2.0  # weight ratio at which a domain replaces one that has curves

Places = NDArray[np.int64]  # indices of domains


def with_curves(
    weights: Array, before: Iterable[int] = (), most: int = MOST_CURVES, ahead: float = AHEAD
) -> Places:
    """Return the indices of the domains that have curves, ascending.

    A domain keeps its curves until a domain without curves has more than `ahead` times its weight.
    This avoids curves with gaps, and curves that come and go with noise.

    Args:
        weights: [M].
        before: indices of the domains that have curves so far.
        most: largest number of domains with curves.
        ahead: weight ratio for a replacement.

    >>> with_curves(np.array([0.3, 0.2, 0.5]), most=2).tolist()
    [0, 2]
    >>> with_curves(np.array([0.3, 0.35, 0.35]), [0, 2], most=2).tolist()
    [0, 2]
    """
    if len(weights) <= most:
        return np.arange(len(weights))
    order = np.argsort(-weights, kind="stable")
    had = np.zeros(len(weights), bool)
    had[list(before)] = True
    inside = order[had[order]][:most]
    outside = order[~had[order]][:most]
    room = most - len(inside)
    inside, outside = np.concatenate([inside, outside[:room]]), outside[room:]
    inside = inside[np.argsort(weights[inside], kind="stable")]  # smallest first
    size = min(len(inside), len(outside))
    better = weights[outside[:size]] > ahead * weights[inside[:size]]
    count = int(better.argmin()) if not better.all() else size  # the first `count` pairs swap
    return np.sort(np.concatenate([inside[count:], outside[:count]]))


def by_name(
    tag: str, names: Sequence[str], values: Sequence[float] | Array, places: Iterable[int]
) -> dict[str, float]:
    """Return `tag/NAME` -> value for the domains at these indices, without those that are NaN.

    >>> by_name("loss", ["a", "b", "c"], [0.5, float("nan"), 2.0], [1, 2])
    {'loss/c': 2.0}
    """
    pairs = ((names[m], float(values[m])) for m in places)
    return {f"{tag}/{name}": value for name, value in pairs if value == value}


def domain_tags(names: Iterable[str]) -> tuple[str, ...]:
    """Return the last part of each domain's tags: its name, changed if loggers cannot show it.

    TensorBoard's custom charts lose curves with a parenthesis in their tags, so parentheses become
    brackets. Characters that do not print become spaces. If the changed name is the name of
    another domain, a number is added.

    >>> domain_tags(["c++", "news/uk", "web (2024)", "web [2024]"])
    ('c++', 'news/uk', 'web [2024] 2', 'web [2024]')
    """
    names = list(names)
    taken = {name for name in names if _clean(name) == name}
    tags = []
    for name in names:
        tag = cleaned = _clean(name)
        number = 2
        while tag != name and tag in taken:
            tag, number = f"{cleaned} {number}", number + 1
        taken.add(tag)
        tags.append(tag)
    return tuple(tags)


def _clean(name: str) -> str:
    name = name.replace("(", "[").replace(")", "]")
    return name if name.isprintable() else "".join(c if c.isprintable() else " " for c in name)
