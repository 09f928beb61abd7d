"""Scores by domain against torchmetrics."""

import numpy as np
import pytest
import torch
from classification_oracle import expected
from torch import nn

from tandem_pl.callbacks.monitoring.classification_scores import (
    Predictions,
    predict,
    scores_by_domain,
)


@pytest.mark.parametrize("classes", [2, 5, 6, 40])
@pytest.mark.parametrize("scale", [1.0, 200.0])  # with confidences of exactly 1
def test_scores_equal_torchmetrics(classes, scale):
    generator = torch.Generator().manual_seed(classes)
    logits = scale * torch.randn(200, classes, generator=generator)
    labels = torch.randint(0, classes, (200,), generator=generator)
    labels = torch.where(torch.rand(200, generator=generator) < 0.5, logits.argmax(1), labels)
    domains = torch.randint(0, 4, (200,), generator=generator) // 2 * 2  # 0 and 2
    samples = Predictions(*(t.numpy() for t in predict(domains, labels, logits)))
    found = scores_by_domain(samples, 3, classes)
    assert ("top5_accuracy" in found) == (classes > 5)
    for domain in (0, 2):
        rows = domains == domain
        if classes <= 5:
            values = expected(nn.functional.pad(logits[rows], (0, 6), value=-1e9), labels[rows])
        else:
            values = expected(logits[rows], labels[rows])
        for name, column in found.items():
            assert column[domain] == pytest.approx(values[name], abs=2e-6)
            assert np.isnan(column[1])


def test_infinite_and_nan_logits_raise_no_error():
    logits = torch.tensor([[float("nan"), 0.0], [1.0, float("-inf")]])
    samples = predict(torch.tensor([0, 1]), torch.tensor([1, 0]), logits)
    scores = scores_by_domain(Predictions(*(t.numpy() for t in samples)), 2, 2)
    assert scores["accuracy"].tolist() == [0.0, 1.0]
    assert np.isnan(scores["calibration_error"][0])
    assert scores["calibration_error"][1] == 0.0


def test_probabilities_count_as_their_largest_class():
    labels = torch.tensor([[0.3, 0.7], [0.9, 0.1]])
    samples = predict(torch.zeros(2, dtype=torch.long), labels, torch.eye(2))
    assert samples.labels.tolist() == [1, 0]
