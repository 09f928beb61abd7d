"""What the cells of a comparison left, as frames with a row for each run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from tandem_pl.domain_names import own_domains
from tandem_pl.yaml_files import read_yaml

from .cells import FINAL, LEARN, Cell
from .config import Comparison
from .entries import Entry

DEFAULT_BATCH_SIZE = 32  # of MixtureDataModule
FRESH, ONLINE = "fresh", "online"  # trained at the learned mixture; trained while learning it
NETWORKS = {FINAL: FRESH, LEARN: ONLINE}  # stage of a cell -> its network
NETWORK = ["method", "network"]
RUN = [*NETWORK, "seed"]

Result = Mapping[str, Any]  # content of a cell's result.yaml


class Runs(NamedTuple):
    """The runs of a comparison.

    `losses`, `weights` and `epochs` have a row (method, network, seed) for each finished run and a
    column for each domain. `networks` has a row (method, network) for each line of the tables:
    fresh networks before online ones, the lowest mean loss first; the frames of runs have the same
    order. Its columns count all runs that the network needs: `cost` in plain runs (NaN if the
    method does not state it), `extra_runs` and `seconds` of training, means over the seeds.
    `failures` says why a run has no result. `counted` are the domains that averages count: the
    target's, if they are tested beside others that it does not have, and else all.
    """

    losses: pd.DataFrame
    weights: pd.DataFrame
    epochs: pd.DataFrame
    networks: pd.DataFrame
    failures: dict[tuple[str, str, int], str]
    counted: list[str]

    @property
    def counted_losses(self) -> pd.DataFrame:
        """The columns of `losses` that averages count."""
        return self.losses[self.counted]


def collect(comparison: Comparison, cells: Sequence[Cell]) -> Runs:
    """Read the results of all cells."""
    by_name = {cell.name: cell for cell in cells}
    results = {cell.name: _read(cell) for cell in cells}
    entries = {entry.label: entry for entry in comparison.entries}
    finished: dict[tuple[str, str, int], Result] = {}
    spent, failures = {}, {}
    for cell in cells:
        if cell.label not in entries:  # a reference that is not in the tables
            continue
        key = (cell.label, NETWORKS[cell.stage], cell.seed)
        result, needed = results[cell.name], _needed(cell, by_name)
        cost = seconds = np.nan
        if result is None:
            failures[key] = _reason(cell, by_name, results)
        else:
            finished[key] = result
            done = [(c, results[c.name]) for c in needed]
            cost = entries[cell.label].spent
            cost += sum(_cost(comparison, entries.get(c.label), c, run) for c, run in done)
            seconds = sum(run["seconds"] for _, run in done if run)
        spent[key] = {"cost": cost, "extra_runs": len(needed) - 1, "seconds": seconds}
    runs = pd.MultiIndex.from_tuples(list(finished), names=RUN)
    losses, weights, epochs = (
        pd.DataFrame([run.get(key) or {} for run in finished.values()], runs)
        for key in ("losses", "weights", "epochs")
    )
    networks = pd.DataFrame(list(spent.values()), pd.MultiIndex.from_tuples(list(spent), names=RUN))
    networks = networks.groupby(level=NETWORK, sort=False).mean().astype({"extra_runs": int})
    counted = counted_domains(losses.columns, finished.values())
    losses = losses[[*counted, *losses.columns.difference(counted, sort=False)]]
    networks["loss"] = losses[counted].mean(axis=1).groupby(level=NETWORK).mean()
    networks = networks.sort_values(["network", "loss"]).drop(columns="loss")
    order = np.argsort(networks.index.get_indexer(runs.droplevel("seed")), kind="stable")
    epochs = epochs.reindex(columns=weights.columns)
    frames = losses.iloc[order], weights.iloc[order], epochs.iloc[order]
    return Runs(*frames, networks, failures, counted)


def counted_domains(tested: Iterable[str], results: Iterable[Result]) -> list[str]:
    """Return the tested domains that averages count; see `Runs`.

    >>> counted_domains(["a", "b", "notes"], [{"target": {"notes": 1.0}}])
    ['notes']
    >>> counted_domains(["a", "b"], [{"target": {"a": 0.5, "b": 0.5}}])
    ['a', 'b']
    """
    tested = list(tested)
    target = {name for result in results for name, s in result.get("target", {}).items() if s}
    return own_domains(target, tested) or tested


def network_name(key: tuple[str, str]) -> str:
    """Return the name of a network in the tables and pictures."""
    method, network = key
    return method if network == FRESH else f"{method} (online)"


def _needed(cell: Cell, cells: Mapping[str, Cell]) -> list[Cell]:
    """Return a cell and all cells that it needs."""
    return [cell, *(found for name in cell.needs for found in _needed(cells[name], cells))]


def _cost(comparison: Comparison, entry: Entry | None, cell: Cell, run: Result | None) -> float:
    """Return the cost of a run in plain runs; NaN if the method does not state its work."""
    from tandem_pl.callbacks.methods.table import Length

    (steps, batch), (plain_steps, plain_batch) = map(_length, (cell.config, comparison.base))
    work: float = steps
    if cell.stage == LEARN and entry is not None:
        if entry.definition.work is None or run is None:
            return np.nan
        length = Length(len(run["weights"]), steps, batch)
        work = entry.definition.work(run["settings"], length)
    return work * batch / (plain_steps * plain_batch)


def _length(config: Mapping[str, Any]) -> tuple[int, int]:
    """Return the number of batches of a run, and the samples in each."""
    batch = config["data"].get("init_args", {}).get("batch_size", DEFAULT_BATCH_SIZE)
    return config["trainer"]["max_steps"], batch


def _reason(cell: Cell, cells: Mapping[str, Cell], results: Mapping[str, Result | None]) -> str:
    """Return why a cell has no result."""
    for need in map(cells.__getitem__, cell.needs):
        if results[need.name] is None:
            part = "learning" if need.stage == LEARN else f"the run of {need.label}"
            return f"{part} failed: {_reason(need, cells, results)}"
    if cell.failure.exists():
        return cell.failure.read_text(encoding="utf-8").split("\n", 1)[0]
    return "not run yet."


def _read(cell: Cell) -> Result | None:
    if not cell.result.exists():
        return None
    return read_yaml(cell.result)
