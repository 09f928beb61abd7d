"""What a run remembers of each update, in bounded memory however many domains and updates."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tandem_pl.simplex import Array

MOST_NUMBERS = 2**20  # of a series: 8 MB in a checkpoint (a trajectory twice), 20 MB as CSV
LEAST_ROWS = 64  # of a series, whatever a row's size


class Blocks:
    """Rows of numbers, one an update, kept as sums over blocks of 1, 2, 4, ... rows.

    Every row is a block until there are more numbers than `MOST_NUMBERS`; then neighbours are
    added up, and again whenever there are too many. So sums over all rows stay exact, and a
    block's mean stands for its rows.

    `stride` is the rows of a block (the last may have fewer), `count` the rows so far and
    `steps` the global step of each block's last row.

    >>> blocks = Blocks(most=2)
    >>> for step in range(1, 4):
    ...     blocks.add(step, np.array([float(step)]))
    >>> blocks.stride, blocks.steps, [mean.tolist() for mean in blocks.means()]
    (2, [2, 3], [[1.5], [3.0]])
    """

    def __init__(self, most: int | None = None) -> None:
        self.most = most  # blocks; None for as many as `MOST_NUMBERS` allows
        self.stride = 1
        self.count = 0
        self.sums: list[Array] = []
        self.steps: list[int] = []

    def add(self, step: int, row: Array) -> None:
        """Add the row of an update at a global step."""
        if self.count % self.stride:
            self.sums[-1] = self.sums[-1] + row
            self.steps[-1] = step
        else:
            self.sums.append(row)
            self.steps.append(step)
        self.count += 1
        while len(self.sums) > (self.most or most_rows(row.size)):
            self._halve()

    def means(self) -> list[Array]:
        """Return the mean of each block."""
        if self.stride == 1:
            return self.sums
        last = self.count - self.stride * (len(self.sums) - 1)
        return [total / self.stride for total in self.sums[:-1]] + [self.sums[-1] / last]

    def mean_since(self, row: int) -> Array:
        """Return the mean of row number `row` and all after it, from the start of its block."""
        start = row // self.stride
        if self.stride == 1:
            return np.stack(self.sums[start:]).mean(axis=0)
        return np.sum(self.sums[start:], axis=0) / (self.count - start * self.stride)

    def _halve(self) -> None:
        self.sums = [sum(self.sums[i + 1 : i + 2], self.sums[i]) for i in _even(self.sums)]
        self.steps = [self.steps[i : i + 2][-1] for i in _even(self.steps)]
        self.stride *= 2

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain Python; `count` and `stride` if blocks have several rows."""
        state: dict[str, Any] = {"sums": _stack(self.sums), "steps": list(self.steps)}
        return state if self.stride == 1 else state | {"stride": self.stride, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, to the bit."""
        self.sums = list(state["sums"].double().numpy())
        self.steps = list(state["steps"])
        self.stride = state.get("stride", 1)
        self.count = state.get("count", len(self.sums))


class Trajectory(Blocks):
    """`Blocks` that also keep the first row of each block, and the latest row.

    `rows` are these and `row_steps` their global steps; with blocks of one row they are all rows.

    >>> weights = Trajectory(most=2)
    >>> for step in range(6):
    ...     weights.add(step, np.array([float(step)]))
    >>> weights.row_steps, [row.tolist() for row in weights.rows], weights.mean_since(3).tolist()
    ([0, 4, 5], [[0.0], [4.0], [5.0]], [2.5])
    """

    def __init__(self, most: int | None = None) -> None:
        super().__init__(most)
        self._first: list[Array] = []
        self._first_steps: list[int] = []
        self.last: Array = np.zeros(0)

    @property
    def rows(self) -> list[Array]:
        """Return the first row of each block, and the latest row."""
        alone = (self.count - 1) % self.stride == 0  # the latest row opened its block
        return self._first if alone else [*self._first, self.last]

    @property
    def row_steps(self) -> list[int]:
        """Return the global step of each of `rows`."""
        alone = (self.count - 1) % self.stride == 0
        return self._first_steps if alone else [*self._first_steps, self.steps[-1]]

    def add(self, step: int, row: Array) -> None:
        """Add the row of an update at a global step."""
        self.last = row
        if self.count % self.stride == 0:
            self._first.append(row)
            self._first_steps.append(step)
        super().add(step, row)

    def _halve(self) -> None:
        self._first, self._first_steps = self._first[::2], self._first_steps[::2]
        super()._halve()

    def state_dict(self) -> dict[str, Any]:
        """Return the rows too."""
        state: dict[str, Any] = {"rows": _stack(self.rows), "row_steps": list(self.row_steps)}
        return state if self.stride == 1 else state | super().state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, to the bit."""
        rows, steps = list(state["rows"].double().numpy()), list(state["row_steps"])
        super().load_state_dict({"sums": state["rows"], "steps": steps} | state)
        blocks = len(self.sums)
        self._first, self._first_steps, self.last = rows[:blocks], steps[:blocks], rows[-1]


def most_rows(size: int) -> int:
    """Return how many rows of so many numbers a series keeps."""
    return max(LEAST_ROWS, MOST_NUMBERS // max(size, 1))


def _even(items: list[Any]) -> range:
    return range(0, len(items), 2)


def _stack(rows: list[Array]) -> torch.Tensor:
    return torch.from_numpy(np.stack(rows))
