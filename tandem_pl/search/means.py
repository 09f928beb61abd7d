"""Metrics that are a weighted mean of others, such as a loss over several target domains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tandem_pl.simplex import Array

TOLERANCE = 1e-6  # of the values, between a metric and the mean
MEAN = "/mean"


def names_of_parts(metric: str, columns: Sequence[str]) -> list[str]:
    """Return the columns that a metric may be the mean of, by their names.

    >>> names_of_parts("metric/loss", ["metric/loss", "metric/loss/web", "metric/loss/code"])
    ['metric/loss/web', 'metric/loss/code']
    >>> names_of_parts("loss/mean", ["loss/web", "loss/code", "loss/mean", "metric/other"])
    ['loss/web', 'loss/code']
    """
    starts = f"{metric.removesuffix(MEAN)}/"
    return [name for name in columns if name.startswith(starts) and name != metric]


def shares_in_mean(values: Array, parts: Mapping[str, Array]) -> dict[str, float]:
    """Return the share of each part in the mean that a metric is; none if it is no such mean.

    Args:
        values: [N] the metric.
        parts: name -> [N].

    >>> parts = {"a": np.array([1.0, 2.0, 4.0]), "b": np.array([3.0, 2.0, 5.0])}
    >>> shares_in_mean(0.25 * parts["a"] + 0.75 * parts["b"], parts)
    {'a': 0.25, 'b': 0.75}
    >>> shares_in_mean(parts["a"] ** 2, parts)
    {}
    """
    from scipy.optimize import nnls

    table = np.column_stack([*parts.values()]) if parts else np.empty((len(values), 0))
    number = table.shape[1]
    if number < 2 or not (np.isfinite(table).all() and np.isfinite(values).all()):
        return {}
    shares = np.full(number, 1.0 / number)
    scale = np.abs(values).max()
    if np.abs(table @ shares - values).max() > TOLERANCE * scale:
        if len(values) <= number:
            return {}  # any numbers would do
        shares = nnls(table, values)[0].round(6)
        off = max(np.abs(table @ shares - values).max() / scale, abs(shares.sum() - 1.0))
        if off > 10 * TOLERANCE:
            return {}
    return dict(zip(parts, shares.tolist(), strict=True))
