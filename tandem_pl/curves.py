"""Which domains have curves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from .simplex import Array

MOST_CURVES = 30  # domains with curves of their own; of more, the largest
AHEAD = 2.0  # times the weight of a domain with curves that takes its curves away

Places = NDArray[np.int64]


def with_curves(
    weights: Array, before: Iterable[int] = (), most: int = MOST_CURVES, ahead: float = AHEAD
) -> Places:
    """Numbers of the domains that have curves, ascending: all of few, the largest of many.

    So that curves have no gaps, and do not come and go with noise, a domain keeps its curves until
    one without has more than `ahead` times its weight.

    Args:
        weights: [M].
        before: domains that have curves so far.
        most: number of domains with curves.
        ahead: see above.

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
    inside = order[had[order]][:most]  # from large to small
    outside = order[~had[order]][:most]
    room = most - len(inside)
    inside, outside = np.concatenate([inside, outside[:room]]), outside[room:]
    inside = inside[np.argsort(weights[inside], kind="stable")]  # from small to large
    size = min(len(inside), len(outside))
    better = weights[outside[:size]] > ahead * weights[inside[:size]]
    count = int(better.argmin()) if not better.all() else size  # the first pairs that change places
    return np.sort(np.concatenate([inside[count:], outside[:count]]))


def by_name(
    tag: str, names: Sequence[str], values: Sequence[float] | Array, places: Iterable[int]
) -> dict[str, float]:
    """`tag/NAME` -> value at these places; a NaN, which stands for nothing known, is left out.

    >>> by_name("loss", ["a", "b", "c"], [0.5, float("nan"), 2.0], [1, 2])
    {'loss/c': 2.0}
    """
    pairs = ((names[m], float(values[m])) for m in places)
    return {f"{tag}/{name}": value for name, value in pairs if value == value}
