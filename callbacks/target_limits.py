"""`TargetLimits`: the `no_worse_than` option of methods that predict each target's loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from lightning.pytorch import Trainer

from tandem_pl.errors import InputError, did_you_mean
from tandem_pl.simplex import Array

from .measures.constrained import nearest_that_keeps

UNIFORM = "uniform run"
NO_MIXTURE = "no mixture keeps the targets of no_worse_than"  # why weights do not change
LimitSetting: TypeAlias = dict[str, float | str] | None


class TargetLimits:
    """Weights move only so far that no listed target is predicted to lose.

    Prediction is linear: S_im is the gain of target i for a unit of weight on domain m, as the
    method measured it. The weights w of an update become the nearest mixture for which:

    - for a target with a number, S_i w >= S_i w_now as long as its measured loss is above that
      number; below it, the target is free;
    - for a target with "uniform run", S_i w >= S_i w_uniform: TiKMiX's Pareto condition, with
      uniform as what it is compared to.

    A prediction is as noisy as S. The weights of `anchor` are made afterwards, without this
    condition.

    Args:
        setting: target domain -> loss in nats, or "uniform run"; None for no condition.

    Raises:
        InputError: for something else, and in `prepare` for an unknown target.
    """

    def __init__(self, setting: LimitSetting) -> None:
        self.setting = dict(setting or {})
        for name, limit in self.setting.items():
            number = -1.0 if isinstance(limit, str | bool | None) else float(limit)
            if not (math.isfinite(number) and number > 0) and limit != UNIFORM:
                raise InputError(
                    f"no_worse_than[{name!r}]={limit!r} must be a loss above 0, in nats, or "
                    f"{UNIFORM!r}."
                )
        self._places: list[int] = []

    def prepare(self, names: Sequence[str]) -> None:
        """Find the listed targets among those that the method measures."""
        for name in self.setting:
            if name not in names:
                hint = did_you_mean(name, names)
                raise InputError(
                    f"no_worse_than has {name!r}, which is no target domain with a share: {hint}"
                    f"there are {', '.join(names)}."
                )
        self._places = [list(names).index(name) for name in self.setting]

    def conditions(self, now: Array, gains: Array, losses: Array) -> list[tuple[Array, float]]:
        """Return (S_i [M], least S_i w) of the targets that are not free; see `keep`."""
        found = []
        for place, limit in zip(self._places, self.setting.values(), strict=True):
            if isinstance(limit, str):
                found.append((gains[place], float(gains[place].mean())))
            elif losses[place] > limit:
                found.append((gains[place], float(gains[place] @ now)))
        return found

    def keep(
        self, trainer: Trainer, proposed: Array, now: Array, gains: Array, losses: Array
    ) -> Array | None:
        """Return the weights that keep the condition; None if no mixture does.

        Args:
            trainer: of the run; all ranks get the first one's weights.
            proposed: [M] of the method.
            now: [M] of the last update.
            gains: S [M', M].
            losses: [M'] of the targets, in nats.
        """
        conditions = self.conditions(now, gains, losses)
        if not conditions:
            return proposed
        rows, least = zip(*conditions, strict=True)
        kept = nearest_that_keeps(proposed, np.stack(rows), np.array(least))
        return trainer.strategy.broadcast(kept)
