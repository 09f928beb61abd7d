"""Accuracy, F1 and calibration of a classifier by domain.

Macro F1 is counted here, because torchmetrics makes an array [classes, classes] for it (9 s and
4 GB a domain for 21,841 classes), and [samples, classes²] if the run is deterministic.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error

from tandem_pl.simplex import Array

TOP = 5  # number of largest logits for top5_accuracy
BINS = 15  # of confidence, from 0 to 1, for calibration_error
NAMES = ("accuracy", "top5_accuracy", "macro_f1", "calibration_error")


class Predictions(NamedTuple):
    """What the metrics need of N samples: tensors on the device, or arrays."""

    domains: Any  # [N] int64
    labels: Any  # [N] int64
    classes: Any  # [N] int64, class with the largest logit
    confidences: Any  # [N] largest probability
    in_top: Any  # [N] bool, whether the label is among the TOP largest logits


def predict(domains: Tensor, labels: Tensor, logits: Tensor) -> Predictions:
    """Return the predictions of a batch.

    Args:
        domains: [B].
        labels: [B], or probabilities [B, classes].
        logits: [B, classes] float.
    """
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
    """Return the name of each metric and its values [domains]; NaN for a domain without samples.

    >>> columns = ([0, 0, 1], [0, 1, 1], [0, 0, 1], [0.5, 0.75, 1.0], [True, True, True])
    >>> scores = scores_by_domain(Predictions(*map(np.array, columns)), domains=2, classes=2)
    >>> scores["accuracy"].tolist(), scores["calibration_error"].tolist()
    ([0.5, 1.0], [0.625, 0.0])
    """
    order = np.argsort(samples.domains, kind="stable")
    starts = np.searchsorted(samples.domains[order], np.arange(1, domains))
    scores = np.full((len(NAMES), domains), np.nan)
    for domain, rows in enumerate(np.split(order, starts)):
        if len(rows):
            scores[:, domain] = _scores(Predictions(*(column[rows] for column in samples)), classes)
    return {
        name: values
        for name, values in zip(NAMES, scores, strict=True)
        if classes > TOP or name != "top5_accuracy"
    }


def _scores(samples: Predictions, classes: int) -> tuple[float, ...]:
    right = samples.classes == samples.labels
    hits, labelled, predicted = (
        np.bincount(column, minlength=classes)
        for column in (samples.labels[right], samples.labels, samples.classes)
    )
    known = labelled + predicted > 0  # other classes do not count
    f1 = 2 * hits[known] / (labelled + predicted)[known]
    confidences, hit = torch.from_numpy(samples.confidences).double(), torch.from_numpy(right)
    error = float(binary_calibration_error(confidences, hit, BINS, validate_args=False))
    calibration = float("nan") if confidences.isnan().any() else error  # torchmetrics skips NaN
    return right.mean(), samples.in_top.mean(), f1.mean(), calibration
