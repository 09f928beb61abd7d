"""The picture of a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tandem_pl.plots import shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_NUMBERED = 20  # classes, up to which cells show their share
MOST_NAMED = 100  # names that fit along an axis
LONGEST = 24  # letters of a name


def draw_confusion(counts: NDArray, names: Sequence[str]) -> Figure:
    """Draw the share of each label's samples by predicted class, with labels from top to bottom.

    Colours go with the square root of the share, so that rare confusions are visible. With up to
    20 classes, cells show their share in percent; with more than 100, only some classes are named.

    Args:
        counts: [C, C] samples; rows are labels.
        names: [C] of the classes.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    size = len(counts)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.where(totals > 0, counts / np.maximum(totals, 1), np.nan)
    side = float(np.clip(0.5 * size, 2.5, 13))  # inches of the square
    ticks = range(0, size, -(-size // MOST_NAMED))
    texts = [shorten(names[number], LONGEST) for number in ticks]
    font = float(np.clip(0.62 * 72 * side / len(ticks), 4, 9))  # points
    room = 0.45 + 0.6 * font / 72 * max(map(len, texts))  # inches for the names, left and below
    width, height = room + side + 1.0, room + side + 0.35
    figure = Figure(figsize=(width, height), dpi=100)
    axes = figure.add_axes((room / width, room / height, side / width, side / height))
    axes.set_facecolor("0.9")  # of labels without samples
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    axes.set_xticks(ticks, texts, fontsize=font, rotation=90, parse_math=False)
    axes.set_yticks(ticks, texts, fontsize=font, parse_math=False)
    axes.tick_params(length=2)
    axes.set(xlabel="predicted", ylabel="label")
    right, total = int(np.trace(counts)), int(counts.sum())
    axes.set_title(f"{right} of {total} right ({100 * right / max(total, 1):.1f} %)", fontsize=10)
    beside = ((room + side + 0.2) / width, (room + side - 2.4) / height, 0.2 / width, 2.4 / height)
    bar = figure.colorbar(image, cax=figure.add_axes(beside), ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
    bar.ax.set_yticklabels(["0 %", "1 %", "5 %", "20 %", "50 %", "100 %"], fontsize=8)
    if size <= MOST_NUMBERED:
        for row, column in np.argwhere(counts > 0):
            share = shares[row, column]
            colour = "white" if share > 0.3 else "black"
            text = f"{100 * share:.0f}" if share >= 0.01 else "<1"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    return figure
