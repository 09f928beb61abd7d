"""The mixture over steps, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tandem_pl.simplex import Array

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
