"""Scalars and histograms of the mixture and of the sampler, by tag."""

from __future__ import annotations

import math

import numpy as np

from tandem_pl.callbacks.reweighting import ReweightingCallback
from tandem_pl.curves import MOST_CURVES, Places, by_name
from tandem_pl.simplex import Array

TAGS = {"share": "sampler/drawn", "requested": "sampler/requested"}  # of columns; else seen/COLUMN


def sampler_scalars(
    columns: dict[str, Array], tags: tuple[str, ...], curves: Places
) -> dict[str, float]:
    """Return what was drawn and requested so far.

    Args:
        columns: [M] arrays of `MixtureDataModule.seen_arrays`.
        tags: [M] last parts of the domains' tags.
        curves: indices of the domains that have curves.
    """
    scalars: dict[str, float] = {}
    for key, values in columns.items():
        scalars |= by_name(TAGS.get(key, f"seen/{key}"), tags, values, curves)
    gaps = np.abs(columns["share"] - columns["requested"])
    scalars["sampler/largest_gap"] = float(columns["samples"].sum() * gaps.max())
    if len(tags) > MOST_CURVES:
        scalars["seen/most_epochs"] = float(columns["epochs"].max())
        scalars["seen/never_drawn"] = float((columns["samples"] == 0).mean())
    return scalars


def weight_scalars(reweighting: ReweightingCallback) -> dict[str, float]:
    """Return how the weights spread over the domains."""
    weights = reweighting.weights
    positive = weights[weights > 0]
    entropy = float(-(positive * np.log(positive)).sum())
    scalars = {"mixture/entropy": entropy, "mixture/effective_domains": math.exp(entropy)}
    if len(weights) > MOST_CURVES:
        scalars["mixture/largest_weight"] = float(weights.max())
        at_lowest = weights <= reweighting.lowest() * (1 + 1e-9)
        scalars["mixture/at_lowest"] = float(at_lowest.mean())
    return scalars


def steadiness_scalars(reweighting: ReweightingCallback) -> dict[str, float]:
    """Return how far the average went, whether it stays, and how many moves are significant."""
    found = reweighting.steadiness
    if found is None:
        return {}
    scalars = {"mixture/distance": found.distance}
    if found.judged:
        scalars["mixture/drift"] = found.stability.moved
        scalars["mixture/fluctuation"] = found.stability.fluctuation
        scalars["mixture/settled"] = float(found.stability.verdict == "settled")
    if found.significant is not None:
        scalars["mixture/significant"] = float(found.significant.sum())
    return scalars


def band_scalars(reweighting: ReweightingCallback) -> dict[str, float]:
    """Return hyper-gradients minus and plus their standard errors; nothing for many domains."""
    scalars: dict[str, float] = {}
    if len(reweighting.domains) > MOST_CURVES:
        return scalars
    for name in reweighting.tags:
        value = reweighting.metrics.get(f"hypergradient/{name}")
        error = reweighting.metrics.get(f"hypergradient_error/{name}")
        if value is not None and error is not None:
            scalars[f"hypergradient_band/{name}/lower"] = value - error
            scalars[f"hypergradient_band/{name}/upper"] = value + error
    return scalars


def histograms(reweighting: ReweightingCallback) -> dict[str, Array]:
    """Return the values for histograms of the last update; nothing for few domains."""
    size = len(reweighting.weights)
    if size <= MOST_CURVES:
        return {}
    values = {"histogram/weight_over_uniform": size * reweighting.weights}
    signal = reweighting.record.measured(reweighting.steps[-1])
    if signal is not None:
        names = reweighting.signal_columns
        known = signal[names.index("samples")] > 0 if "samples" in names else slice(None)
        values[f"histogram/{names[0]}"] = signal[0][known]
    return values
