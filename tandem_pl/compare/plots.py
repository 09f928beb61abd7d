"""The pictures of a comparison: differences to the baseline, and the mixtures."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .config import Comparison
from .statistics import CONFIDENCE, Row, paired
from .tables import MOST_DOMAINS, baseline_row, domains_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_differences(comparison: Comparison, rows: Sequence[Row]) -> Figure:
    """A bar for each row: mean of perplexities less the baseline's, with interval and seeds.

    Bars start at 0, the baseline. Fresh networks and online ones have colours of their own.
    """
    from matplotlib.figure import Figure  # not pyplot: no global state, no display
    from matplotlib.patches import Patch

    baseline = baseline_row(comparison, rows)
    values = baseline.values("perplexity")
    shown = [row for row in rows if row is not baseline and set(row.results) & set(values)]
    gaps = [paired(row.values("perplexity"), values) for row in shown]
    order = sorted(range(len(shown)), key=lambda i: gaps[i].mean)
    figure = Figure(figsize=(8, 1.2 + 0.32 * max(len(shown), 3)), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for place, i in enumerate(order):
        row, gap = shown[i], gaps[i]
        colour = "C0" if row.stage == "final" else "C1"
        axes.barh(place, gap.mean, color=colour, alpha=0.55, height=0.7)
        if not math.isnan(gap.low):
            half = [[gap.mean - gap.low], [gap.high - gap.mean]]
            axes.errorbar(gap.mean, place, xerr=half, color="0.2", capsize=3, linewidth=1.2)
        seeds = [v - values[seed] for seed, v in row.values("perplexity").items() if seed in values]
        axes.plot(seeds, [place] * len(seeds), ".", color="0.2", markersize=5)
    _limit(axes, [row.values("perplexity") for row in shown], values)
    axes.axvline(0, color="0.4", linewidth=1)
    axes.set_yticks(range(len(order)), [shown[i].name for i in order], fontsize=8)
    axes.invert_yaxis()
    percent = round(100 * CONFIDENCE)
    axes.set_xlabel(
        f"mean test perplexity less that of {comparison.baseline} (left: better)\n"
        f"dots: seeds; lines: {percent} % interval of the paired difference",
        fontsize=8,
    )
    axes.spines[["top", "right"]].set_visible(False)
    if "learn" in {row.stage for row in shown}:
        names = {"C0": "fresh network", "C1": "online network"}
        patches = [Patch(color=c, alpha=0.55, label=name) for c, name in names.items()]
        axes.legend(handles=patches, frameon=False, fontsize=8)
    return figure


def draw_mixtures(rows: Sequence[Row]) -> Figure:
    """A stacked bar for each method: the shares of the final run, mean over the seeds.

    Domains beyond the 20 with the largest weight are one band, "others".
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    shown = [row for row in rows if row.stage == "final" and row.results]
    names = list(next(iter(shown[0].results.values()))["weights"]) if shown else domains_of(rows)
    shares = np.array([[row.domain(m, "weights").mean for m in names] for row in shown])
    if len(names) > MOST_DOMAINS:
        order = np.argsort(-shares.max(axis=0), kind="stable")
        top, rest = np.sort(order[: MOST_DOMAINS - 1]), order[MOST_DOMAINS - 1 :]
        shares = np.column_stack([shares[:, top], shares[:, rest].sum(axis=1)])
        names = [*(names[m] for m in top), f"{len(rest)} others"]
    colours = colormaps["tab10" if len(names) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    figure = Figure(figsize=(8, 1.4 + 0.32 * max(len(shown), 3)), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(shown))
    left = np.zeros(len(shown))
    for m, name in enumerate(names if shown else []):
        colour = colours[m % len(colours)]
        axes.barh(places, shares[:, m], left=left, color=colour, label=name, height=0.75)
        for place in places[shares[:, m] >= 0.045]:
            middle = left[place] + shares[place, m] / 2
            text = f"{100 * shares[place, m]:.0f}"
            axes.text(middle, place, text, ha="center", va="center", fontsize=7, color="white")
        left += shares[:, m]
    axes.set_yticks(places, [row.name for row in shown], fontsize=8)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1))
    axes.set_xlabel("share of samples in the final run, mean over seeds; numbers in %", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    if shown:
        figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def to_png(figure: Figure) -> bytes:
    """The picture's bytes."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def _limit(axes: object, values: Sequence[dict[int, float]], baseline: dict[int, float]) -> None:
    """Keeps the view on the seeds: with few of them an interval may be many times as wide."""
    gaps = [v - baseline[s] for row in values for s, v in row.items() if s in baseline]
    gaps = [gap for gap in gaps if math.isfinite(gap)]
    if not gaps:
        return
    low, high = min([0.0, *gaps]), max([0.0, *gaps])
    margin = 0.35 * (high - low or 1.0)
    axes.set_xlim(low - margin, high + margin)  # type: ignore[attr-defined]
