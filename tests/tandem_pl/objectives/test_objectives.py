import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tandem_pl.errors import InputError
from tandem_pl.objectives import CausalLanguageModeling, Classification, Regression

LOGITS = [[1.0, -2.0, 0.5], [0.25, 3.0, -1.0]]


def log_softmax(row: list[float]) -> list[float]:
    total = math.log(math.fsum(math.exp(value) for value in row))
    return [value - total for value in row]


def constant(logits: torch.Tensor):
    return lambda *_, **__: logits


def token_logits(batch: int, length: int, vocabulary: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, length, vocabulary, generator=generator, dtype=torch.float64)


def next_token_loss(logits, labels, ignored: int = -100) -> list[float]:
    """Position t predicts label t+1; ignored labels do not count."""
    losses = []
    for rows, row_labels in zip(logits.tolist(), labels, strict=True):
        pairs = [(rows[t], row_labels[t + 1]) for t in range(len(row_labels) - 1)]
        terms = [-log_softmax(row)[label] for row, label in pairs if label != ignored]
        losses.append(math.fsum(terms) / len(terms) if terms else 0.0)
    return losses


def test_language_modeling_predicts_the_next_token() -> None:
    logits, tokens = token_logits(2, 4, 5), [[1, 4, 0, 2], [3, 3, 2, 1]]
    losses = CausalLanguageModeling()(constant(logits), {"input_ids": torch.tensor(tokens)})
    assert losses.tolist() == pytest.approx(next_token_loss(logits, tokens), rel=1e-12)
    assert losses.dtype == torch.float64


def test_ignored_labels_neither_add_nor_divide() -> None:
    logits = token_logits(3, 4, 5)
    labels = [[1, -100, 0, 2], [3, 3, -100, -100], [0, -100, -100, -100]]
    samples = {"input_ids": torch.zeros(3, 4, dtype=torch.long), "labels": torch.tensor(labels)}
    losses = CausalLanguageModeling()(constant(logits), samples)
    assert losses.tolist() == pytest.approx(next_token_loss(logits, labels), rel=1e-12)
    assert losses[2] == 0.0


def test_the_ignored_label_can_be_another() -> None:
    logits, labels = token_logits(1, 4, 5), [[1, 0, 3, 0]]
    samples = {"input_ids": torch.tensor([[1, 2, 3, 4]]), "labels": torch.tensor(labels)}
    losses = CausalLanguageModeling(ignore_index=0)(constant(logits), samples)
    assert losses.tolist() == pytest.approx(next_token_loss(logits, labels, ignored=0), rel=1e-12)


def test_the_network_gets_everything_but_the_labels_by_name() -> None:
    seen = {}

    def network(**inputs):
        seen.update(inputs)
        return SimpleNamespace(logits=token_logits(1, 3, 5))

    tokens = torch.tensor([[1, 2, 3]])
    samples = {"input_ids": tokens, "labels": tokens, "attention_mask": torch.ones(1, 3)}
    losses = CausalLanguageModeling()(network, samples)
    assert set(seen) == {"input_ids", "attention_mask"}
    assert losses.tolist() == pytest.approx(next_token_loss(token_logits(1, 3, 5), tokens.tolist()))


def test_classification_is_the_cross_entropy_of_the_class() -> None:
    logits, labels = torch.tensor(LOGITS, dtype=torch.float64), torch.tensor([2, 0])
    losses = Classification()(constant(logits), (torch.zeros(2, 1), labels))
    expected = [-log_softmax(LOGITS[0])[2], -log_softmax(LOGITS[1])[0]]
    assert losses.tolist() == pytest.approx(expected, rel=1e-12)


def test_label_smoothing_spreads_over_all_classes() -> None:
    logits, labels = torch.tensor(LOGITS, dtype=torch.float64), torch.tensor([2, 0])
    losses = Classification(label_smoothing=0.3)(constant(logits), (torch.zeros(2, 1), labels))
    expected = []
    for row, label in zip(LOGITS, [2, 0], strict=True):
        log_p = log_softmax(row)
        expected.append(-0.7 * log_p[label] - 0.1 * math.fsum(log_p))
    assert losses.tolist() == pytest.approx(expected, rel=1e-12)


