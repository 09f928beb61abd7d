"""The tables of a comparison, as Markdown and as CSV."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pandas as pd

from tandem_pl.domain_names import first_names
from tandem_pl.plots import MOST_DOMAINS
from tandem_pl.text_tables import markdown_table

from .cells import of_tokens
from .config import Comparison
from .results import FRESH, NETWORK, ONLINE, Runs, network_name
from .statistics import CONFIDENCE, Estimate, differences, metrics, over_seeds, perplexities

LEAST_MARKED = 3  # seeds; an interval of two is mostly chance
MOST_NAMED = 8  # domains in a sentence


def markdown(comparison: Comparison, runs: Runs) -> str:
    """Return the whole page."""
    domains = list(runs.losses.columns)
    shown, few = _first(domains)
    trained, few_trained = _first(list(runs.weights.columns))
    sections = {}
    if domains and of_tokens(comparison):
        sections = {
            "Test perplexity": averages(comparison, runs),
            f"Test perplexity by domain{few}": by_domain(runs, shown, "perplexity", 2),
        }
    if domains:
        sections |= {
            f"Test loss by domain, in nats{few}": by_domain(runs, shown, "loss", 3),
            f"Share of samples and (passes over the domain){few_trained}": shares(runs, trained),
        }
    if runs.failures:
        sections["What failed"] = failures(runs)
    page = f"# {comparison.name}\n\n{opening(comparison, runs)}\n{overview(comparison, runs)}\n"
    return page + "".join(f"\n## {title}\n\n{text}\n" for title, text in sections.items())


def _first(domains: list[str]) -> tuple[list[str], str]:
    """Return the domains that a page has room for, and words that say so."""
    shown = domains[:MOST_DOMAINS]
    return shown, "" if shown == domains else f" (first {len(shown)} of {len(domains)} domains)"


def opening(comparison: Comparison, runs: Runs) -> str:
    """Return what was run, and how to read the tables."""
    count = len(comparison.seeds)
    text = (
        f"{count} seed{'s' if count > 1 else ''}, {comparison.steps} batches a run. "
        f"Averages count {_counted(runs)} the same; ± is the standard deviation over seeds. "
        f"Differences are to {comparison.baseline}, seed by seed, with a "
        f"{100 * CONFIDENCE:.0f} % Student t interval; bold ones, from {LEAST_MARKED} seeds on, "
        "have an interval without 0. Cost is in plain runs (one proxy step, forward and backward, "
        "counts 1), all runs that a row needs together; minutes are measured, and several cells "
        "ran at once.\n"
    )
    own = [f"{entry.label} {entry.steps}" for entry in comparison.entries if entry.steps]
    if own:
        text += f"\nRows with another number of batches: {', '.join(own)}.\n"
    spent = [f"{entry.label} {entry.spent:g}" for entry in comparison.entries if entry.spent]
    if spent:
        text += f"\nCosts hold plain runs that were spent before: {', '.join(spent)}.\n"
    if ONLINE in runs.networks.index.get_level_values("network"):
        text += (
            "\nA method's row is a fresh network trained at the mixture that it learned; the row "
            "marked online is the network that the mixture was learned with.\n"
        )
    return text


def _counted(runs: Runs) -> str:
    if len(runs.counted) == runs.losses.shape[1]:
        return "all domains"
    return f"the domains of the target alone ({first_names(runs.counted, MOST_NAMED)})"


def overview(comparison: Comparison, runs: Runs) -> str:
    """Return the mean losses, their differences to the baseline, and costs."""
    losses = _compared(comparison, runs, "loss", 4)
    seeds = runs.losses.groupby(level=NETWORK).size()
    rows = []
    for key, cost, extra_runs, seconds in runs.networks.itertuples():
        if key not in losses.index:
            rows.append([network_name(key), "failed", *[""] * 4])
            continue
        some = seeds[key] < len(comparison.seeds)
        few = f" ({seeds[key]} of {len(comparison.seeds)} seeds)" if some else ""
        text = "" if math.isnan(cost) else f"{cost:.2f}"
        row = [
            network_name(key) + few,
            *losses.loc[key],
            text,
            str(extra_runs),
            f"{seconds / 60:.1f}",
        ]
        rows.append(row)
    against = f"vs {comparison.baseline}"
    return markdown_table(["method", "test loss", against, "cost", "extra runs", "minutes"], rows)


def averages(comparison: Comparison, runs: Runs) -> str:
    """Return perplexities averaged in both ways, with differences to the baseline."""
    cells = [_compared(comparison, runs, name, 3) for name in ("perplexity", "geometric")]
    against = f"vs {comparison.baseline}"
    return _table(["mean of perplexities", against, "exp(mean loss)", against], *cells)


def by_domain(runs: Runs, domains: list[str], metric: str, digits: int) -> str:
    """Return the "loss" or "perplexity" of each domain, and the average over those that count."""
    values = runs.losses if metric == "loss" else perplexities(runs.losses)
    frames = (values[domains], metrics(runs.counted_losses)[[metric]])
    cells = (_texts(over_seeds(frame), spread, digits) for frame in frames)
    return _table([*domains, "average"], *cells)


def shares(runs: Runs, domains: list[str]) -> str:
    """Return mean weights over the seeds, and the passes over each domain if they are known."""
    weights, epochs = (
        over_seeds(frame.reindex(columns=domains)).mean for frame in (runs.weights, runs.epochs)
    )
    passes = epochs.map(" ({:.1f})".format).where(epochs.notna(), "")
    return _table(domains, weights.map("{:.3f}".format) + passes)


def failures(runs: Runs) -> str:
    """Return the runs without a result and why, a line for each network and reason."""
    seeds: dict[tuple[str, str], list[str]] = {}
    for key in runs.networks.index:
        for (*network, seed), reason in runs.failures.items():
            if tuple(network) == key:
                seeds.setdefault((network_name(key), reason), []).append(str(seed))
    lines = (f"- {name}, seed {', '.join(seeds[name, why])}: {why}" for name, why in seeds)
    return "\n".join(lines)


def results_csv(runs: Runs) -> bytes:
    """Return a line for each run and domain, those without a test or without weights included."""
    columns = {
        "loss": runs.losses,
        "perplexity": perplexities(runs.losses),
        "weight": runs.weights,
        "epochs": runs.epochs,
    }
    domains = list(dict.fromkeys([*runs.losses.columns, *runs.weights.columns]))
    columns = {name: frame.reindex(columns=domains) for name, frame in columns.items()}
    return _long(columns, "domain").to_csv(lineterminator="\n").encode()


def summary_csv(comparison: Comparison, runs: Runs) -> bytes:
    """Return a line for each network and metric; `low` and `high` bound the difference."""
    values, networks = metrics(runs.counted_losses), runs.networks
    whole = over_seeds(values)
    gap = over_seeds(differences(values, comparison.baseline))
    columns = {"mean": whole.mean, "sd": whole.sd}
    columns |= {"difference": gap.mean, "low": gap.low, "high": gap.high}
    number = whole.number.reindex(networks.index, fill_value=0)
    columns = {key: frame.reindex(networks.index) for key, frame in columns.items()}
    table = _long({"seeds": number} | columns, "metric")
    costs = networks.astype({"cost": object}).fillna({"cost": ""})
    table[list(costs)] = costs.loc[table.index.droplevel("metric")].to_numpy()
    return table.to_csv(lineterminator="\n", na_rep="nan").encode()


def _compared(comparison: Comparison, runs: Runs, metric: str, digits: int) -> pd.DataFrame:
    """Return a metric and its difference to the baseline; "" for the baseline itself."""
    values = metrics(runs.counted_losses)[[metric]]
    gaps = _texts(over_seeds(differences(values, comparison.baseline)), difference, digits)
    gaps[gaps.index == (comparison.baseline, FRESH)] = ""
    return pd.concat([_texts(over_seeds(values), spread, digits), gaps], axis=1)


def _texts(values: Estimate, write: Callable[[Estimate, int], str], digits: int) -> pd.DataFrame:
    """Return a frame of estimates as a frame of text."""
    rows = zip(*(frame.to_numpy() for frame in values), strict=True)
    cells = [[write(Estimate(*cell), digits) for cell in zip(*row, strict=True)] for row in rows]
    return pd.DataFrame(cells, values.mean.index)


def _table(header: Sequence[str], *cells: pd.DataFrame) -> str:
    """Return Markdown with a row for each network, from frames of text side by side."""
    rows = pd.concat(cells, axis=1).itertuples()
    return markdown_table(["method", *header], [[network_name(key), *row] for key, *row in rows])


def _long(frames: dict[str, pd.DataFrame], level: str) -> pd.DataFrame:
    """Return frames of the same shape as columns, with a line for each row and column of theirs."""
    table = pd.DataFrame({name: frame.T.unstack() for name, frame in frames.items()})
    return table.rename_axis(index=[*table.index.names[:-1], level])


def spread(value: Estimate, digits: int) -> str:
    """Write mean ± standard deviation.

    >>> spread(Estimate(1.0, 0.25, 0.9, 1.1, 3), 2)
    '1.00 ± 0.25'
    """
    if math.isnan(value.sd):
        return f"{value.mean:.{digits}f}"
    return f"{value.mean:.{digits}f} ± {value.sd:.{digits}f}"


def difference(gap: Estimate, digits: int) -> str:
    """Write a paired difference with its interval, bold if 0 is outside of that of 3 seeds or more.

    >>> difference(Estimate(-1.0, 0.1, -1.2, -0.8, 3), 1)
    '**-1.0** [-1.2, -0.8]'
    >>> difference(Estimate(-1.0, 0.1, -1.2, -0.8, 2), 1)
    '-1.0 [-1.2, -0.8]'
    """
    if not gap.number:
        return ""
    text = f"{gap.mean:+.{digits}f}"
    if math.isnan(gap.low):
        return text
    if gap.number >= LEAST_MARKED and (gap.low > 0 or gap.high < 0):
        text = f"**{text}**"
    return f"{text} [{gap.low:+.{digits}f}, {gap.high:+.{digits}f}]"
