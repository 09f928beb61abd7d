"""A proposed mixture: its weights, what is expected of it, its file and its picture."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tandem_pl.files import png_bytes, write_atomically
from tandem_pl.mixture import Mixture
from tandem_pl.simplex import Array

from .reuse import FrozenDomains

if TYPE_CHECKING:
    from .fitting import Law

POINTS = 41  # of the way from the reference to the proposal


class Expectation(NamedTuple):
    """What a law expects of a metric: at the reference, at the proposal, and the gain's error."""

    reference: float
    predicted: float
    error: float


@dataclass(frozen=True, eq=False)
class Proposal:
    """A mixture proposed by laws.

    Attributes:
        weights: domain -> share, in the bounds to the last bit.
        prior: domain -> share of the mixture that KL pulls to.
        reference: domain -> share of the mixture that the gain is over.
        predicted: Σ w_i f_i at the proposal, without KL.
        predicted_reference: the same at the reference.
        error: standard error of `gain`: the jackknife's over the folds of cross-validation, and the
            residuals of held-out runs among the quarter with the best predictions.
        metrics: name -> what is expected of it.
        laws: name -> law.
        metric_weights: name -> w_i.
        settings: how it was found.
        warnings: why it is not to be trusted, one sentence each.
        frozen: domains whose ratios were kept, if the laws are on a virtual domain.
    """

    weights: dict[str, float]
    prior: dict[str, float]
    reference: dict[str, float]
    predicted: float
    predicted_reference: float
    error: float
    metrics: dict[str, Expectation]
    laws: Mapping[str, Law]
    metric_weights: dict[str, float]
    settings: dict[str, Any]
    warnings: tuple[str, ...] = ()
    frozen: FrozenDomains | None = None

    @property
    def gain(self) -> float:
        """How much lower Σ w_i f_i is at the proposal than at the reference."""
        return self.predicted_reference - self.predicted

    @property
    def mixture(self) -> Mixture:
        """The weights of the real domains, with facts for the file."""
        about = {
            "method": "search",
            "settings": self.settings,
            "predicted": self.predicted,
            "predicted_at_reference": self.predicted_reference,
            "error_of_gain": self.error,
            "metrics": {name: one._asdict() for name, one in self.metrics.items()},
            "reference": self.expand(self.reference),
        }
        return Mixture(self.expand(self.weights), about=about)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a mixture file, which `--data.weights` takes."""
        self.mixture.save(path)

    def way(self) -> tuple[Array, dict[str, Array]]:
        """Return [T] steps from the reference (0) to the proposal (1), and each metric there."""
        steps = np.linspace(0.0, 1.0, POINTS)
        start, end = (np.array(list(m.values())) for m in (self.reference, self.weights))
        points = start + steps[:, None] * (end - start)
        return steps, {name: law.predict_by(law.model, points) for name, law in self.laws.items()}

    def draw(self, path: str | os.PathLike[str]) -> None:
        """Write a picture (PNG) of the metrics along that way, and of the weights."""
        from .plots import draw_proposal

        write_atomically(Path(path), png_bytes(draw_proposal(self)))

    def expand(self, weights: dict[str, float]) -> dict[str, float]:
        """Return a mixture on the real domains, if these are on a virtual one."""
        return weights if self.frozen is None else self.frozen.expand(weights)
