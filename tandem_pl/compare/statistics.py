"""Statistics over seeds: means, intervals, and paired differences to the baseline."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import t

from .results import FRESH, NETWORK, RUN

CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """Mean and standard deviation (n - 1) of `number` values, and a Student t interval of the mean.

    Each is a number, or a frame of numbers. `sd`, `low` and `high` are NaN for a single value.
    """

    mean: Any
    sd: Any
    low: Any
    high: Any
    number: Any


def estimate(values: Any) -> Estimate:
    """Estimate from a series of values, or for each column of grouped rows; NaN do not count.

    >>> [round(float(number), 3) for number in estimate(pd.Series([1.0, 2.0, 3.0]))]
    [2.0, 1.0, -0.484, 4.484, 3.0]
    """
    number, mean, sd = values.count(), values.mean(), values.std()
    half = t.ppf(0.5 + CONFIDENCE / 2, number - 1) * sd / number**0.5
    return Estimate(mean, sd, mean - half, mean + half, number)


def over_seeds(values: pd.DataFrame) -> Estimate:
    """Estimate each column of a frame of runs, with a row for each network."""
    return estimate(values.groupby(level=NETWORK, sort=False))


def metrics(losses: pd.DataFrame) -> pd.DataFrame:
    """Return averages over the domains, which count the same, for each row.

    "loss" is the mean loss in nats, "perplexity" the mean of exp(loss), and "geometric" the exp of
    the mean loss.

    >>> metrics(pd.DataFrame({"a": [0.0], "b": [2.0]})).round(4).values.tolist()
    [[1.0, 4.1945, 2.7183]]
    """
    loss = losses.mean(axis=1)
    means = {"loss": loss, "perplexity": perplexities(losses).mean(axis=1)}
    return pd.DataFrame(means | {"geometric": perplexities(loss)})


def perplexities(losses: Any) -> Any:
    """Return exp(loss), which is inf for a network that diverged."""
    with np.errstate(over="ignore"):
        return np.exp(losses)


def differences(values: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Return each run's values minus those of the baseline's fresh network with the same seed."""
    method, network, seed = (values.index.get_level_values(level) for level in RUN)
    rows = values[(method == baseline) & (network == FRESH)].droplevel(NETWORK)
    return values - rows.reindex(seed).to_numpy()
