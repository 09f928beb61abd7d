"""Losses of the form objective(network, samples) -> Tensor[B]: one loss a sample, in nats.

Any callable of this form serves. It must give one loss a sample, since weights are learned from
the losses of single domains, and domains are mixed within a batch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CausalLanguageModeling:
    """Mean cross-entropy of the next token over a sample's tokens, -1/T sum log p(x_t | x_<t).

    `samples` is a map with `input_ids` [B, L] int64 and optionally `labels` [B, L] (default: the
    input), and whatever else the network takes (`attention_mask`, `position_ids`). The network is
    called with these names and gives logits [B, L, V], or an object with `.logits`.

    Args:
        ignore_index: label of positions that have no loss. A sample without any position left has
            loss 0.
    """

    def __init__(self, ignore_index: int = -100) -> None:
        self.ignore_index = ignore_index

    def __call__(self, network: nn.Module, samples: Mapping[str, Tensor]) -> Tensor:
        """Losses [B], float32 or the logits' higher precision."""
        inputs = {name: value for name, value in samples.items() if name != "labels"}
        output = network(**inputs)
        logits = output.logits if hasattr(output, "logits") else output
        labels = samples.get("labels", samples["input_ids"])[:, 1:]
        logits = at_least_float32(logits[:, :-1])
        losses = F.cross_entropy(
            logits.flatten(0, 1),
            labels.flatten(),
            ignore_index=self.ignore_index,
            reduction="none",
        ).view_as(labels)
        counts = (labels != self.ignore_index).sum(dim=1)
        return losses.sum(dim=1) / counts.clamp(min=1)


class Classification:
    """Cross-entropy of the class, with label smoothing.

    `samples` is a pair (inputs, labels) or a map with `image` or `input` and `label`. Labels are
    class numbers [B] or probabilities [B, C] (as mixup makes them).

    Args:
        label_smoothing: share of the probability spread over all classes, 0 to 1.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def __call__(self, network: nn.Module, samples: Any) -> Tensor:
        """Losses [B]."""
        inputs, labels = inputs_and_labels(samples)
        logits = at_least_float32(network(inputs))
        return F.cross_entropy(
            logits, labels, label_smoothing=self.label_smoothing, reduction="none"
        )


class Regression:
    """Half the squared error, summed over a sample's outputs: 1/2 ||f(x) - y||^2."""

    def __call__(self, network: nn.Module, samples: Any) -> Tensor:
        """Losses [B]."""
        inputs, labels = inputs_and_labels(samples)
        error = at_least_float32(network(inputs)) - labels
        return 0.5 * error.flatten(1).square().sum(dim=1)


def inputs_and_labels(samples: Any) -> tuple[Tensor, Tensor]:
    """Takes a pair or a map apart."""
    if isinstance(samples, Mapping):
        inputs = next(samples[key] for key in ("image", "input", "pixel_values") if key in samples)
        return inputs, next(samples[key] for key in ("label", "labels", "target") if key in samples)
    if isinstance(samples, Sequence) and len(samples) == 2:
        return samples[0], samples[1]
    raise TypeError(f"expected (inputs, labels) or a map with both, got {type(samples).__name__}.")


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half precision is lifted, so that losses and their sums are exact enough to compare."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
