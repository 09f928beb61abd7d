"""The tables of a comparison: Markdown for reading, CSV for working on."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .config import Comparison
from .statistics import CONFIDENCE, METRICS, Estimate, Row, paired

MOST_DOMAINS = 20  # columns that a page has room for


def markdown(comparison: Comparison, rows: Sequence[Row]) -> str:
    """The whole page."""
    parts = [f"# {comparison.name}\n", opening(comparison, rows), overview(comparison, rows)]
    domains = domains_of(rows)
    if domains:
        shown = domains[:MOST_DOMAINS]
        few = "" if shown == domains else f" (first {len(shown)} of {len(domains)} domains)"
        parts += [
            "\n## Test perplexity\n",
            perplexities(comparison, rows),
            f"\n## Test perplexity by domain{few}\n",
            by_domain(rows, shown, "perplexities", lambda e: spread(e, 2), "perplexity"),
            f"\n## Test loss by domain, in nats{few}\n",
            by_domain(rows, shown, "losses", lambda e: spread(e, 3), "loss"),
            f"\n## Share of samples and (passes over the domain){few}\n",
            shares(rows, shown),
        ]
    failed = failures(rows)
    if failed:
        parts += ["\n## What failed\n", failed]
    return "\n".join(parts) + "\n"


def opening(comparison: Comparison, rows: Sequence[Row]) -> str:
    """What was run, and how to read the tables."""
    count = len(comparison.seeds)
    percent = round(100 * CONFIDENCE)
    text = (
        f"{count} seed{'s' if count > 1 else ''}, {comparison.steps} batches a run. Averages weigh "
        f"the domains alike; ± is the standard deviation over seeds. Differences are to "
        f"{comparison.baseline}, seed by seed, with a {percent} % Student t interval; bold ones "
        "have an interval without 0. Cost is in plain runs (one proxy step, forward and backward, "
        "counts 1), all runs that a row needs together; minutes are measured, and several cells "
        "ran at once.\n"
    )
    if any(row.stage == "learn" for row in rows):
        text += (
            "\nA method's row is a fresh network trained at the mixture that it learned; the row "
            "marked online is the network that the mixture was learned with.\n"
        )
    return text


def overview(comparison: Comparison, rows: Sequence[Row]) -> str:
    """Mean loss, its difference to the baseline, and cost."""
    baseline = baseline_row(comparison, rows)
    lines = []
    for row in rows:
        if not row.results:
            lines.append([row.name, "failed", *[""] * 4])
            continue
        few = f" ({len(row.results)} of {len(comparison.seeds)} seeds)" if row.failures else ""
        cost = "" if row.cost is None else f"{row.cost:.2f}"
        lines.append(
            [
                row.name + few,
                *compared(row, baseline, "loss", 4),
                cost,
                str(row.extra_runs),
                f"{row.seconds / 60:.1f}",
            ]
        )
    against = f"vs {comparison.baseline}"
    return table(["method", "test loss", against, "cost", "extra runs", "minutes"], lines)


def perplexities(comparison: Comparison, rows: Sequence[Row]) -> str:
    """Perplexity averaged both ways, with differences to the baseline."""
    baseline = baseline_row(comparison, rows)
    lines = [
        [
            row.name,
            *compared(row, baseline, "perplexity", 3),
            *compared(row, baseline, "geometric", 3),
        ]
        for row in rows
        if row.results
    ]
    against = f"vs {comparison.baseline}"
    return table(["method", "mean of perplexities", against, "exp(mean loss)", against], lines)


def compared(row: Row, baseline: Row, metric: str, digits: int) -> list[str]:
    """A metric, and its difference to the baseline; "" for the baseline itself."""
    gap = paired(row.values(metric), baseline.values(metric))
    against = "" if row is baseline else difference(gap, digits)
    return [spread(row.estimate(metric), digits), against]


def by_domain(
    rows: Sequence[Row],
    domains: Sequence[str],
    key: str,
    show: Callable[[Estimate], str],
    metric: str,
) -> str:
    """A column for each domain, and their average."""
    lines = [
        [row.name, *(show(row.domain(name, key)) for name in domains), show(row.estimate(metric))]
        for row in rows
        if row.results
    ]
    return table(["method", *domains, "average"], lines)


def shares(rows: Sequence[Row], domains: Sequence[str]) -> str:
    """Mean weights over the seeds, and passes over each domain where they are known."""
    lines = []
    for row in rows:
        if not row.results:
            continue
        cells = [row.name]
        for name in domains:
            weight, epochs = row.domain(name, "weights"), row.domain(name, "epochs")
            passes = f" ({epochs.mean:.1f})" if epochs.number else ""
            cells.append(f"{weight.mean:.3f}{passes}")
        lines.append(cells)
    return table(["method", *domains], lines)


def failures(rows: Sequence[Row]) -> str:
    """What has no result and why, a line for each reason; "" where all have one."""
    lines = []
    for row in rows:
        for reason in dict.fromkeys(row.failures.values()):
            seeds = ", ".join(str(seed) for seed, why in row.failures.items() if why == reason)
            lines.append(f"- {row.name}, seed {seeds}: {reason}")
    return "\n".join(lines)


def results_csv(rows: Sequence[Row]) -> bytes:
    """A line for each cell and domain."""
    header = ["method", "network", "seed", "domain", "loss", "perplexity", "weight", "epochs"]
    lines: list[list[Any]] = []
    for row in rows:
        network = "online" if row.stage == "learn" else "fresh"
        for seed, run in row.results.items():
            for name, loss in run["losses"].items():
                perplexity = math.exp(loss) if loss < 700 else math.inf
                weight, epochs = ((run.get(k) or {}).get(name, "") for k in ("weights", "epochs"))
                lines.append([row.label, network, seed, name, loss, perplexity, weight, epochs])
    return to_csv(header, lines)


def summary_csv(comparison: Comparison, rows: Sequence[Row]) -> bytes:
    """A line for each row and metric; `low` and `high` bound the paired difference."""
    baseline = baseline_row(comparison, rows)
    header = ["method", "network", "metric", "seeds", "mean", "sd", "difference", "low", "high"]
    lines: list[list[Any]] = []
    for row in rows:
        network = "online" if row.stage == "learn" else "fresh"
        costs = ["" if row.cost is None else row.cost, row.extra_runs, row.seconds]
        for metric in METRICS:
            whole = row.estimate(metric)
            gap = paired(row.values(metric), baseline.values(metric))
            numbers = [whole.number, whole.mean, whole.sd, gap.mean, gap.low, gap.high]
            lines.append([row.label, network, metric, *numbers, *costs])
    return to_csv([*header, "cost", "extra_runs", "seconds"], lines)


def baseline_row(comparison: Comparison, rows: Sequence[Row]) -> Row:
    """The row that differences are to."""
    return next(r for r in rows if r.label == comparison.baseline and r.stage == "final")


def domains_of(rows: Sequence[Row]) -> list[str]:
    """The test domains, in the order of the data."""
    for row in rows:
        for run in row.results.values():
            return list(run["losses"])
    return []


def spread(value: Estimate, digits: int) -> str:
    """Mean ± standard deviation.

    >>> spread(Estimate(1.0, 0.25, 0.9, 1.1, 3), 2)
    '1.00 ± 0.25'
    """
    if math.isnan(value.sd):
        return f"{value.mean:.{digits}f}"
    return f"{value.mean:.{digits}f} ± {value.sd:.{digits}f}"


def difference(gap: Estimate, digits: int) -> str:
    """A paired difference with its interval, bold where that leaves 0 out.

    >>> difference(Estimate(-1.0, 0.1, -1.2, -0.8, 3), 1)
    '**-1.0** [-1.2, -0.8]'
    """
    if not gap.number:
        return ""
    text = f"{gap.mean:+.{digits}f}"
    if math.isnan(gap.low):
        return text
    if gap.low > 0 or gap.high < 0:
        text = f"**{text}**"
    return f"{text} [{gap.low:+.{digits}f}, {gap.high:+.{digits}f}]"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown, its columns aligned for a terminal.

    >>> print(table(["method", "loss"], [["a", "1.0"]]))
    | method | loss |
    |--------|------|
    | a      |  1.0 |
    """
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    shown = [
        "| "
        + " | ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in lines
    ]
    shown.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(shown)


def to_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """UTF-8 text; floats read back bit for bit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()
