"""`DeclaredState`: attributes of a run that are declared once, then reset and saved."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

T = TypeVar("T")


class DeclaredState:
    """Resets declared attributes at the start of a fit, and keeps them in checkpoints.

    An attribute holds None, numbers, strings, float64 or int64 arrays, tensors, or lists and dicts
    of these. Checkpoints hold arrays as tensors under the attribute's name without its leading
    underscore.

    >>> state = DeclaredState()
    >>> state.rewards = state.add_state("rewards", lambda: np.zeros(2))
    >>> state.rewards += 1
    >>> saved = state.declared_values()
    >>> state.reset_state()
    >>> state.rewards.tolist(), saved["rewards"].tolist()
    ([0.0, 0.0], [1.0, 1.0])
    """

    def __init__(self) -> None:
        self._declared: dict[str, Callable[[], Any]] = {}
        self._of_tensors: set[str] = set()
        self._on_host: set[str] = set()

    def add_state(
        self, name: str, start: Callable[[], T], tensors: bool = False, on_host: bool = False
    ) -> T:
        """Declare an attribute, set it, and return its value, so that it can be annotated.

        Args:
            name: of the attribute.
            start: returns the first value; called again when a fit starts.
            tensors: whether tensors in it stay tensors when a checkpoint is loaded; otherwise they
                become arrays.
            on_host: whether these tensors stay on the CPU, because they need much memory; otherwise
                they move to the device of the run.
        """
        self._declared[name] = start
        if tensors:
            self._of_tensors.add(name)
        if on_host:
            self._on_host.add(name)
        value = start()
        setattr(self, name, value)
        return value

    def reset_state(self) -> None:
        """Set every declared attribute to its first value."""
        for name, start in self._declared.items():
            setattr(self, name, start())

    def declared_values(self) -> dict[str, Any]:
        """Return tensors on the CPU and plain Python."""
        return {name.lstrip("_"): _to_saved(getattr(self, name)) for name in self._declared}

    def load_declared(self, saved: dict[str, Any]) -> None:
        """Restore the declared attributes that a checkpoint has.

        For a list, older checkpoints hold None or one stacked tensor.
        """
        for name, start in self._declared.items():
            if name.lstrip("_") in saved:
                value = saved[name.lstrip("_")]
                if isinstance(start(), list):
                    value = [] if value is None else list(value)
                if name not in self._of_tensors:
                    value = tree_map_only(Tensor, lambda tensor: tensor.numpy(), value)
                setattr(self, name, copy.deepcopy(value))

    def move_tensors(self, device: torch.device) -> None:
        """Move declared tensors to a device, since checkpoints are loaded on the CPU."""
        for name in self._of_tensors - self._on_host:
            setattr(self, name, tree_map_only(Tensor, lambda t: t.to(device), getattr(self, name)))


def _to_saved(value: Any) -> Any:
    arrays_saved = tree_map_only(np.ndarray, lambda a: torch.from_numpy(a.copy()), value)
    return tree_map_only(Tensor, lambda tensor: tensor.detach().cpu(), arrays_saved)
