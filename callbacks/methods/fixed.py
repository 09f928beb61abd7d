"""Weights that are given, not learned: constant, or changing by a schedule."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Trainer

from tandem_pl.callbacks.reweighting import ReweightingCallback, Update
from tandem_pl.checks import check_at_least
from tandem_pl.data_record import warn_if_other_data
from tandem_pl.data_weights import resolve_data_weights
from tandem_pl.episode import TRAIN, Plan, Segment
from tandem_pl.errors import InputError
from tandem_pl.mixture import check_domains
from tandem_pl.run_files import read_trajectory
from tandem_pl.simplex import Array

from .method import Method


class FixedMixture(ReweightingCallback):
    """Static weights, or a piecewise constant schedule.

    Args:
        weights: as the data module's `weights`; None takes the data module's. "unimax:4" and
            "epoch_capped:4" take the number of samples from the trainer's length, or from the data
            module's `final_samples`.
        schedule: the path of a run's `trajectory.csv`, or a list of {"step": first training batch,
            "weights": as above}, in ascending order and starting at 0. Weights change exactly at
            these batches.
        episode_steps: batches in an epoch; None for the data module's `epoch_batches`.
    """

    method = "fixed"
    learns = False
    rows = (
        Method("uniform", "every domain the same share", settings={"weights": "uniform"}),
        Method("proportional", "in proportion to size", settings={"weights": "proportional"}),
        Method(
            "temperature",
            "in proportion to the square root of size",
            "Conneau & Lample 2019, arXiv 1901.07291",
            settings={"weights": "temperature:2"},
        ),
        Method(
            "unimax",
            "uniform, but no domain is seen more than 4 times",
            "arXiv 2304.09151",
            settings={"weights": "unimax:4"},
        ),
        Method(
            "epoch_capped",
            "temperature, but no domain is seen more than 4 times",
            settings={"weights": "epoch_capped:4"},
        ),
        Method(
            "target",
            "the target's shares of the training domains, which have its names or are clusters",
            settings={"weights": "target"},
            needs_target=True,
        ),
    )

    def __init__(
        self,
        weights: Any = None,
        schedule: list[dict[str, Any]] | str | os.PathLike[str] | None = None,
        episode_steps: int | None = None,
    ) -> None:
        super().__init__()
        if weights is not None and schedule is not None:
            raise InputError("weights and schedule are both given: keep one.")
        if episode_steps is not None:
            check_at_least("episode_steps", episode_steps, 1)
        self.given = weights
        self.schedule = schedule
        self.episode_steps = episode_steps
        self._length = episode_steps or 1
        self._starts: list[int] = [0]  # first batch of each piece
        self._pieces: list[Array] = []  # their weights [M]

    def initial(self, trainer: Trainer) -> Array:
        """Read the schedule, and return its first weights."""
        self._length = self.episode_steps or self.data.static_batches()
        sizes, budget = self.data.domain_sizes(), self._samples(trainer)
        if self.schedule is None:
            weights = super().initial(trainer)
            if self.given is not None:
                mixture = resolve_data_weights(self.given, self.data, budget=budget)
                warn_if_other_data(mixture, self.data.record, self.given)
                weights = mixture.array
            self._starts, self._pieces = [0], [weights]
        elif isinstance(self.schedule, str | os.PathLike):
            names, self._starts, rows = read_trajectory(Path(self.schedule))
            check_domains(names, sizes, "schedule")
            self._pieces = list(rows[:, [names.index(name) for name in sizes]])
        else:
            for number, entry in enumerate(self.schedule):
                if not isinstance(entry, dict) or set(entry) != {"step", "weights"}:
                    raise InputError(
                        f"schedule[{number}]={entry!r} must be a map with 'step' and 'weights'."
                    )
                check_at_least(f"schedule[{number}].step", entry["step"], 0)
            self._starts = [entry["step"] for entry in self.schedule]
            self._pieces = [
                resolve_data_weights(
                    entry["weights"], self.data, f"schedule[{number}].weights", budget
                ).array
                for number, entry in enumerate(self.schedule)
            ]
        if self._starts[:1] != [0] or (np.diff(self._starts) <= 0).any():
            raise InputError(
                f"schedule has the steps {self._starts[:8]}: they must start at 0 and ascend."
            )
        return self._pieces[0]

    def _samples(self, trainer: Trainer) -> float | None:
        """Return the training samples of the run, or of the final run; None if it is open."""
        if "final_samples" in self.data.record:
            return self.data.record["final_samples"]
        batches = trainer.max_steps
        if batches <= 0:
            batches = (trainer.max_epochs or 0) * self._length
        return batches * self.data.batch_size if batches > 0 else None

    def plan(self) -> Plan:
        """Return a segment for each piece of the schedule that the epoch crosses."""
        start, stop = self.steps[-1], self.steps[-1] + self._length
        cuts = [start, *(at for at in self._starts if start < at < stop), stop]
        return [
            Segment(TRAIN, right - left, tuple(self._weights_at(left).tolist()))
            for left, right in pairwise(cuts)
        ]

    def update(self, trainer: Trainer, module: Any) -> Update:
        """Return the weights of the next epoch's first batch."""
        return self._weights_at(trainer.global_step), {}

    def _weights_at(self, step: int) -> Array:
        return self._pieces[int(np.searchsorted(self._starts, step, side="right")) - 1]

    def settings(self) -> dict[str, Any]:
        """Return the origin of the weights."""
        path = self.schedule if isinstance(self.schedule, str | os.PathLike) else None
        return {
            "schedule": path and os.fspath(path),
            "pieces": len(self._starts),
            "episode_steps": self._length,
        }
