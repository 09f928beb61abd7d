"""What objectives do with collated samples: take inputs and labels, lengths, and float32."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tandem_pl.errors import InputError


def inputs_and_labels(samples: Any) -> tuple[Tensor, Tensor]:
    """Return inputs and labels of a pair (inputs, labels), or of a map with both.

    Raises:
        InputError: samples of another form.
    """
    if isinstance(samples, Mapping):
        pair = []
        for keys in (("image", "input", "pixel_values"), ("label", "labels", "target")):
            key = next((key for key in keys if key in samples), None)
            if key is None:
                raise InputError(
                    f"samples have none of {', '.join(map(repr, keys))} (their keys are "
                    f"{', '.join(map(repr, samples))}): rename a column, or write an objective."
                )
            pair.append(samples[key])
        return pair[0], pair[1]
    if isinstance(samples, Sequence) and len(samples) == 2:
        return samples[0], samples[1]
    raise InputError(
        f"samples of type {type(samples).__name__} are neither a pair (inputs, labels) nor a map "
        "with both: change the data set, or write an objective."
    )


def at_least_float32(tensor: Tensor) -> Tensor:
    """Convert half precision to float32, so that losses and sums are exact enough to compare."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def padded_lengths(attention_mask: Tensor, layout: str) -> list[int]:
    """Return the samples' lengths, from a mask [B, L] of ones and then zeros.

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
