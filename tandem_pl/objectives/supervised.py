"""`Classification` and `Regression`: losses of samples with labels."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from tandem_pl.errors import InputError

from .samples import at_least_float32, inputs_and_labels


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
        """Return losses [B]."""
        inputs, labels = inputs_and_labels(samples)
        logits = at_least_float32(network(inputs))
        if labels.dim() == 2 and labels.shape[1] < logits.shape[1]:
            # labels that mixup mixed: other classes have 0
            labels = F.pad(labels, (0, logits.shape[1] - labels.shape[1]))
        return F.cross_entropy(
            logits, labels, label_smoothing=self.label_smoothing, reduction="none"
        )


class Regression:
    """Half the squared error, summed over a sample's outputs: 1/2 ||f(x) - y||^2.

    `samples` as in `Classification`; labels have the shape of the network's output.
    """

    def __call__(self, network: nn.Module, samples: Any) -> Tensor:
        """Return losses [B]."""
        inputs, labels = inputs_and_labels(samples)
        outputs = at_least_float32(network(inputs))
        if outputs.shape != labels.shape:
            raise InputError(
                f"Regression has outputs of shape {tuple(outputs.shape)} and labels of shape "
                f"{tuple(labels.shape)}, which must be the same: reshape the data set's labels or "
                "the network's output."
            )
        error = outputs - labels
        return 0.5 * error.flatten(1).square().sum(dim=1)
