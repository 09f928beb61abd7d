"""A picture of a proposal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tandem_pl.plots import shorten

from .proposal import Proposal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_LINES = 10  # metrics that a reader can tell apart
MOST_BARS = 30


def draw_proposal(proposal: Proposal) -> Figure:
    """Draw how the metrics change from the reference to the proposal, and both mixtures.

    Beyond ten metrics only their weighted sum has a name; beyond 30 domains the ones whose shares
    are largest are shown.
    """
    from matplotlib.figure import Figure

    steps, metrics = proposal.way()
    shown = list(proposal.weights)
    if len(shown) > MOST_BARS:
        shown = sorted(shown, key=lambda name: -proposal.weights[name])[:MOST_BARS]
    figure = Figure(figsize=(10, max(4.0, 1.2 + 0.28 * len(shown))), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    many = len(metrics) > MOST_LINES
    for name, values in metrics.items():
        left.plot(
            steps,
            values - values[0],
            color="0.75" if many else None,
            linewidth=1,
            label=None if many else shorten(name, 40),
        )
    if len(metrics) > 1:
        parts = [proposal.metric_weights[name] * values for name, values in metrics.items()]
        total = np.sum(parts, axis=0)
        left.plot(steps, total - total[0], color="black", linewidth=2, label="weighted sum")
    left.errorbar([1.0], [-proposal.gain], yerr=[proposal.error], color="black", fmt="o", capsize=4)
    left.axhline(0.0, color="0.6", linewidth=0.8)
    left.set(xlabel="from the reference (0) to the proposal (1)", ylabel="predicted change")
    left.legend(fontsize=7, frameon=False)
    heights = np.arange(len(shown))
    for offset, mixture, label in (
        (-0.2, proposal.reference, "reference"),
        (0.2, proposal.weights, "proposal"),
    ):
        right.barh(heights + offset, [mixture[name] for name in shown], 0.4, label=label)
    right.set_yticks(heights, [shorten(name, 32) for name in shown], fontsize=8)
    right.invert_yaxis()
    right.set_xlabel("share of samples")
    right.legend(fontsize=8, frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure
