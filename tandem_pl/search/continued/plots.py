"""Pictures of the answers: losses over the domain's share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .cmr import CriticalRatios
from .shares import Outlook
from .table import SAME, Continued

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LENGTHS = 6  # curves that a reader can tell apart


def draw_critical_ratios(found: CriticalRatios, runs: Continued, tokens: float | None) -> Figure:
    """Draw the rise of the general loss over the share, and the critical ratio over tokens.

    Args:
        found: from `critical_ratios`.
        runs: of its size, whose losses are the points.
        tokens: length that was asked for; None for the longest runs.
    """
    left, right, figure = _two_axes()
    shares = np.geomspace(min(found.shares[0], 0.02), 1.0, 200)
    shown = np.unique(np.linspace(0, len(found.tokens) - 1, MOST_LENGTHS).round().astype(int))
    general = runs.losses("general")
    for number in shown.tolist():
        length = found.tokens[number]
        (line,) = left.plot(shares, found.laws[number].predict(shares) - found.start, lw=1.2)
        line.set_label(f"{length:.3g} tokens")
        own = np.isclose(runs.tokens, length, rtol=SAME)
        left.plot(runs.share[own], general[own] - found.start, ".", color=line.get_color())
    left.axhline(found.epsilon, color="black", lw=0.8, ls="--", label=f"ε = {found.epsilon:g}")
    ratio = found.at(tokens)
    left.axvline(ratio, color="black", lw=0.8)
    left.set(xlabel="share of the domain", ylabel="rise of the general loss")
    left.legend(fontsize=7, frameon=False)
    right.plot(found.tokens, found.ratios, "o", color="C0", ms=4, label="from the losses")
    length = found.tokens[-1] if tokens is None else tokens
    if found.over_tokens is not None:
        lengths = np.geomspace(found.tokens[0], max(length, found.tokens[-1]), 200)
        law = np.clip(found.over_tokens.predict(lengths), 0, 1)
        right.plot(lengths, law, color="C0", label="law")
    right.plot([length], [ratio], "D", color="black", label=f"{ratio:.3f}")
    right.set(xlabel="tokens", ylabel="critical ratio", xscale="log", ylim=(0, 1.02))
    right.legend(fontsize=8, frameon=False)
    return figure


def draw_shares(outlook: Outlook, share: float) -> Figure:
    """Draw the predicted losses over the share, and mark the one that was chosen."""
    left, right, figure = _two_axes()
    shares = np.linspace(0.005, 0.995, 199)
    curves = [(left, "domain loss", outlook.domain_loss)]
    if outlook.general is not None:
        curves.append((right, "general loss", outlook.general_loss))
    for axes, label, curve in curves:
        axes.plot(shares, curve(shares), color="C0")
        axes.plot([share], curve(np.array([share])), "D", color="black", label=f"{share:.3f}")
        axes.set(xlabel="share of the domain", ylabel=f"predicted {label}")
        axes.legend(fontsize=8, frameon=False)
    if outlook.general is None:
        figure.delaxes(right)
    elif outlook.start is not None:
        right.axhline(outlook.start, color="0.5", lw=0.8, ls="--")
    return figure


def _two_axes() -> tuple[Axes, Axes, Figure]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return left, right, figure
