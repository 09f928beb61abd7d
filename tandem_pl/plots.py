"""The mixture over steps, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .simplex import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_DOMAINS = 20  # bands that a reader can tell apart


def draw_mixture(domains: Sequence[str], steps: Sequence[int], trajectory: Array) -> Figure:
    """Stacked areas of the weights over steps, last shares written beside.

    Args:
        domains: [M] names, stacked from the bottom in this order.
        steps: [T] ascending.
        trajectory: [T, M] weights.

    Domains beyond the 20 largest (by last weight) are one band, "others".
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    names, bands = list(domains), np.asarray(trajectory).T
    if len(names) > MOST_DOMAINS:
        order = np.argsort(-bands[:, -1], kind="stable")
        top = np.sort(order[: MOST_DOMAINS - 1])
        rest = bands.sum(axis=0) - bands[top].sum(axis=0)
        names = [names[m] for m in top] + [f"{len(domains) - len(top)} others"]
        bands = np.vstack([bands[top], rest])
    if len(steps) == 1:  # an area needs two ends
        steps, bands = [steps[0], steps[0] + 1], np.repeat(bands, 2, axis=1)
    colours = colormaps["tab10" if len(names) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    figure = Figure(figsize=(8, 4), dpi=100)
    axes = figure.add_axes((0.08, 0.13, 0.72, 0.84))  # room for the names on the right
    axes.stackplot(steps, bands, colors=colours[: len(names)], linewidth=0)
    axes.set(xlabel="step (proxy batches)", ylabel="share of samples", ylim=(0, 1))
    axes.set_xlim(steps[0], max(steps[-1], steps[0] + 1))
    middles = np.cumsum(bands[:, -1]) - bands[:, -1] / 2
    gap = 0.9 / max(len(names), 18)
    for m, at in enumerate(_spread(middles, gap)):
        axes.annotate(
            f"{names[m]} {100 * bands[m, -1]:.1f} %",
            (1.01, at),
            xycoords="axes fraction",
            va="center",
            fontsize=8,
            color=colours[m % len(colours)],
            annotation_clip=False,
        )
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_signal(domains: Sequence[str], means: Array, halves: Array) -> Figure:
    """The centred hyper-gradient of each domain with its interval, from top to bottom.

    Args:
        domains: [M] names.
        means: [M] nats; below 0, the domain is being raised.
        halves: [M] half widths of the intervals; NaN for none.

    Of more than 40 domains, the 20 lowest and the 20 highest are shown.
    """
    from matplotlib.figure import Figure

    order = np.argsort(means, kind="stable")
    if len(order) > 2 * MOST_DOMAINS:
        order = np.concatenate([order[:MOST_DOMAINS], order[-MOST_DOMAINS:]])
    places = np.arange(len(order))
    figure = Figure(figsize=(8, 0.8 + 0.24 * max(len(order), 3)), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(0, color="0.6", linewidth=1)
    axes.errorbar(
        means[order], places, xerr=np.nan_to_num(halves[order]), fmt="o", capsize=3, color="C0"
    )
    axes.set_yticks(places, [domains[m] for m in order], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("Δ less its mean over the domains, last half of the run (nats); left: rising")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _spread(places: Array, gap: float) -> Array:
    """Moves ascending label places in [0, 1] apart by at least `gap`."""
    places = places.copy()
    for m in range(1, len(places)):
        places[m] = max(places[m], places[m - 1] + gap)
    top = 1.0
    for m in range(len(places) - 1, -1, -1):
        places[m] = min(places[m], top)
        top = places[m] - gap
    return places
