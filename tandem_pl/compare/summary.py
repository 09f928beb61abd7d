"""The summary of several comparisons: regret, wins and losses, and perplexity, over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from tandem_pl.files import png_bytes, write_atomically
from tandem_pl.text_tables import markdown_table

from .cells import of_tokens
from .config import Comparison
from .regret import Array, bootstrap_regret, record, regrets, relative_perplexity
from .results import FRESH, NETWORK, Runs, network_name
from .statistics import CONFIDENCE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BOOTSTRAP_SEED = 0
SEVERAL = 2  # seeds, without which there is no interval


class Summary(NamedTuple):
    """Statistics over problems, with a row for each network, the least average regret first.

    `losses[problem]` has a column for each seed, `regret` and `perplexity` (exp of the loss over
    that of the baseline, less 1) one for each problem; images have no perplexity. `average` has
    the columns regret, low and high. `against` counts wins, ties and losses of a row against a
    column's, "" if there are none. `skipped` says which problems are left out, and why.
    """

    losses: dict[str, pd.DataFrame]
    regret: pd.DataFrame
    average: pd.DataFrame
    perplexity: pd.DataFrame
    against: pd.DataFrame
    baseline: str
    skipped: Mapping[str, str]


def summarize(
    comparisons: Sequence[Comparison], runs: Sequence[Runs], skipped: Mapping[str, str]
) -> Summary:
    """Compute the statistics from the runs of each comparison, which is a problem."""
    names = [comparison.name for comparison in comparisons]
    pairs = list(zip(comparisons, runs, strict=True))
    networks = list(dict.fromkeys(key for pair in pairs for key in _rows(*pair)))
    losses: dict[str, pd.DataFrame] = {}
    for comparison, one in pairs:
        frame = one.counted_losses.mean(axis=1).unstack("seed")
        frame = frame.reindex(pd.MultiIndex.from_tuples(networks, names=NETWORK))
        losses[comparison.name] = frame.reindex(columns=comparison.seeds)
    index = pd.MultiIndex.from_tuples(networks, names=NETWORK)
    arrays = [frame.to_numpy(np.float64) for frame in losses.values()]
    regret = pd.DataFrame(regrets(arrays), index, names)
    interval = np.full((len(networks), 2), np.nan)
    if min(array.shape[1] for array in arrays) >= SEVERAL:
        interval = bootstrap_regret(
            arrays, np.random.default_rng(BOOTSTRAP_SEED), confidence=CONFIDENCE
        )
    average = pd.DataFrame(interval, index, ["low", "high"])
    average.insert(0, "regret", regret.mean(axis=1, skipna=False))
    baseline = comparisons[0].baseline
    perplexity = _perplexity(comparisons, arrays, index, baseline)
    counts = [
        [str(record(arrays, row, other) or "") for other in range(len(networks))]
        for row in range(len(networks))
    ]
    order = np.argsort(average["regret"].to_numpy(), kind="stable")  # NaN come last
    return Summary(
        {name: frame.iloc[order] for name, frame in losses.items()},
        regret.iloc[order],
        average.iloc[order],
        perplexity.iloc[order],
        pd.DataFrame(counts, index, index).iloc[order, order],
        baseline,
        skipped,
    )


def _rows(comparison: Comparison, runs: Runs) -> list[tuple[str, str]]:
    """Return the networks that methods are judged by: with `network: online`, one for each."""
    networks = list(runs.networks.index)
    if comparison.network == "fresh":
        return networks
    return [(m, n) for m, n in networks if n == FRESH or (m, FRESH) not in networks]


def _perplexity(
    comparisons: Sequence[Comparison],
    arrays: Sequence[Array],
    index: pd.MultiIndex,
    baseline: str,
) -> pd.DataFrame:
    some = [n for n, comparison in enumerate(comparisons) if of_tokens(comparison)]
    if (baseline, FRESH) not in index or not some:
        return pd.DataFrame(index=index)
    base = list(index).index((baseline, FRESH))
    values = relative_perplexity([arrays[n] for n in some], base)
    return pd.DataFrame(values, index, [comparisons[n].name for n in some])


def summary_page(summary: Summary) -> str:
    """Return the whole page."""
    regret, baseline = summary.regret, summary.baseline
    problems = list(regret.columns)
    total = len(problems) + len(summary.skipped)
    seeds = sorted({frame.shape[1] for frame in summary.losses.values()})
    count = (
        f"{len(problems)} problems"
        if not summary.skipped
        else (f"{len(problems)} of {total} problems")
    )
    text = (
        f"# Summary over {count}\n\n"
        f"{' or '.join(map(str, seeds))} seeds a problem. Regret is the mean test loss of a row "
        "less that of the problem's best row, in nats; its average has a "
        f"{100 * CONFIDENCE:.0f} % bootstrap interval over seeds. A problem is won or lost if the "
        f"paired {100 * CONFIDENCE:.0f} % Student t interval over seeds is without 0. Perplexity "
        f"is exp(mean loss) relative to {baseline}, averaged over the problems of text.\n"
    )
    for name, reason in summary.skipped.items():
        text += f"\nLeft out: **{name}**, which cannot be built here: {reason}\n"
    text += f"\n{_overview(summary)}\n"
    text += f"\n## Regret by problem\n\n{_table(regret, '{:.4f}')}\n"
    if len(summary.perplexity.columns):
        percents = 100 * summary.perplexity
        text += f"\n## Perplexity relative to {baseline}, in %\n\n{_table(percents, '{:+.1f}')}\n"
    names = [network_name(key) for key in regret.index]
    rows = [
        [name, *summary.against.loc[[key]].to_numpy()[0]]
        for name, key in zip(names, regret.index, strict=True)
    ]
    for number, row in enumerate(rows):
        row[number + 1] = ""
    text += "\n## Wins-ties-losses of each row against each column\n\n"
    return text + markdown_table(["", *names], rows) + "\n"


def _overview(summary: Summary) -> str:
    networks = list(summary.regret.index)
    versus = (summary.baseline, FRESH)
    rows = []
    for place, key in enumerate(networks):
        regret, low, high = summary.average.iloc[place]
        interval = "" if np.isnan(low) else f" [{low:.4f}, {high:.4f}]"
        ratio = summary.perplexity.iloc[place].mean(skipna=False)
        known = versus in networks and key != versus
        row = [
            network_name(key),
            "failed" if np.isnan(regret) else f"{regret:.4f}{interval}",
            f"{summary.regret.iloc[place].max():.4f}",
            summary.against.iloc[place, networks.index(versus)] if known else "",
            f"{100 * ratio:+.1f} %" if known and not np.isnan(ratio) else "",
        ]
        rows.append(row)
    against = f"vs {summary.baseline}"
    header = ["method", "average regret", "largest", f"wins-ties-losses {against}"]
    return markdown_table([*header, f"perplexity {against}"], rows)


def _table(frame: pd.DataFrame, form: str) -> str:
    rows = [
        [network_name(key), *("" if np.isnan(value) else form.format(value) for value in values)]
        for key, values in zip(frame.index, frame.to_numpy(), strict=True)
    ]
    return markdown_table(["method", *frame.columns], rows)


def summary_lines(summary: Summary) -> bytes:
    """Return CSV with a line for each network and problem, and one for the average over them."""
    frames = []
    for problem, losses in summary.losses.items():
        columns = {
            "seeds": losses.notna().sum(axis=1),
            "loss": losses.mean(axis=1),
            "sd": losses.std(axis=1),
            "regret": summary.regret[problem],
        }
        frame = pd.DataFrame(columns)
        if problem in summary.perplexity:
            frame["perplexity"] = summary.perplexity[problem]
        frames.append(frame.assign(problem=problem))
    average = summary.average.assign(problem="average")
    if len(summary.perplexity.columns):
        average["perplexity"] = summary.perplexity.mean(axis=1, skipna=False)
    table = pd.concat([*frames, average]).set_index("problem", append=True)
    names = ["seeds", "loss", "sd", "regret", "low", "high", "perplexity"]
    table = table.reindex(columns=names).astype({"seeds": "Int64"})
    table = table.reorder_levels(["problem", *NETWORK])
    return table.to_csv(lineterminator="\n", na_rep="nan").encode()


def draw_regret(summary: Summary) -> Figure | None:
    """Draw each row's average regret with its interval, and a dot for each problem."""
    from matplotlib.figure import Figure

    average = summary.average.dropna(subset="regret")
    average = average[np.isfinite(average["regret"])]
    if average.empty:
        return None
    figure = Figure(figsize=(8, 1.4 + 0.35 * max(len(average), 3)), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(average))
    axes.barh(places, average["regret"], color="C0", alpha=0.4, height=0.7)
    for place, (regret, low, high) in enumerate(average.to_numpy()):
        if not np.isnan(low):
            half = np.abs([[regret - low], [high - regret]])
            axes.errorbar(regret, place, xerr=half, color="0.2", capsize=3, linewidth=1.2)
    for number, problem in enumerate(summary.regret.columns):
        values = summary.regret.loc[average.index, problem]
        axes.plot(values, places, ".", color=f"C{number % 9 + 1}", markersize=7, label=problem)
    names = [network_name(key) for key in average.index]
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(
        "regret: mean test loss less that of the problem's best row, in nats\n"
        f"bars: average over problems, with a {100 * CONFIDENCE:.0f} % interval over seeds",
        fontsize=8,
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def write_summary(folder: Path, summary: Summary) -> tuple[str, list[Path]]:
    """Write the page, the lines and the picture; return the page and the paths."""
    page, figure = summary_page(summary), draw_regret(summary)
    contents = {"summary.md": page.encode(), "summary.csv": summary_lines(summary)}
    if figure is not None:
        contents["summary.md"] += b"\n![Regret](summary.png)\n"
        contents["summary.png"] = png_bytes(figure)
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return page, [folder / name for name in contents]
