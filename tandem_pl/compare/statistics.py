"""Statistics of a comparison: means over seeds, paired differences, what each method cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import yaml

from .cells import FINAL, LEARN, Cell, reference_label
from .config import Comparison, Entry

CONFIDENCE = 0.95
DEFAULT_BATCH_SIZE = 32  # of MixtureDataModule
METRICS = ("loss", "perplexity", "geometric")  # see Row.values


class Estimate(NamedTuple):
    """Mean and standard deviation of `number` values, and a Student t interval of the mean.

    `sd`, `low` and `high` are NaN for a single number.
    """

    mean: float
    sd: float
    low: float
    high: float
    number: int


class Row(NamedTuple):
    """One network of one method: a line of the tables.

    Args:
        name: as shown.
        label: of the method.
        stage: "final" for fresh networks at the mixture, "learn" for the online network.
        results: seed -> what its cell's `result.yaml` holds; seeds that failed are absent.
        failures: seed -> why.
        cost: proxy steps over those of one plain run, all runs it needs together; None where the
            method does not say.
        extra_runs: runs besides the one whose network this is.
        seconds: mean measured seconds of training over the seeds, all runs together.
    """

    name: str
    label: str
    stage: str
    results: dict[int, dict[str, Any]]
    failures: dict[int, str]
    cost: float | None
    extra_runs: int
    seconds: float

    def values(self, metric: str) -> dict[int, float]:
        """Seed -> a metric over the domains, each counting alike.

        "loss" is the mean loss in nats, "perplexity" the mean of the domains' exp(loss), and
        "geometric" the exp of the mean loss.
        """
        return {seed: average(run["losses"].values(), metric) for seed, run in self.results.items()}

    def estimate(self, metric: str) -> Estimate:
        """A metric over the seeds."""
        return estimate(list(self.values(metric).values()))

    def domain(self, name: str, key: str = "losses") -> Estimate:
        """One domain's losses (or "weights", "epochs", "perplexities") over the seeds."""
        if key == "perplexities":
            return estimate([_exp(run["losses"][name]) for run in self.results.values()])
        return estimate([run[key][name] for run in self.results.values() if run.get(key)])


def average(losses: Iterable[float], metric: str) -> float:
    """A metric of the domains' losses.

    >>> average([0.0, 2.0], "loss"), round(average([0.0, 2.0], "perplexity"), 4)
    (1.0, 4.1945)
    """
    values = np.array(list(losses), np.float64)
    with np.errstate(over="ignore"):  # inf is the honest answer
        if metric == "perplexity":
            return float(np.exp(values).mean())
        return float(np.exp(values.mean()) if metric == "geometric" else values.mean())


def estimate(values: Sequence[float]) -> Estimate:
    """Mean, standard deviation (n - 1) and confidence interval.

    >>> [round(number, 3) for number in estimate([1.0, 2.0, 3.0])[:4]]
    [2.0, 1.0, -0.484, 4.484]
    """
    from scipy.stats import t

    count = len(values)
    if count == 0:
        return Estimate(math.nan, math.nan, math.nan, math.nan, 0)
    mean = float(np.mean(values))
    if count == 1:
        return Estimate(mean, math.nan, math.nan, math.nan, 1)
    sd = float(np.std(values, ddof=1))
    half = float(t.ppf(0.5 + CONFIDENCE / 2, count - 1)) * sd / math.sqrt(count)
    return Estimate(mean, sd, mean - half, mean + half, count)


def paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> Estimate:
    """Differences to the baseline seed by seed, over the seeds that both have.

    >>> paired({0: 1.0, 1: 2.0}, {0: 1.5, 1: 2.5, 2: 9.0}).mean
    -0.5
    """
    return estimate([values[seed] - baseline[seed] for seed in values if seed in baseline])


def collect(comparison: Comparison, cells: Sequence[Cell]) -> list[Row]:
    """The rows, from what the cells left; fresh networks before online ones, best loss first."""
    by_name = {cell.name: cell for cell in cells}
    runs = {cell.name: _read_result(cell) for cell in cells}
    rows = []
    for stage in (FINAL, LEARN):
        part = []
        for entry in comparison.entries:
            if stage == LEARN and not entry.learns:
                continue
            part.append(_row(comparison, entry, stage, by_name, runs))
        rows += sorted(part, key=lambda row: _last_if_nan(row.estimate("loss").mean))
    return rows


def _row(
    comparison: Comparison,
    entry: Entry,
    stage: str,
    cells: Mapping[str, Cell],
    runs: Mapping[str, dict[str, Any] | None],
) -> Row:
    results, failures, seconds, costs = {}, {}, [], []
    reference = reference_label(comparison) if entry.wants_reference else None
    extra = (reference is not None) + (entry.learns and stage == FINAL)
    for seed in comparison.seeds:
        name = f"{entry.label}/seed-{seed}/{stage}"
        result = runs[name]
        if result is None:
            failures[seed] = _reason(cells, runs, name)
            continue
        results[seed] = result
        needed = [name]
        learn = f"{entry.label}/seed-{seed}/{LEARN}"
        if entry.learns and stage == FINAL:
            needed.append(learn)
        if reference is not None:
            needed.append(f"{reference}/seed-{seed}/{FINAL}")
        parts = [run for run in map(runs.get, needed) if run is not None]
        seconds.append(sum(run["seconds"] for run in parts))
        plain = len(needed) - entry.learns
        costs.append(plain + (_work(comparison, entry, runs[learn]) if entry.learns else 0.0))
    name = f"{entry.label} (online)" if stage == LEARN else entry.label
    cost = float(np.mean(costs)) if costs else math.nan
    mean = float(np.mean(seconds)) if seconds else math.nan
    known = None if math.isnan(cost) else cost
    return Row(name, entry.label, stage, results, failures, known, extra, mean)


def _work(comparison: Comparison, entry: Entry, learned: Mapping[str, Any] | None) -> float:
    """What learning cost, in plain runs as long; NaN where the row has no `work`."""
    from tandem_pl.callbacks.methods.table import Length

    work = entry.row.work
    if work is None or learned is None:
        return math.nan
    data = comparison.base["data"]
    size = data.get("init_args", {}).get("batch_size", DEFAULT_BATCH_SIZE)
    length = Length(len(learned["weights"]), comparison.steps, size)
    return work(learned["settings"], length) / comparison.steps


def _reason(cells: Mapping[str, Cell], runs: Mapping[str, dict[str, Any] | None], name: str) -> str:
    """Why a cell has no result."""
    for need in cells[name].needs:
        if runs[need] is None:
            part = "learning" if cells[need].stage == LEARN else f"the run of {cells[need].label}"
            return f"{part} failed: {_reason(cells, runs, need)}"
    if cells[name].failure.exists():
        return cells[name].failure.read_text(encoding="utf-8").split("\n", 1)[0]
    return "not run yet."


def _read_result(cell: Cell) -> dict[str, Any] | None:
    if not cell.result.exists():
        return None
    return yaml.safe_load(cell.result.read_text(encoding="utf-8"))


def _exp(loss: float) -> float:
    return average([loss], "perplexity")


def _last_if_nan(value: float) -> float:
    return math.inf if math.isnan(value) else value
