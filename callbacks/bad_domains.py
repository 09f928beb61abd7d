"""Names of domains in warnings: whose numbers are not finite, or whose weights stay 0."""

from collections.abc import Iterable, Sequence

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from tandem_pl.domain_names import first_names
from tandem_pl.simplex import Array

MOST = 5  # named


def bad_domains(names: Sequence[str], values: Array) -> str:
    """Return the names of the columns of `values` [..., M] that are not finite, as `list_domains`.

    >>> bad_domains(["web", "code"], np.array([[1.0, 2.0], [3.0, np.nan]]))
    'domains: code; '
    """
    return list_domains(names, np.nonzero(~np.isfinite(values))[-1])


def list_domains(names: Sequence[str], numbers: Iterable[float]) -> str:
    """Return the names of domains, given by number in any order and repeated; "" for none.

    >>> list_domains("abcdefg", [6, 0, 1, 2, 3, 4, 1])
    'domains: a, b, c, d, e and 1 more; '
    """
    found = [names[number] for number in sorted({int(n) for n in numbers})]
    return f"domains: {first_names(found, MOST)}; " if found else ""


def warn_of_zeros(names: Sequence[str], weights: Array) -> None:
    """Warn of the domains whose weight [M] is 0, for methods whose updates multiply weights."""
    zeros = [name for name, weight in zip(names, weights.tolist(), strict=True) if not weight]
    if zeros:
        rank_zero_warn(
            f"{first_names(zeros, MOST)} begin with a weight of 0, which stays 0 because updates "
            "multiply it: give them some weight if it is to be learned."
        )
