"""What a learning run of each method costs, in proxy steps: forward and backward of one batch.

A forward alone is a third of a step. Evaluations of E batches are of `evaluation_samples` of each
target domain, of which there are taken to be as many as training domains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Length(NamedTuple):
    """Of a run: training `domains`, training `steps`, and samples in a batch."""

    domains: int
    steps: int
    batch_size: int


#: (the callback's settings, the run) -> proxy steps in all, the training steps included.
Work = Callable[[Mapping[str, Any], Length], float]


def tandem(settings: Mapping[str, Any], run: Length) -> float:
    """E + 3K - 1 + 2/3 (V + S) an episode of E + K steps, S batches of statistics.

    >>> settings = {"free_steps": 15, "probe_steps": 5, "measure_batches": 3}
    >>> tandem(settings, Length(7, 2000, 16))
    3100.0
    """
    free, probe = settings["free_steps"], settings["probe_steps"]
    without = settings["measure_batches"] + settings.get("statistics_batches", 0)
    episode = free + 3 * probe - 1 + 2 * without / 3
    return run.steps * episode / (free + probe)


def doremi(settings: Mapping[str, Any], run: Length) -> float:
    """A forward of the reference at each step; its training is a run of its own."""
    return run.steps * 4 / 3


def doge(settings: Mapping[str, Any], run: Length) -> float:
    """At each step gradients of the target and of the domains, and the update.

    The sum of the domains' gradients as target takes as much as target data: they are made twice.

    >>> doge({"target": "train"}, Length(7, 10, 16))
    30.0
    """
    return run.steps * 3.0


def measured_gradients(settings: Mapping[str, Any], run: Length) -> float:
    """2 V once a period: gradients of V batches of the domains and of V of the target."""
    period = settings.get("period") or settings["update_steps"]
    return run.steps * (1 + 2 * settings["measure_batches"] / period)


def skill_it(settings: Mapping[str, Any], run: Length) -> float:
    """An evaluation an update, and one after each single-domain run for the graph.

    The steps of these runs are among the run's steps.
    """
    evaluations = run.steps / settings["update_steps"]
    if settings["graph"] == "learn":
        learning = run.domains * (settings["graph_steps"] or settings["update_steps"])
        evaluations += run.domains + 1 - learning / settings["update_steps"]
    return run.steps + max(evaluations, 0.0) * _evaluation(settings, run)


def aioli(settings: Mapping[str, Any], run: Length) -> float:
    """M lp_rounds + 1 evaluations a round; the visits are training steps."""
    rounds = run.steps / settings["update_steps"]
    sweeps = run.domains * settings["lp_rounds"] + 1
    return run.steps + rounds * sweeps * _evaluation(settings, run)


def plain(settings: Mapping[str, Any], run: Length) -> float:
    """Training alone."""
    return float(run.steps)


def _evaluation(settings: Mapping[str, Any], run: Length) -> float:
    """One sweep over the target samples; NaN where their number is not in the settings."""
    samples = settings["evaluation_samples"]
    if samples is None:
        return math.nan
    return samples * run.domains / run.batch_size / 3
