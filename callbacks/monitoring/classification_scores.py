"""Accuracy, F1 and calibration of a classifier by domain, of what is kept of each sample."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tandem_pl.simplex import Array

TOP = 5  # of so many largest logits one may be the label's
BINS = 15  # of confidence, from 0 to 1, for the calibration error


class Predictions(NamedTuple):
    """What the metrics need to know of N samples: arrays, or tensors on the device."""

    domains: Any  # [N] int64
    labels: Any  # [N] int64
    classes: Any  # [N] int64, of the largest logit
    confidences: Any  # [N] the largest probability
    in_top: Any  # [N] bool, whether the label is among the TOP largest logits


def predict(domains: Tensor, labels: Tensor, logits: Tensor) -> Predictions:
    """Args: domains [B]; labels [B], or probabilities [B, classes]; logits [B, classes] float."""
    labels = labels.argmax(dim=1) if labels.dim() == 2 else labels
    top = logits.topk(min(TOP, logits.shape[1]), dim=1).indices
    return Predictions(
        domains,
        labels,
        logits.argmax(dim=1),
        logits.softmax(dim=1).amax(dim=1),
        (top == labels[:, None]).any(dim=1),
    )


def scores_by_domain(samples: Predictions, domains: int, classes: int) -> dict[str, Array]:
    """Name of the metric -> its values [domains]; NaN for a domain without samples.

    >>> rows = ([0, 0, 1], [0, 1, 1], [0, 0, 1], [0.5, 0.75, 1.0], [True, True, True])
    >>> scores = scores_by_domain(Predictions(*map(np.array, rows)), domains=2, classes=2)
    >>> scores["accuracy"].tolist(), scores["calibration_error"].tolist()
    ([0.5, 1.0], [0.625, 0.0])
    """
    where, right = samples.domains, samples.classes == samples.labels

    def sums(columns: int, column: NDArray, values: NDArray | None = None) -> Array:
        """[domains, columns]."""
        flat = np.bincount(where * columns + column, values, domains * columns)
        return flat.reshape(domains, columns).astype(np.float64)

    first = np.zeros_like(where)
    edges = np.linspace(0, 1, BINS + 1, dtype=samples.confidences.dtype)
    bins = edges.searchsorted(samples.confidences, side="right") - 1  # 1 has a bin of its own
    gaps = sums(BINS + 1, bins.clip(0), right - samples.confidences.astype(np.float64))
    either = sums(classes, samples.labels) + sums(classes, samples.classes)
    f1 = 2 * sums(classes, samples.labels, right) / np.maximum(either, 1)
    with np.errstate(invalid="ignore"):  # 0 / 0: no samples
        count = sums(1, first)[:, 0]
        scores = {"accuracy": sums(1, first, right)[:, 0] / count}
        if classes > TOP:
            scores["top5_accuracy"] = sums(1, first, samples.in_top)[:, 0] / count
        scores["macro_f1"] = f1.sum(axis=1) / (either > 0).sum(axis=1)
        scores["calibration_error"] = np.abs(gaps).sum(axis=1) / count
    return scores
