"""`Method`: what a method goes by, needs and costs, as its class declares in `rows`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Length(NamedTuple):
    """Of a run: number of training domains, training steps, and samples in a batch."""

    domains: int
    steps: int
    batch_size: int


def evaluation_cost(samples: int | None, run: Length) -> float:
    """Return the cost in proxy steps of evaluating so many samples of each target domain.

    It takes the target domains to be as many as the training domains, and is NaN if `samples` is
    None, for all.
    """
    return math.nan if samples is None else samples * run.domains / run.batch_size / 3


@dataclass(frozen=True)
class Method:
    """A row of the table of methods.

    Costs are in proxy steps: the forward and backward of one batch; a forward alone is a third.

    Args:
        name: of the method, in commands and tables.
        about: one line on what the weights depend on.
        paper: its source, or "" for a baseline.
        cost: formula for the cost of an episode beyond its training steps.
        work: (settings of the callback, length of a run) -> cost of the run with its training
            steps; None for weights that are given.
        settings: of the callback, if they differ from its defaults.
        module: name of the module that it needs.
        needs_reference: whether it needs a network that was trained before.
        needs_target: whether it needs target data.
        result: which weights to train with afterwards, "average" or "last".
        online: whether the network that the weights are learned with is meant to be kept, as by
            `network: online` of `tandem compare`; False for that of a proxy whose loss is weighted.
        owner: the callback's class; set by the table.
    """

    name: str
    about: str
    paper: str = ""
    cost: str = "0"
    work: Callable[[Mapping[str, Any], Length], float] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    module: str = "MixtureModule"
    needs_reference: bool = False
    needs_target: bool = False
    result: str = "average"
    online: bool = True
    owner: type = object

    def load(self) -> type:
        """Return the callback's class."""
        return self.owner

    @property
    def callback(self) -> str:
        """The name of the callback's class."""
        return self.owner.__name__

    @property
    def class_path(self) -> str:
        """The callback's import path, for configurations."""
        from tandem_pl import callbacks

        exported = self.callback in callbacks.__all__
        return f"{callbacks.__name__ if exported else self.owner.__module__}.{self.callback}"
