"""`Record`: the weights after each update of a run, and what was measured before it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tandem_pl.curves import Places, with_curves
from tandem_pl.run_files import Signal
from tandem_pl.simplex import Array

from .series import Blocks, Trajectory


class Record:
    """What a reweighting callback keeps of each update, in bounded memory.

    Args:
        signal_name: file name of what the method measures, without suffix; None if it measures
            nothing.
        columns: names of the C numbers that it measures of each domain.
    """

    def __init__(self, signal_name: str | None = None, columns: tuple[str, ...] = ()) -> None:
        self.signal_name, self.columns = signal_name, columns
        self.trajectory, self.signals = Trajectory(), Blocks()
        self.curves: Places = np.zeros(0, np.int64)  # numbers of the domains that have curves
        self._measured: tuple[int, Array] | None = None  # step and values of the last signal

    def start(self, weights: Array) -> None:
        """Forget everything, and begin with weights [M] at step 0."""
        self.trajectory, self.signals, self._measured = Trajectory(), Blocks(), None
        self.trajectory.add(0, weights)
        self.curves = with_curves(weights)

    def add_weights(self, step: int, weights: Array) -> None:
        """Add the weights [M] after the update at a global step."""
        self.trajectory.add(step, weights)
        self.curves = with_curves(weights, self.curves if self.updates > 1 else ())

    def add_signal(self, step: int, columns: Iterable[Array]) -> None:
        """Add what an update measured: one [M] array for each column."""
        row = np.stack(list(columns)).astype(np.float64)
        self.signals.add(step, row)
        self._measured = step, row

    def measured(self, step: int) -> Array | None:
        """Return the signal [C, M] of the update at this step; None if it measured nothing."""
        return self._measured[1] if self._measured and self._measured[0] == step else None

    @property
    def updates(self) -> int:
        """How many updates were made so far."""
        return self.trajectory.count - 1

    def mean_since(self, update: int) -> Array:
        """Return [M], the mean over the second half of the updates from this one on.

        It counts the weights after every update, and those of the start. If rows of the trajectory
        were thinned out, the half begins at a row that is kept, at most one before it.
        """
        rows = max(self.trajectory.count - update, 1)
        return self.trajectory.mean_since(self.trajectory.count - rows + rows // 2)

    def thinned(self) -> dict[str, int]:
        """Return file name -> updates that a row of it stands for, for files with fewer rows."""
        strides = {"trajectory": self.trajectory.stride, self.signal_name: self.signals.stride}
        return {name: stride for name, stride in strides.items() if name and stride > 1}

    def signal(self) -> Signal | None:
        """Return what was measured before each update; None for a method that keeps nothing."""
        if self.signal_name is None:
            return None
        shape = (0, len(self.columns), len(self.trajectory.last))
        values = np.stack(self.signals.means()) if self.signals.count else np.zeros(shape)
        return Signal(self.signal_name, self.columns, self.signals.steps, values)

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain Python; parts that say nothing are left out."""
        blocks = self.trajectory.state_dict()
        rows, steps = blocks.pop("rows"), blocks.pop("row_steps")
        state: dict[str, Any] = {"trajectory": rows, "steps": steps}
        if blocks:  # rows were thinned out
            state["trajectory_blocks"] = blocks
        if len(self.curves) < len(self.trajectory.last):
            state["curves"] = self.curves.tolist()
        if self.signals.count:
            blocks = self.signals.state_dict()
            state["signals"], state["signal_steps"] = blocks.pop("sums"), blocks.pop("steps")
            if blocks:
                state["signal_blocks"] = blocks
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, to the bit."""
        rows = {"rows": state["trajectory"], "row_steps": state["steps"]}
        self.trajectory = Trajectory()
        self.trajectory.load_state_dict(rows | state.get("trajectory_blocks", {}))
        self.curves = with_curves(self.trajectory.last, state.get("curves", ()))
        self.signals, self._measured = Blocks(), None
        if "signals" in state:  # absent before the first update, and in old files
            sums = {"sums": state["signals"], "steps": state["signal_steps"]}
            self.signals.load_state_dict(sums | state.get("signal_blocks", {}))


class Recorded:
    """What a callback with a `record` shows of it."""

    record: Record

    @property
    def trajectory(self) -> list[Array]:
        """Weights [M] at the start and after each episode; thinned out for many, see above."""
        return self.record.trajectory.rows

    @property
    def steps(self) -> list[int]:
        """The global step of each row of the trajectory."""
        return self.record.trajectory.row_steps

    @property
    def signals(self) -> list[Array]:
        """What was measured [C, M] before each update; of many, means of updates in a row."""
        return self.record.signals.means()

    @property
    def signal_steps(self) -> list[int]:
        """The global step of each of `signals`."""
        return self.record.signals.steps

    @property
    def history(self) -> Signal | None:
        """What was measured before each update; None for a method that keeps nothing."""
        return self.record.signal()

    @property
    def episodes(self) -> int:
        """Updates so far."""
        return self.record.updates

    @property
    def curves(self) -> Places:
        """Numbers of the domains that have curves."""
        return self.record.curves
