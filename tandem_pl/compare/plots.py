"""The pictures of a comparison: differences to the baseline, and the mixtures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tandem_pl.plots import MOST_DOMAINS

from .cells import of_tokens
from .config import Comparison
from .results import FRESH, NETWORK, ONLINE, Runs, network_name
from .statistics import CONFIDENCE, differences, metrics, over_seeds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {FRESH: "C0", ONLINE: "C1"}


def draw_differences(comparison: Comparison, runs: Runs) -> Figure | None:
    """Draw a bar for each network: mean of perplexities (or losses) minus the baseline's.

    With intervals, and dots for the seeds; bars start at 0, the baseline. Losses are drawn if they
    are not of tokens. None if only the baseline has results.
    """
    from matplotlib.figure import Figure  # not pyplot: no global state, no display
    from matplotlib.patches import Patch

    metric = "perplexity" if of_tokens(comparison) else "loss"
    values = differences(metrics(runs.counted_losses)[[metric]], comparison.baseline)
    networks = values.index.droplevel("seed")
    values = values[networks != (comparison.baseline, FRESH)].dropna()
    if values.empty:
        return None
    mean, _, low, high, _ = (frame[metric] for frame in over_seeds(values))
    seeds = dict(list(values[metric].groupby(level=NETWORK)))
    order = mean.sort_values(kind="stable").index
    figure = Figure(figsize=(8, 1.2 + 0.32 * max(len(order), 3)), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for place, key in enumerate(order):
        axes.barh(place, mean[key], color=COLOURS[key[1]], alpha=0.55, height=0.7)
        if not np.isnan(low[key]):
            half = [[mean[key] - low[key]], [high[key] - mean[key]]]
            axes.errorbar(mean[key], place, xerr=half, color="0.2", capsize=3, linewidth=1.2)
        axes.plot(seeds[key], [place] * len(seeds[key]), ".", color="0.2", markersize=5)
    finite = values[np.isfinite(values)].dropna()
    if len(finite):  # with few seeds an interval may be many times as wide as they are apart
        left, right = min(0.0, finite[metric].min()), max(0.0, finite[metric].max())
        margin = 0.35 * (right - left or 1.0)
        axes.set_xlim(left - margin, right + margin)
    axes.axvline(0, color="0.4", linewidth=1)
    axes.set_yticks(range(len(order)), [network_name(key) for key in order], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(
        f"mean test {metric} minus that of {comparison.baseline} (left: better)\n"
        f"dots: seeds; lines: {100 * CONFIDENCE:.0f} % interval of the paired difference",
        fontsize=8,
    )
    axes.spines[["top", "right"]].set_visible(False)
    if ONLINE in order.get_level_values("network"):
        patches = [Patch(color=c, alpha=0.55, label=f"{n} network") for n, c in COLOURS.items()]
        axes.legend(handles=patches, frameon=False, fontsize=8)
    return figure


def draw_mixtures(runs: Runs) -> Figure | None:
    """Draw a stacked bar for each method: the shares of its last run, mean over the seeds.

    The domains after the 19 with the largest weights are one band, "others". None without results.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    mean = over_seeds(runs.weights).mean
    fresh = {method for method, network in runs.networks.index if network == FRESH}
    shown = [network == FRESH or method not in fresh for method, network in mean.index]
    mean = mean[shown].dropna()
    if mean.empty:
        return None
    names, shares = list(mean.columns), mean.to_numpy()
    if len(names) > MOST_DOMAINS:
        order = np.argsort(-shares.max(axis=0), kind="stable")
        top, rest = np.sort(order[: MOST_DOMAINS - 1]), order[MOST_DOMAINS - 1 :]
        shares = np.column_stack([shares[:, top], shares[:, rest].sum(axis=1)])
        names = [*(names[m] for m in top), f"{len(rest)} others"]
    colours = colormaps["tab10" if len(names) <= 10 else "tab20"]
    figure = Figure(figsize=(8, 1.4 + 0.32 * max(len(mean), 3)), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(mean))
    left = np.zeros(len(mean))
    for m, name in enumerate(names):
        axes.barh(places, shares[:, m], left=left, color=colours(m), label=name, height=0.75)
        for place in places[shares[:, m] >= 0.045]:
            middle = left[place] + shares[place, m] / 2
            text = f"{100 * shares[place, m]:.0f}"
            axes.text(middle, place, text, ha="center", va="center", fontsize=7, color="white")
        left += shares[:, m]
    axes.set_yticks(places, mean.index.get_level_values("method"), fontsize=8)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1))
    axes.set_xlabel("share of samples in the final run, mean over seeds; numbers in %", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure
