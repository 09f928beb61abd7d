"""`CausalLanguageModeling`: the loss of next tokens."""

from collections.abc import Mapping
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tandem_pl.errors import InputError

from .head_losses import Tokens, head_losses
from .output_head import losses_at_head, output_head, warn_of_logits
from .packed_forward import Packing, buckets, check_keeps_apart, logits_of, pack
from .samples import at_least_float32, padded_lengths


class CausalLanguageModeling:
    """Mean cross-entropy of the next token over a sample's tokens, -1/T sum log p(x_t | x_<t).

    `samples` is a map with `input_ids` [B, L] int64 and optionally `labels` [B, L] (default: the
    input), and whatever else the network takes (`attention_mask`, `position_ids`). The network is
    called with these names and returns logits [B, L, V], or an object with `.logits`.

    Samples of different lengths are padded at their end, with an `attention_mask` [B, L] of ones
    and zeros. `layout` decides how the forward runs them, and changes no loss:

    - `"padded"`: as they are.
    - `"packed"`: several samples in a row no longer than the longest sample, with position ids that
      start again and without an attention mask; transformers then attends within each sample.
    - `"bucketed"`: sorted by length, in a few groups, each cut to its longest sample.

    The last two read the samples' lengths on the host, once a forward. Without an
    `attention_mask`, as in blocks of plain text, all layouts are the same.

    Args:
        ignore_index: label of positions without a loss. A sample of only such positions has loss 0.
        layout: see above.

    Raises:
        InputError: an unknown layout; when called, a layout that the network or the samples do not
            support.
    """

    of_tokens = True  # exp(loss) is a perplexity

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
        """Return losses [B], float32 or the logits' higher precision."""
        return self._losses(network, samples, means=True)

    def token_losses(
        self, network: nn.Module, samples: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return losses [B, T] of single tokens (0 without a label), and whether each has a label.

        A sample's loss is the mean of its labelled tokens' losses. Methods that treat tokens one by
        one, such as DoReMi, use this.
        """
        losses = self._losses(network, samples, means=False)
        return losses, self._next_labels(samples) != self.ignore_index

    def token_counts(self, samples: Mapping[str, Tensor]) -> Tensor:
        """Return the number of labelled tokens of each sample [B]."""
        return (self._next_labels(samples) != self.ignore_index).sum(dim=1)

    def _losses(self, network: nn.Module, samples: Mapping[str, Tensor], means: bool) -> Tensor:
        """Return losses [B] of samples, or [B, T] of their tokens."""
        if self.layout == "padded" or "attention_mask" not in samples:
            return self._padded(network, samples, means)
        lengths = padded_lengths(samples["attention_mask"], self.layout)
        if self.layout == "packed":
            return self._packed(network, samples, lengths, means)
        groups = buckets(lengths)
        tokens = samples["input_ids"]
        parts = []
        for group in groups:
            rows = torch.tensor(group, device=tokens.device)
            cut = {key: value[rows, : lengths[group[0]]] for key, value in samples.items()}
            losses = self._padded(network, cut, means)
            missing = 0 if means else tokens.shape[1] - 1 - losses.shape[1]
            parts.append(F.pad(losses, (0, missing)))
        order = torch.tensor([row for group in groups for row in group], device=tokens.device)
        return torch.cat(parts)[order.argsort()]

    def _padded(self, network: nn.Module, samples: Mapping[str, Tensor], means: bool) -> Tensor:
        inputs = {name: value for name, value in samples.items() if name != "labels"}
        rows, columns = samples["input_ids"].shape
        places = torch.arange(rows * columns, device=samples["input_ids"].device)
        places = places.view(rows, columns)[:, :-1]
        return self._forward(network, samples, inputs, places, means)

    def _packed(
        self,
        network: nn.Module,
        samples: Mapping[str, Tensor],
        lengths: list[int],
        means: bool,
    ) -> Tensor:
        others = sorted(samples.keys() - {"input_ids", "labels", "attention_mask"})
        if others:
            raise InputError(
                f'layout="packed" cannot pack {others[0]!r} of the samples; set the objective\'s '
                'layout to "bucketed" or "padded".'
            )
        tokens = samples["input_ids"]
        check_keeps_apart(network, tokens.device)
        packing = Packing(*(index.to(tokens.device) for index in pack(lengths, tokens.shape[1])))
        inputs = {
            "input_ids": tokens.flatten()[packing.taken].masked_fill(~packing.filled, 0),
            "position_ids": packing.positions,
        }
        # A token's loss is at the position of the token before it; a sample's last token has none.
        places = packing.places[:, :-1]
        return self._forward(network, samples, inputs, places, means)

    def _forward(
        self,
        network: nn.Module,
        samples: Mapping[str, Tensor],
        inputs: dict[str, Tensor],
        places: Tensor,
        means: bool,
    ) -> Tensor:
        """Return losses of the labels [B, T], which the network's rows predict at flat `places`."""
        labels = self._next_labels(samples)
        labelled = labels != self.ignore_index
        counts = labelled.sum(dim=1).clamp(min=1)
        head = output_head(network)
        if head is not None:
            # Blocks of plain text need no search for labels, which would wait for the device.
            whole = self.ignore_index < 0 and not samples.keys() & {"labels", "attention_mask"}
            cells = labelled.flatten().nonzero().squeeze(1) if not whole else None
            tokens = Tokens.of(labels, places, counts, cells)
            return losses_at_head(network, head, inputs, partial(head_losses, head, tokens, means))
        logits = logits_of(network(**inputs))
        warn_of_logits(network, logits)
        # Labels go to their rows of logits, which are not copied; the last is for no row.
        size = logits.shape[0] * logits.shape[1]
        own = labels.new_full((size + 1,), self.ignore_index)
        own.index_copy_(0, places.where(labelled, size).flatten(), labels.flatten())
        losses = F.cross_entropy(
            at_least_float32(logits).flatten(0, 1),
            own[:-1],
            ignore_index=self.ignore_index,
            reduction="none",
        )
        losses = losses[places].masked_fill(~labelled, 0.0)
        return losses.sum(dim=1) / counts if means else losses

    def _next_labels(self, samples: Mapping[str, Tensor]) -> Tensor:
        """Return the label of each position's next token, [B, L - 1]; padding has none."""
        labels = samples.get("labels", samples["input_ids"])[:, 1:]
        mask = samples.get("attention_mask")
        if mask is None or mask.dim() != 2:
            return labels
        return labels.masked_fill((mask[:, 1:] == 0) | (mask[:, :-1] == 0), self.ignore_index)
