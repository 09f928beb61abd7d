"""Weights that are given rather than learned: constant, or changing by a schedule."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Trainer

from tandem_pl.callbacks.reweighting import ReweightingCallback
from tandem_pl.episode import TRAIN, Plan, Segment
from tandem_pl.errors import InputError
from tandem_pl.mixture import check_domains, resolve_weights
from tandem_pl.run_files import read_trajectory
from tandem_pl.simplex import Array


class FixedMixture(ReweightingCallback):
    """Static weights, or a piecewise-constant schedule.

    Args:
        weights: as the datamodule's `weights`; None takes the datamodule's. "unimax:4" and
            "epoch_capped:4" take the run's samples from the trainer's length.
        schedule: the path of a run's `trajectory.csv`, or a list of {"step": first training batch,
            "weights": as above}, in ascending order and starting at 0. Weights change exactly at
            these batches.
        episode_steps: batches in an epoch; None for the datamodule's `epoch_batches`.
    """

    method = "fixed"

    def __init__(
        self,
        weights: Any = None,
        schedule: str | list[dict[str, Any]] | None = None,
        episode_steps: int | None = None,
    ) -> None:
        super().__init__()
        if weights is not None and schedule is not None:
            raise InputError("weights and schedule are both given: keep one.")
        if episode_steps is not None and episode_steps < 1:
            raise InputError(f"episode_steps={episode_steps} must be at least 1.")
        self.given = weights
        self.schedule = schedule
        self.episode_steps = episode_steps
        self._length = episode_steps or 1
        self._starts: list[int] = [0]
        self._weights: list[Array] = []

    def initial(self, trainer: Trainer) -> Array:
        """Reads the schedule."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self._length = self.episode_steps or data.static_batches()
        sizes = {name: len(samples) for name, samples in data.train_sets.items()}
        if self.schedule is None:
            resolved = data.mixture
            if self.given is not None:
                budget = self._samples(trainer)
                resolved = resolve_weights(self.given, sizes, budget=budget)
            self._starts, self._weights = [0], [resolved.array]
        elif isinstance(self.schedule, str):
            names, self._starts, rows = read_trajectory(Path(self.schedule))
            check_domains(names, sizes, "schedule")
            self._weights = list(rows[:, [names.index(name) for name in sizes]])
        else:
            for number, entry in enumerate(self.schedule):
                if not isinstance(entry, dict) or set(entry) != {"step", "weights"}:
                    raise InputError(
                        f"schedule[{number}]={entry!r} must be a map with 'step' and 'weights'."
                    )
            self._starts = [int(entry["step"]) for entry in self.schedule]
            self._weights = [
                resolve_weights(entry["weights"], sizes, f"schedule[{number}].weights").array
                for number, entry in enumerate(self.schedule)
            ]
        if self._starts[:1] != [0] or (np.diff(self._starts) <= 0).any():
            raise InputError(
                f"schedule has the steps {self._starts[:8]}: they must start at 0 and ascend."
            )
        return self._weights[0]

    def _samples(self, trainer: Trainer) -> float | None:
        """Training samples of the whole run, which weights may be bounded by; None where open."""
        batches = trainer.max_steps
        if batches <= 0:
            batches = (trainer.max_epochs or 0) * self._length
        return batches * trainer.datamodule.batch_size if batches > 0 else None  # type: ignore[attr-defined]

    def plan(self) -> Plan:
        """One segment for each piece of the schedule that the epoch crosses."""
        start, stop = self.steps[-1], self.steps[-1] + self._length
        cuts = [start, *(at for at in self._starts if start < at < stop), stop]
        return [
            Segment(TRAIN, right - left, tuple(self._at(left).tolist()))
            for left, right in pairwise(cuts)
        ]

    def update(self, trainer: Trainer, module: Any) -> tuple[Array, dict[str, float]]:
        """The weights of the coming epoch's first batch."""
        return self._at(trainer.global_step), {}

    def _at(self, step: int) -> Array:
        return self._weights[int(np.searchsorted(self._starts, step, side="right")) - 1]

    def settings(self) -> dict[str, Any]:
        """Where the weights come from."""
        kept = self.schedule if isinstance(self.schedule, str) else None
        return {"schedule": kept, "pieces": len(self._starts), "episode_steps": self._length}
