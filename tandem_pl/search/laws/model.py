"""What a law is fitted on, and what it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tandem_pl.simplex import Array

STEP = 1e-6  # of the share of a domain, for differences


class Problem(NamedTuple):
    """Runs to fit a law on.

    Attributes:
        metric: its name, for messages.
        weights: [N, M] shares that sum to 1.
        values: [N] the metric.
        length: [N] tokens of each run over those of the longest, or None.
        domain: the domain that the metric is measured on, if its name says so.
        seed: of everything random in the fit.
        whole: the fit on all runs, if this is one on a part of them for cross-validation, which may
            start from it.
    """

    metric: str
    weights: Array
    values: Array
    length: Array | None
    domain: int | None
    seed: int
    whole: Model | None = None


class Model(ABC):
    """A fitted law. Off the simplex it need only be finite, for derivatives."""

    @abstractmethod
    def predict(self, weights: Array) -> Array:
        """Return [N] values at [N, M] weights, for runs as long as the longest one fitted."""

    def gradient(self, point: Array) -> Array:
        """Return the [M] derivatives at one mixture; by forward differences unless overridden."""
        moved = np.vstack([point, point + STEP * np.eye(len(point))])
        values = self.predict(moved)
        return (values[1:] - values[0]) / STEP


class SumModel(Model):
    """The weighted sum of models.

    Args:
        models: the weight of each, and the model.
    """

    def __init__(self, models: Sequence[tuple[float, Model]]) -> None:
        self.models = tuple(models)

    def predict(self, weights: Array) -> Array:
        """Return the sum of the predictions."""
        parts = [share * model.predict(weights) for share, model in self.models]
        return np.sum(parts, axis=0, dtype=np.float64)

    def gradient(self, point: Array) -> Array:
        """Return the sum of the derivatives."""
        parts = [share * model.gradient(point) for share, model in self.models]
        return np.sum(parts, axis=0, dtype=np.float64)
