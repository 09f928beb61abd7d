"""Metrics that are a weighted mean of others, such as a loss over several target domains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from tandem_pl.simplex import Array

TOLERANCE = 1e-5  # of the largest value, between a metric and the mean
MEAN = "/mean"


def names_of_parts(metric: str, columns: Iterable[str]) -> list[str]:
    """Return the columns that a metric may be the mean of, by their names.

    >>> names_of_parts("metric/loss", ["metric/loss", "metric/loss/web", "metric/loss/code"])
    ['metric/loss/web', 'metric/loss/code']
    >>> names_of_parts("loss/mean", ["loss/web", "loss/code", "loss/mean", "metric/other"])
    ['loss/web', 'loss/code']
    """
    start = f"{metric.removesuffix(MEAN)}/"
    return [name for name in columns if name.startswith(start) and name != metric]


def find_parts(metric: str, columns: Mapping[str, Array]) -> dict[str, float]:
    """Return the share of each column in the weighted mean that a metric is; none if it is none.

    Columns directly below the metric are tried first, then those further below too. Columns with
    gaps, and copies of the metric, are no parts.

    Args:
        metric: one of the columns.
        columns: name -> [N] values.

    >>> columns = {"loss/a": np.array([1.0, 2.0, 4.0]), "loss/b": np.array([3.0, 2.0, 5.0])}
    >>> columns["loss/mean"] = 0.25 * columns["loss/a"] + 0.75 * columns["loss/b"]
    >>> find_parts("loss/mean", columns)
    {'loss/a': 0.25, 'loss/b': 0.75}
    >>> find_parts("loss/mean", columns | {"loss/mean": columns["loss/a"] ** 2})
    {}
    """
    values = columns[metric]
    scale = np.abs(values).max()
    if not (np.isfinite(scale) and scale > 0):
        return {}
    level = metric.removesuffix(MEAN).count("/") + 1
    names = [
        name
        for name in names_of_parts(metric, columns)
        if np.isfinite(columns[name]).all()
        and np.abs(columns[name] - values).max() > TOLERANCE * scale
    ]
    for tried in ([name for name in names if name.count("/") == level], names):
        shares = _shares(values, np.array([columns[name] for name in tried]), scale)
        found = {name: float(share) for name, share in zip(tried, shares, strict=True) if share > 0}
        if len(found) > 1:
            return found
    return {}


def _shares(values: Array, parts: Array, scale: float) -> Array:
    """Return [K] shares of the parts [K, N], zeros if their mean is not the values [N]."""
    from scipy.optimize import nnls

    number = len(parts)
    if number < 2:
        return np.zeros(number)
    shares = np.full(number, 1.0 / number)
    if np.abs(shares @ parts - values).max() <= TOLERANCE * scale:
        return shares
    if len(values) <= number:  # any values would be a mean
        return np.zeros(number)
    shares = nnls(parts.T, values)[0].round(6)
    off = max(np.abs(shares @ parts - values).max() / scale, abs(shares.sum() - 1.0))
    return shares if off <= TOLERANCE else np.zeros(number)
