"""`TargetLimits`: the `no_worse_than` option of methods that predict each target's loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
      number, or is not known; below it, the target is free;
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
        if not isinstance(setting, Mapping | None):
            raise InputError(
                f"no_worse_than={setting!r} must be a map of target domain to a loss, in nats, or "
                f"to {UNIFORM!r}."
            )
        self.setting = dict(setting or {})
        for name, limit in self.setting.items():
            number = limit if isinstance(limit, int | float) and not isinstance(limit, bool) else 0
            if not (math.isfinite(number) and number > 0) and limit != UNIFORM:
                raise InputError(
                    f"no_worse_than[{name!r}]={limit!r} must be a loss above 0, in nats, or "
                    f"{UNIFORM!r}."
                )
        self._places: list[int] = []

    def prepare(self, names: Sequence[str]) -> None:
        """Find the listed targets among those that the method measures."""
        for name in self.setting:
            if not names:
                raise InputError("no_worse_than needs target data, and there are none.")
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
            elif not losses[place] <= limit:  # also if it is not known
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
            losses: [M'] of the targets, in nats; NaN if not known.
        """
        conditions = self.conditions(now, gains, losses)
        if not conditions:
            return proposed
        rows, least = zip(*conditions, strict=True)
        gains_of, bounds = np.stack(rows), np.array(least)
        kept = nearest_that_keeps(proposed, gains_of, bounds)
        if kept is None:  # the search is numerical: targets may be nearly opposed
            kept = nearest_that_keeps(now, gains_of, bounds)
        return trainer.strategy.broadcast(kept)
