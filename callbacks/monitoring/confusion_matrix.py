"""How often each class is taken for each other: counted, drawn, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_NUMBERED = 20  # classes, up to which cells have their share written in
MOST_NAMED = 100  # names that fit along an axis; of more classes, only some are named
LONGEST = 24  # letters of a name in the picture


def count_confusions(labels: NDArray, classes: NDArray, size: int) -> NDArray:
    """[size, size] int64: samples of each label (rows) by the predicted class (columns).

    >>> count_confusions(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    return np.bincount(labels * size + classes, minlength=size * size).reshape(size, size)


def confusion_csv(counts: NDArray, names: Sequence[str]) -> bytes:
    """A row for each label, a column for each predicted class.

    >>> print(confusion_csv(np.array([[1, 1], [0, 1]]), ["cat", "dog"]).decode(), end="")
    label,cat,dog
    cat,1,1
    dog,0,1
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["label", *names])
    writer.writerows([name, *row] for name, row in zip(names, counts.tolist(), strict=True))
    return text.getvalue().encode()


def confusion_png(counts: NDArray, names: Sequence[str]) -> bytes:
    """The picture as a file."""
    file = io.BytesIO()
    draw_confusion(counts, names).savefig(file, format="png")
    return file.getvalue()


def draw_confusion(counts: NDArray, names: Sequence[str]) -> Figure:
    """Shares of each label's samples by the predicted class; labels from top to bottom.

    Colours go with the square root of the share, so that rare confusions can be seen. Up to 20
    classes, cells have their share in percent; of more than 100, only some are named.

    Args:
        counts: [C, C], rows are labels.
        names: [C] of the classes.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    size = len(counts)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.where(totals > 0, counts / np.maximum(totals, 1), np.nan)
    side = float(np.clip(0.5 * size, 2.5, 13))  # inches of the square
    ticks = range(0, size, -(-size // MOST_NAMED))
    texts = [_short(names[number]) for number in ticks]
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


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
