"""A search over mixtures and fidelities: cheap runs say which dear ones are worth their cost."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tandem_pl.checks import check_at_least, check_count, check_positive
from tandem_pl.compare.config import merge
from tandem_pl.compare.entries import check_keys
from tandem_pl.compare.executors import Executor
from tandem_pl.errors import InputError
from tandem_pl.files import csv_bytes
from tandem_pl.mixture import Mixture
from tandem_pl.simplex import Array

from .bayesian import check_installed
from .mixtures import draw_mixtures
from .multi_fidelity import Choice, Results, check_costs, propose_next, recommend
from .proxies import Build, Weights
from .rows import DONE, Row, check_results, read_rows, write_shared
from .run import MIXTURES, POOL, prepare, read_prior, run_swarm
from .settings import LEAST_INITIAL, Swarm, make_swarm, read_settings

INITIAL = 5  # runs at the cheapest fidelity before any is chosen
ROUND = 0.25  # of what is left, that several runs at once may cost
TABLE, PROPOSAL = "runs.csv", "proposal.yaml"
TOLERANCE = 1e-9  # of sums of costs


class Ladder(NamedTuple):
    """A search over fidelities.

    Args:
        swarms: name of the fidelity -> its runs, each in a folder of its own; the last one counts.
        costs: [F] of a run at each, or None where parameters × samples decide.
        budget: for all runs together, in runs at the last fidelity.
        initial: drawn mixtures at the first fidelity.
        folder: of the table and the proposal.
    """

    swarms: dict[str, Swarm]
    costs: list[float | None]
    budget: float
    initial: int
    folder: Path

    @property
    def target(self) -> Swarm:
        """The runs at the last fidelity."""
        return list(self.swarms.values())[-1]


def read_ladder(path: str | os.PathLike[str], **options: Any) -> Ladder | None:
    """Read and check a file with `fidelities`; None if it has none.

    Args:
        path: the YAML file.
        options: values that replace those of the file, unless None.

    Raises:
        InputError: a file, key or setting cannot be used.
    """
    content = read_settings(path, **options)
    given, budget = content.pop("fidelities", None), content.pop("budget", None)
    if given is None:
        if budget is not None:
            raise InputError(f"budget={budget} is for fidelities: give them, or proxies=N alone.")
        return None
    if content.pop("proxies", None) is not None:
        raise InputError("proxies cannot be given with fidelities: their budget decides how many.")
    if not isinstance(given, Mapping) or len(given) < 2:
        raise InputError(
            f"fidelities={given!r} must name two or more, from the cheapest to the one that "
            "counts, such as {short: {overrides: {trainer: {max_steps: 100}}}, full: {}}."
        )
    if not isinstance(budget, int | float):
        raise InputError(
            f"budget={budget!r} must be a number: what all runs may cost, in runs at the last of "
            "the fidelities."
        )
    check_positive("budget", budget)
    initial = content.pop("initial", None)
    initial = INITIAL if initial is None else initial
    check_count("initial", initial)
    check_at_least("initial", initial, LEAST_INITIAL)
    folder = Path(content.get("folder") or Path("runs") / Path(path).stem)
    swarms, costs = {}, []
    for name, own in given.items():
        own = own or {}
        if not isinstance(own, Mapping):
            raise InputError(f"fidelities.{name}={own!r} must be a map of overrides and cost.")
        check_keys(own, ("overrides", "cost"), f"fidelities.{name}")
        if own.get("cost") is not None:
            check_positive(f"fidelities.{name}.cost", own["cost"])
        costs.append(own.get("cost"))
        changed = merge(content.get("overrides") or {}, own.get("overrides") or {})
        level = {"overrides": changed, "proxies": initial, "folder": str(folder / str(name))}
        swarms[str(name)] = make_swarm(content | level, Path(path))
    if 0 < costs.count(None) < len(costs):
        raise InputError("give all fidelities a cost, or none.")
    return Ladder(swarms, costs, float(budget), initial, folder)


def measure_costs(ladder: Ladder, build: Build) -> Array:
    """Return [F] costs in runs at the last fidelity: the given ones, or parameters × samples.

    Raises:
        InputError: they do not ascend, or the budget is below one run at the last fidelity.
    """
    found = []
    for given, swarm in zip(ladder.costs, ladder.swarms.values(), strict=True):
        if given is None:
            parts = build(swarm.config())
            size = sum(p.numel() for p in parts.module.parameters())
            given = float(size * swarm.steps * parts.data.batch_size)
        found.append(given)
    costs = check_costs(found) / found[-1]
    least = float(1 + ladder.initial * costs[0])
    if ladder.budget < least:
        raise InputError(
            f"budget={ladder.budget:g} is too small: the first {ladder.initial} runs and one at "
            f"the last fidelity cost {least:.4g}."
        )
    return costs


def search_fidelities(ladder: Ladder, build: Build, executor: Executor) -> tuple[str, int]:
    """Run until the budget is spent; return what to say, and how many runs failed.

    The first mixtures are drawn and run at the cheapest fidelity, the others chosen one round after
    the other (`propose_next`), `stack` × `workers` at a time, if they cost no more than a quarter
    of what is left. A run of the recommended mixture at the last fidelity is always kept in
    reserve. Rows are kept, so the same call continues.

    Raises:
        InputError: the budget is too small, botorch is not installed, or too few runs ended well.
    """
    costs = measure_costs(ladder, build)
    check_installed("a search over fidelities")
    swarms = list(ladder.swarms.values())
    prior = read_prior(swarms[-1], build)
    drawn = draw_mixtures(list(prior.values()), ladder.initial + POOL, **swarms[-1].draw)
    at_once = swarms[-1].stack * swarms[-1].workers
    known = [_known(swarm, build) for swarm in swarms]
    if not known[0]:
        known[0] = _add(swarms[0], [], drawn[: ladder.initial], prior)
    while True:
        for swarm, mixtures in zip(swarms, known, strict=True):
            if set(range(len(mixtures))) - set(read_rows(swarm.folder)):
                prepare(swarm._replace(proxies=len(mixtures)), build)
                run_swarm(swarm, mixtures, executor)
        _write_table(ladder, costs)
        left = ladder.budget - float(costs @ [len(mixtures) for mixtures in known]) + TOLERANCE
        tried, results = _tried(swarms, known, drawn)
        best = recommend(results, len(costs), drawn)
        final = Choice(best, len(costs) - 1)
        reserve = costs[-1] * (final not in tried)
        chosen = propose_next(results, costs.tolist(), drawn, at_once, left - reserve, tried)
        if chosen:
            sums = np.cumsum([costs[choice.fidelity] for choice in chosen])
            chosen = chosen[: max(1, int((sums <= ROUND * (left - reserve)).sum()))]
        elif reserve and costs[-1] <= left:
            chosen = [final]
        else:
            failed = len(tried) - len(np.asarray(results.values))
            return _finish(ladder, known, results, tried, drawn, left), failed
        for level, swarm in enumerate(swarms):
            places = [choice.mixture for choice in chosen if choice.fidelity == level]
            if places:
                known[level] = _add(swarm, known[level], drawn[places], prior)


def _known(swarm: Swarm, build: Build) -> list[Weights]:
    """Return the mixtures of an earlier call, whose settings must be the same."""
    path = swarm.folder / MIXTURES
    number = len(path.read_text().splitlines()) - 1 if path.exists() else 0
    return prepare(swarm._replace(proxies=number), build) if number else []


def _add(swarm: Swarm, known: Sequence[Weights], more: Array, prior: Weights) -> list[Weights]:
    every = [*known, *(dict(zip(prior, row, strict=True)) for row in more.tolist())]
    swarm.folder.mkdir(parents=True, exist_ok=True)
    table = csv_bytes(list(prior), [weights.values() for weights in every])
    write_shared(swarm.folder / MIXTURES, table)
    return every


def _tried(
    swarms: Sequence[Swarm], known: Sequence[Sequence[Weights]], drawn: Array
) -> tuple[list[Choice], Results]:
    """Return the runs made, those that failed too, and the results of the others."""
    tried, done = [], []
    for level, (swarm, mixtures) in enumerate(zip(swarms, known, strict=True)):
        rows = read_rows(swarm.folder)
        for number, weights in enumerate(mixtures):
            distance = np.abs(drawn - list(weights.values())).max(axis=1)
            tried.append(Choice(int(distance.argmin()), level))
            if rows[number]["status"] == DONE:
                done.append((*tried[-1], float(rows[number]["metric/loss"])))
    check_results(len(done), len(tried), swarms[0].folder)
    places, levels, values = zip(*done, strict=True)
    return tried, Results(drawn[list(places)], levels, values)


def _finish(
    ladder: Ladder,
    known: Sequence[Sequence[Weights]],
    results: Results,
    tried: Sequence[Choice],
    drawn: Array,
    left: float,
) -> str:
    """Write the mixture with the best prediction among those run at the last fidelity."""
    last = len(known) - 1
    rows = read_rows(ladder.target.folder)
    numbers = [n for n in range(len(known[last])) if rows[n]["status"] == DONE]
    counts = ", ".join(
        f"{len(mixtures)} {name}" for name, mixtures in zip(ladder.swarms, known, strict=True)
    )
    text = f"{counts} runs cost {ladder.budget - left:.3g} of {ladder.budget:g}; the table is "
    text += str(ladder.folder / TABLE)
    if not numbers:
        return f"{text}\nno run at the last fidelity ended well, so there is no proposal"
    places = [choice.mixture for choice in tried if choice.fidelity == last]
    best = numbers[recommend(results, last + 1, drawn[[places[n] for n in numbers]])]
    loss = float(rows[best]["metric/loss"])
    about = {"method": "search over fidelities", "loss": loss, "budget": ladder.budget}
    path = ladder.folder / PROPOSAL
    Mixture(known[last][best], about=about).save(path)
    return (
        f"{text}\nproposed is run {best:05} at the last fidelity, loss {loss:.4f}: {path} (use it: "
        f"--data.weights {path})"
    )


def _write_table(ladder: Ladder, costs: Array) -> None:
    rows: list[Row] = []
    for (name, swarm), cost in zip(ladder.swarms.items(), costs.tolist(), strict=True):
        for _, row in sorted(read_rows(swarm.folder).items()):
            rows.append(row | {"run": f"{name}/{row['run']}", "fidelity": name, "cost": cost})
    columns = list(dict.fromkeys(key for row in sorted(rows, key=len)[::-1] for key in row))
    cells = [[row.get(key, "") for key in columns] for row in rows]
    write_shared(ladder.folder / TABLE, csv_bytes(columns, cells))
