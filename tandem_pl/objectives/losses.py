"""Losses of the form objective(network, samples) -> Tensor[B]: one loss a sample, in nats.

Any callable of this form serves. It must give one loss a sample, since weights are learned from
the losses of single domains, and domains are mixed within a batch.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tandem_pl.errors import InputError

from .packed_forward import Packing, buckets, check_keeps_apart, logits_of, pack


class CausalLanguageModeling:
    """Mean cross-entropy of the next token over a sample's tokens, -1/T sum log p(x_t | x_<t).

    `samples` is a map with `input_ids` [B, L] int64 and optionally `labels` [B, L] (default: the
    input), and whatever else the network takes (`attention_mask`, `position_ids`). The network is
    called with these names and gives logits [B, L, V], or an object with `.logits`.

    Samples of different lengths come padded at their end, with an `attention_mask` [B, L] of ones
    and zeros. `layout` says how the forward is laid out, and changes no loss:

    - `"padded"`: as they come.
    - `"packed"`: several samples in a row no longer than the longest sample, with position ids that
      start again and without an attention mask; transformers then attends within each sample.
    - `"bucketed"`: the samples sorted by length and run in a few groups, each cut to its longest.

    The last two read the samples' lengths on the host, once a forward. Without an
    `attention_mask`, as in blocks of plain text, all layouts are the same.

    Args:
        ignore_index: label of positions that have no loss. A sample without any position left has
            loss 0.
        layout: see above.

    Raises:
        InputError: an unknown layout; when called, a layout that the network or the samples cannot
            have.
    """

    def __init__(
        self,
        ignore_index: int = -100,
        layout: Literal["padded", "packed", "bucketed"] = "padded",
    ) -> None:
        if layout not in ("padded", "packed", "bucketed"):
            raise InputError(f'layout={layout!r} must be "padded", "packed" or "bucketed".')
        self.ignore_index = ignore_index
        self.layout = layout

    def __call__(self, network: nn.Module, samples: Mapping[str, Tensor]) -> Tensor:
        """Losses [B], float32 or the logits' higher precision."""
        losses, labels = self._losses(network, samples)
        return losses.sum(dim=1) / (labels != self.ignore_index).sum(dim=1).clamp(min=1)

    def token_losses(
        self, network: nn.Module, samples: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Losses [B, T] of single tokens, and whether each has a label [B, T]; 0 where not.

        A sample's loss is the mean of its labelled tokens' losses. For methods that treat tokens
        one by one, as DoReMi does.
        """
        losses, labels = self._losses(network, samples)
        return losses, labels != self.ignore_index

    def _losses(self, network: nn.Module, samples: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Losses [B, T] and labels [B, T], in the layout asked for."""
        if self.layout == "padded" or "attention_mask" not in samples:
            return self._padded(network, samples)
        lengths = lengths_of(samples["attention_mask"], self.layout)
        if self.layout == "packed":
            return self._packed(network, samples, lengths)
        groups = buckets(lengths)
        tokens = samples["input_ids"]
        losses, labels = [], []
        for group in groups:
            rows = torch.tensor(group, device=tokens.device)
            cut = {key: value[rows, : lengths[group[0]]] for key, value in samples.items()}
            part = self._padded(network, cut)
            missing = (0, tokens.shape[1] - 1 - part[0].shape[1])
            losses.append(F.pad(part[0], missing))
            labels.append(F.pad(part[1], missing, value=self.ignore_index))
        order = torch.tensor([row for group in groups for row in group], device=tokens.device)
        back = order.argsort()
        return torch.cat(losses)[back], torch.cat(labels)[back]

    def _padded(self, network: nn.Module, samples: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        inputs = {name: value for name, value in samples.items() if name != "labels"}
        logits = logits_of(network(**inputs))[:, :-1]
        labels = self._next_labels(samples)
        return self._cross_entropy(logits, labels), labels

    def _packed(
        self, network: nn.Module, samples: Mapping[str, Tensor], lengths: list[int]
    ) -> tuple[Tensor, Tensor]:
        others = sorted(samples.keys() - {"input_ids", "labels", "attention_mask"})
        if others:
            raise InputError(
                f'layout="packed" cannot pack {others[0]!r} of the samples; set the objective\'s '
                'layout to "bucketed" or "padded".'
            )
        tokens = samples["input_ids"]
        check_keeps_apart(network, tokens.device)
        packing = Packing(*(index.to(tokens.device) for index in pack(lengths, tokens.shape[1])))
        output = network(
            input_ids=tokens.flatten()[packing.taken].masked_fill(~packing.filled, 0),
            position_ids=packing.positions,
        )
        # A token's loss stands where the token before it does; the last of a sample has none.
        labels = F.pad(self._next_labels(samples), (0, 1), value=self.ignore_index)
        packed_labels = labels.flatten()[packing.taken].masked_fill(
            ~packing.filled, self.ignore_index
        )
        losses = self._cross_entropy(logits_of(output), packed_labels)
        losses = losses.flatten()[packing.places]  # at padding, some token's loss
        return losses.masked_fill(labels == self.ignore_index, 0.0), labels

    def _next_labels(self, samples: Mapping[str, Tensor]) -> Tensor:
        """The label of each position's next token, [B, L - 1]; padding has none."""
        labels = samples.get("labels", samples["input_ids"])[:, 1:]
        mask = samples.get("attention_mask")
        if mask is None or mask.dim() != 2:
            return labels
        return labels.masked_fill((mask[:, 1:] == 0) | (mask[:, :-1] == 0), self.ignore_index)

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(
            at_least_float32(logits).flatten(0, 1),
            labels.flatten(),
            ignore_index=self.ignore_index,
            reduction="none",
        ).view_as(labels)


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
        if labels.dim() == 2 and labels.shape[1] < logits.shape[1]:  # mixed; other classes have 0
            labels = F.pad(labels, (0, logits.shape[1] - labels.shape[1]))
        return F.cross_entropy(
            logits, labels, label_smoothing=self.label_smoothing, reduction="none"
        )


class Regression:
    """Half the squared error, summed over a sample's outputs: 1/2 ||f(x) - y||^2.

    `samples` as in `Classification`; labels have the shape of the network's output.
    """

    def __call__(self, network: nn.Module, samples: Any) -> Tensor:
        """Losses [B]."""
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


def inputs_and_labels(samples: Any) -> tuple[Tensor, Tensor]:
    """Takes a pair or a map apart.

    Raises:
        InputError: samples of another form.
    """
    if isinstance(samples, Mapping):
        found = []
        for keys in (("image", "input", "pixel_values"), ("label", "labels", "target")):
            key = next((key for key in keys if key in samples), None)
            if key is None:
                raise InputError(
                    f"samples have none of {', '.join(map(repr, keys))} (their keys are "
                    f"{', '.join(map(repr, samples))}): rename a column, or write an objective."
                )
            found.append(samples[key])
        return found[0], found[1]
    if isinstance(samples, Sequence) and len(samples) == 2:
        return samples[0], samples[1]
    raise InputError(
        f"samples of type {type(samples).__name__} are neither a pair (inputs, labels) nor a map "
        "with both: change the data set, or write an objective."
    )


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half precision is lifted, so that losses and their sums are exact enough to compare."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def lengths_of(attention_mask: Tensor, layout: str) -> list[int]:
    """The samples' lengths, from a mask [B, L] of ones and then zeros.

    Raises:
        InputError: a sample that is empty or not padded at its end.
    """
    mask = attention_mask.to("cpu", torch.long)
    lengths = mask.sum(dim=1)
    columns = torch.arange(mask.shape[1])
    if not (torch.equal(mask, (columns < lengths[:, None]).long()) and bool((lengths > 0).all())):
        raise InputError(
            f"layout={layout!r} needs samples padded at their end, and an attention_mask has its "
            'zeros elsewhere; pad on the right or set the objective\'s layout to "padded".'
        )
    return lengths.tolist()
