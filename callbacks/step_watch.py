"""Whether a method's step size fits: updates that alternate, stand still, or measure nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem_pl.simplex import Array

from .step_size import centred

TURNS = -0.85  # correlation of moves in a row below which the weights alternate
MEMORY = 0.9  # of the running sums over moves
LEAST_MOVES = 12  # before the correlation counts
LARGE = 0.05  # mean share of the data that an alternating update moves
STILL = 0.02  # share of the data that has moved at most in a run that stands still
WOULD_MOVE = 0.1  # share of the data that the scale-free step would have moved instead
LEAST_STILL = 64  # updates before a run can stand still; then at each doubling
MANY_EQUAL = 16  # updates from the first on

Flags = NDArray[np.bool_]
Step = Callable[[Array, Array, float], Array]  # (weights, gradient, learning rate) -> weights


def new_state(size: int) -> dict[str, Any]:
    """Return the state of a `StepWatch` of `size` domains before the first update."""
    return {
        "updates": 0,
        "equal": 0,  # updates that measured the same for every domain
        "turn": 0.0,  # running sum of products of moves in a row
        "length": 0.0,  # and of their mean squares
        "share": 0.0,  # running sum of shares of the data that moved
        "move": np.zeros(size),  # of the last update
        "sum": np.zeros(size),  # of the centred gradients
        "squares": np.zeros(size),
        "warned": [],  # problems
    }


class StepWatch:
    """Watches the updates of a method that follows a gradient, at O(M) an update.

    It finds each of three problems once:

    - "alternate": the correlation of each move with the one before is below -0.85, over about 10
      updates that move 5 % of the data and more;
    - "still": after 64, 128, ... updates the weights are within 2 % of the start, though the sum of
      the gradients is significant, and the scale-free step along it would move 10 % or more;
    - "equal": the first 16 updates all measured the same for every domain, so that no step moves a
      weight. (A run that has come to its optimum without noise measures the same, too.)

    Args:
        state: see `new_state`; plain numbers and arrays, for checkpoints. It is changed.
    """

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state

    def watch(
        self,
        start: Array,
        before: Array,
        after: Array,
        gradient: Array,
        known: Flags,
        step: Step,
        rate: float,
    ) -> str | None:
        """Take one update, and return the problem that it shows; None for nothing new.

        Args:
            start: [M] weights at the start of the run.
            before: [M] weights before the update.
            after: [M] weights after it.
            gradient: [M] what the update followed, finite.
            known: [M] whether a domain was measured.
            step: the method's step, with its bounds.
            rate: of the scale-free step now, in the unit that `step` takes.
        """
        self._add(before, after, gradient, known)
        for problem, found in (
            ("equal", self.state["equal"] == self.state["updates"] >= MANY_EQUAL),
            ("alternate", self._alternates()),
            ("still", self._stands_still(start, after, step, rate)),
        ):
            if found and problem not in self.state["warned"]:
                self.state["warned"] = [*self.state["warned"], problem]
                return problem
        return None

    def _add(self, before: Array, after: Array, gradient: Array, known: Flags) -> None:
        state, move = self.state, after - before
        slope = centred(gradient, known)
        same = int(len(slope) > 1 and np.abs(slope).max() <= 1e-12 * np.abs(gradient).max())
        state["equal"] += same
        state["updates"] += 1
        state["sum"] = state["sum"] + slope
        state["squares"] = state["squares"] + slope**2
        last = state["move"]
        state["turn"] = MEMORY * state["turn"] + float(move @ last)
        state["length"] = MEMORY * state["length"] + 0.5 * float(move @ move + last @ last)
        state["share"] = MEMORY * state["share"] + 0.5 * float(np.abs(move).sum())
        state["move"] = move

    def _alternates(self) -> bool:
        state = self.state
        share = state["share"] * (1 - MEMORY) / (1 - MEMORY ** state["updates"])
        enough = state["updates"] >= LEAST_MOVES and share >= LARGE
        return bool(enough and state["turn"] <= TURNS * state["length"])

    def _stands_still(self, start: Array, now: Array, step: Step, rate: float) -> bool:
        from scipy.special import ndtri  # takes long to import

        updates = self.state["updates"]
        if updates < LEAST_STILL or updates & (updates - 1):
            return False
        total, root = self.state["sum"], np.sqrt(self.state["squares"])
        bound = ndtri(1 - 0.025 / len(now))  # 95 % over all domains together
        if _moved(start, now) >= STILL or not (np.abs(total) > bound * root).any():
            return False
        return _moved(now, step(now, total, rate)) >= WOULD_MOVE  # not held by its bounds


def warning_of(
    problem: str, watch: StepWatch, setting: float | str, suggested: float
) -> str | None:
    """Return the text of a warning, with the step to use; None if it does not concern the setting.

    Args:
        problem: what `StepWatch.watch` returned.
        watch: that found it.
        setting: the method's `learning_rate`; a step that is not a number is not in question.
        suggested: the scale-free step now, in the setting's unit.
    """
    updates = watch.state["updates"]
    if problem == "equal":
        return (
            f"all of the first {updates} updates measured the same for every domain, so the "
            "weights do not change: give the domains different data, and a training step that "
            "moves the networks."
        )
    if isinstance(setting, str):
        return None
    text = {
        "alternate": "the updates alternate, each undoing the one before",
        "still": (
            f"the weights have moved by less than {STILL:.0%} of the data in {updates} updates, "
            "though the domains differ beyond chance"
        ),
    }[problem]
    return (
        f"{text}: set learning_rate to {suggested:.2g} in place of {setting:g}, or to "
        "auto, which needs no tuning."
    )


def _moved(one: Array, other: Array) -> float:
    return 0.5 * float(np.abs(one - other).sum())
