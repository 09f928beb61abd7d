"""How many samples of a batch each domain gets."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def allocate(debts: Floats, weights: Floats, slots: int) -> tuple[Ints, Floats]:
    """Return how many samples each domain gets in a batch, by debt.

    A batch adds `slots` times the weights to the debts. Each slot then goes to the domain with the
    largest debt (ties to the lowest number), and repays one unit of it. Debts carry over batches
    and weight changes, so a debt is exactly the samples asked for less the samples drawn. Under one
    mixture no domain is ever a whole sample ahead, and rarely more than one behind; with changing
    positive weights it is behind by at most 1/2 + ... + 1/M. Domains of weight 0 are never drawn;
    they keep their debt until they have a weight again.

    Args:
        debts: [M] samples asked for less samples drawn so far.
        weights: [M] shares, summing to 1.
        slots: samples in the batch.

    Returns:
        counts [M] and the new debts [M].

    >>> allocate(np.zeros(2), np.array([0.75, 0.25]), 4)[0].tolist()
    [3, 1]
    """
    active = np.flatnonzero(weights > 0)
    owed = debts[active] + slots * weights[active]
    # Water-filling: repay whole units down to a common level, then give the slots that are left to
    # the largest remainders.
    got = np.maximum(np.ceil(owed - _level(owed, slots)) - 1.0, 0.0)
    rest, left = owed - got, slots - int(got.sum())
    if left:
        least = np.partition(rest, -left)[-left]
        above, ties = rest > least, np.flatnonzero(rest == least)
        got[above] += 1.0
        got[ties[: left - np.count_nonzero(above)]] += 1.0
    debts, counts = debts.copy(), np.zeros(len(weights), np.int64)
    debts[active], counts[active] = owed - got, got.astype(np.int64)
    return counts, debts


def _level(owed: Floats, slots: int) -> float:
    """Return the level above which `owed` sums to `slots`."""
    level = (owed.sum() - slots) / len(owed)  # the level if all were above it: too low
    while True:
        above = owed[owed > level]
        higher = (above.sum() - slots) / len(above)
        if higher <= level:
            return float(level)
        level = higher


def draw(debts: Floats, weights: Floats, slots: int, key: list[int]) -> tuple[Ints, Floats]:
    """Allocate by independent multinomial draws seeded by `key`, as published methods do."""
    counts = np.random.default_rng(key).multinomial(slots, weights)
    return counts, debts + slots * weights - counts