def test_soft_labels_weigh_the_classes() -> None:
    soft = [[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]]
    labels = torch.tensor(soft, dtype=torch.float64)
    logits = torch.tensor(LOGITS, dtype=torch.float64)
    losses = Classification()(constant(logits), [torch.zeros(2, 1), labels])
    expected = [
        -math.fsum(p * q for p, q in zip(probabilities, log_softmax(row), strict=True))
        for probabilities, row in zip(soft, LOGITS, strict=True)
    ]
    assert losses.tolist() == pytest.approx(expected, rel=1e-12)
    fewer = Classification()(constant(logits), [torch.zeros(2, 1), labels[:, :2] * 2])
    assert (
        fewer.tolist()
        == pytest.approx(  # a network may have more classes than the data
            [
                -2 * math.fsum(p * q for p, q in zip(some[:2], log_softmax(row), strict=False))
                for some, row in zip(soft, LOGITS, strict=True)
            ],
            rel=1e-12,
        )
    )


@pytest.mark.parametrize(
    "keys", [("image", "label"), ("input", "target"), ("pixel_values", "labels")]
)
def test_samples_may_be_a_map(keys) -> None:
    inputs, labels = torch.tensor(LOGITS), torch.tensor([1, 1])
    losses = Classification()(nn.Identity(), dict(zip(keys, (inputs, labels), strict=True)))
    assert losses.tolist() == pytest.approx([-log_softmax(row)[1] for row in LOGITS], rel=1e-6)


def test_samples_of_another_form_are_refused() -> None:
    with pytest.raises(InputError, match=r"type Tensor are neither a pair \(inputs, labels\)"):
        Classification()(nn.Identity(), torch.zeros(3, 2))
    with pytest.raises(InputError, match=r"none of 'image', .*keys are 'x', 'label'"):
        Classification()(nn.Identity(), {"x": torch.zeros(3, 2), "label": torch.zeros(3)})
    with pytest.raises(InputError, match="none of 'label', 'labels', 'target'"):
        Classification()(nn.Identity(), {"image": torch.zeros(3, 2)})


def test_regression_sums_half_the_squares_over_outputs() -> None:
    inputs = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 1.0]]])
    targets = torch.tensor([[[0.0, 2.0], [1.0, 1.0]], [[1.0, 0.0], [0.0, 0.0]]])
    losses = Regression()(nn.Identity(), (inputs, targets))
    assert losses.tolist() == [0.5 * (1 + 0 + 4 + 9), 0.5 * (1 + 1)]


def test_regression_refuses_labels_that_would_be_broadcast() -> None:
    with pytest.raises(InputError, match=r"shape \(4, 1\) and labels of shape \(4,\)"):
        Regression()(nn.Identity(), (torch.zeros(4, 1), torch.zeros(4)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_lifted_before_the_loss(dtype) -> None:
    """Summed in half precision these losses would be off by more than 1e-3."""
    logits = token_logits(2, 50, 40).to(dtype)
    tokens = torch.arange(100).reshape(2, 50) % 40
    language = CausalLanguageModeling()(constant(logits), {"input_ids": tokens})
    assert language.dtype == torch.float32
    expected = next_token_loss(logits.double(), tokens.tolist())
    assert language.tolist() == pytest.approx(expected, rel=1e-5)

    rows = logits[:, 0]
    classes = Classification()(constant(rows), (rows, torch.tensor([3, 4])))
    expected = [-log_softmax(row)[k] for row, k in zip(rows.tolist(), [3, 4], strict=True)]
    assert classes.dtype == torch.float32
    assert classes.tolist() == pytest.approx(expected, rel=1e-5)

    squares = Regression()(constant(rows), (rows, torch.zeros(2, 40)))
    assert squares.dtype == torch.float32
    assert squares.tolist() == pytest.approx(
        [0.5 * math.fsum(value**2 for value in row) for row in rows.tolist()], rel=1e-5
    )
