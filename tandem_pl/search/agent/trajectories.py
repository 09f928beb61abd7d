"""What finished runs did and what came of it: weights between evaluations of the target."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tandem_pl.callbacks.mixing_policy import LEAST, describe
from tandem_pl.errors import InputError
from tandem_pl.run_files import read_trajectory
from tandem_pl.search.run_folders import LOSS, MEAN, logged_losses, mean_weights
from tandem_pl.simplex import Array

EVALUATION = "target/evaluation"  # of methods that evaluate target samples at each update
EVALUATIONS = 3  # of a run, at least: the last of them end a step and the others begin one


class Trajectory(NamedTuple):
    """A run of E evaluations.

    Args:
        domains: [M] names.
        targets: [M'] names.
        steps: [E] batches before each evaluation.
        weights: [E, M] mean weights of the batches since the evaluation before.
        losses: [E, M'].
    """

    domains: tuple[str, ...]
    targets: tuple[str, ...]
    steps: Array
    weights: Array
    losses: Array


class Transitions(NamedTuple):
    """Steps of all runs: [N, S] states, [N, M] next weights, [N] rewards, [N, S] states after.

    `ends` [N] is 1 for the last one of a run, else 0. A reward is how much the logarithms of the
    target losses fall, in the mean over targets.
    """

    states: Array
    actions: Array
    rewards: Array
    following: Array
    ends: Array


def read_trajectories(folders: Sequence[str | os.PathLike[str]]) -> list[Trajectory]:
    """Return the runs in folders, or below them, that have trajectories and evaluations.

    They are runs of `tandem fit` with `validate_target`, or of methods that evaluate the target
    themselves, such as those of `tandem compare`.

    Raises:
        InputError: a folder does not exist, or there is no such run; runs of other domains.
    """
    found: list[Trajectory] = []
    for folder in folders:
        if not Path(folder).is_dir():
            raise InputError(f"{folder} is no folder: give runs, or folders of runs.")
        for path in sorted(Path(folder).rglob("trajectory.csv")):
            run = _read_run(path.parent)
            if run is None:
                continue
            if found:
                run = _reordered(run, found[0], str(path.parent))
            found.append(run)
    if not found:
        raise InputError(
            f"no run in {', '.join(map(str, folders))} has a trajectory and {EVALUATIONS} or more "
            "evaluations of its target: train with validate_target, or with MixingAgentReweighting."
        )
    return found


def transitions(runs: Sequence[Trajectory]) -> Transitions:
    """Return the steps between evaluations of all runs."""
    rows: list[tuple[Array, Array, float, Array, float]] = []
    for run in runs:
        lengths = np.diff(run.steps, prepend=0)[:, None]
        means = np.cumsum(run.weights * lengths, axis=0) / np.cumsum(lengths, axis=0)
        logs = np.log(np.maximum(run.losses, LEAST)).mean(axis=1)
        first = run.losses[0]
        states = [
            describe(run.weights[i], means[i], first, run.losses[max(i - 1, 0)], run.losses[i])
            for i in range(len(run.losses))
        ]
        for i in range(len(states) - 1):
            fall = float(logs[i] - logs[i + 1])
            end = float(i + 2 == len(states))
            rows.append((states[i], run.weights[i + 1], fall, states[i + 1], end))
    return Transitions(*(np.array(column) for column in zip(*rows, strict=True)))


def _read_run(folder: Path) -> Trajectory | None:
    """Return a run; None if it has too few evaluations, or one that is not finite."""
    domains, steps, weights = read_trajectory(folder / "trajectory.csv")
    for prefix in (EVALUATION, LOSS):
        logged = logged_losses(folder, prefix)
        rows = {step: row for step, row in sorted(logged.items()) if set(row) - {MEAN}}
        if len(rows) >= EVALUATIONS:
            break
    else:
        return None
    names = sorted(set.intersection(*(set(row) for row in rows.values())) - {MEAN})
    if not names:
        return None
    ends = np.array(list(rows))
    sums = np.stack([mean_weights(np.array(steps), weights, end) * end for end in ends])
    shares = np.diff(sums, axis=0, prepend=0) / np.diff(ends, prepend=0)[:, None]
    losses = np.array([[row[name] for name in names] for row in rows.values()])
    targets = tuple(name.removeprefix("loss/") for name in names)
    return Trajectory(tuple(domains), targets, ends, shares.clip(0), losses)


def _reordered(run: Trajectory, like: Trajectory, name: str) -> Trajectory:
    """Return the run with domains and targets in the order of another."""
    places = []
    for what in ("domains", "targets"):
        own, others = getattr(run, what), getattr(like, what)
        if set(own) != set(others):
            raise InputError(
                f"{name} has the {what} {', '.join(own)}, and the runs before it "
                f"{', '.join(others)}: give runs with the same."
            )
        places.append([own.index(one) for one in others])
    domains, targets = places
    return Trajectory(
        like.domains, like.targets, run.steps, run.weights[:, domains], run.losses[:, targets]
    )
