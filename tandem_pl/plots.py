"""Pictures: the mixture over steps, and the signal of each domain.

Made with `matplotlib.figure.Figure` and not with pyplot, which keeps global state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .simplex import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_DOMAINS = 20  # bands that a reader can tell apart


def draw_mixture(
    domains: Sequence[str], steps: Sequence[int], trajectory: Array, average: Array
) -> Figure:
    """Draw the weights over steps as stacked areas, with the average weights beside them.

    If there are more than 20 domains, all except the 19 with the largest averages are one band,
    "others".

    Args:
        domains: [M] names, stacked from the bottom in this order.
        steps: [T] ascending.
        trajectory: [T, M] weights.
        average: [M] weights to train with, which the numbers are.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    names, bands, shares = list(domains), np.asarray(trajectory).T, np.asarray(average)
    if len(names) > MOST_DOMAINS:
        order = np.argsort(-shares, kind="stable")
        top = np.sort(order[: MOST_DOMAINS - 1])
        rest = bands.sum(axis=0) - bands[top].sum(axis=0)
        names = [names[m] for m in top] + [f"{len(domains) - len(top)} others"]
        bands = np.vstack([bands[top], rest])
        shares = np.append(shares[top], shares.sum() - shares[top].sum())
    if len(steps) == 1:  # an area needs two ends
        steps, bands = [steps[0], steps[0] + 1], np.repeat(bands, 2, axis=1)
    colours = colormaps["tab10" if len(names) <= 10 else "tab20"].colors  # type: ignore[attr-defined]  # Colormap's stubs lack it
    figure = Figure(figsize=(8, 4), dpi=100)
    axes = figure.add_axes((0.08, 0.13, 0.72, 0.84))  # leaves space for the names on the right
    axes.stackplot(steps, bands, colors=colours[: len(names)], linewidth=0)
    axes.set(
        xlabel="step (proxy batches); numbers: average weights",
        ylabel="share of samples",
        ylim=(0, 1),
    )
    axes.set_xlim(steps[0], max(steps[-1], steps[0] + 1))
    middles = np.cumsum(bands[:, -1]) - bands[:, -1] / 2
    gap = 0.9 / max(len(names), 18)
    for m, height in enumerate(_move_apart(middles, gap)):
        axes.annotate(
            f"{names[m]} {100 * shares[m]:.1f} %",
            (1.01, height),
            xycoords="axes fraction",
            va="center",
            fontsize=8,
            color=colours[m % len(colours)],
            annotation_clip=False,
        )
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_signal(domains: Sequence[str], means: Array, halves: Array) -> Figure:
    """Draw the centred hyper-gradient of each domain with its interval, from top to bottom.

    If there are more than 40 domains, it shows the 20 lowest and the 20 highest.

    Args:
        domains: [M] names.
        means: [M] nats; below 0, the method raises the weight of the domain.
        halves: [M] half widths of the intervals; NaN for no interval.
    """
    from matplotlib.figure import Figure

    order = np.argsort(means, kind="stable")
    if len(order) > 2 * MOST_DOMAINS:
        order = np.concatenate([order[:MOST_DOMAINS], order[-MOST_DOMAINS:]])
    heights = np.arange(len(order))
    figure = Figure(figsize=(8, 0.8 + 0.24 * max(len(order), 3)), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(0, color="0.6", linewidth=1)
    axes.errorbar(
        means[order], heights, xerr=np.nan_to_num(halves[order]), fmt="o", capsize=3, color="C0"
    )
    axes.set_yticks(heights, [domains[m] for m in order], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("Δ less its mean over the domains, last half of the run (nats); left: rising")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def shorten(text: str, letters: int) -> str:
    """Return the text, cut to at most so many letters.

    >>> shorten("a long name", 7)
    'a long…'
    """
    return text if len(text) <= letters else text[: letters - 1] + "…"


def _move_apart(heights: Array, gap: float) -> Array:
    """Return ascending heights in [0, 1], moved so that neighbours are at least `gap` apart."""
    heights = heights.copy()
    for m in range(1, len(heights)):
        heights[m] = max(heights[m], heights[m - 1] + gap)
    top = 1.0
    for m in range(len(heights) - 1, -1, -1):
        heights[m] = min(heights[m], top)
        top = heights[m] - gap
    return heights
