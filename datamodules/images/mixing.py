"""Mixup and cutmix within domains: every sample is mixed with another one of its own domain.

So a sample's loss stays the loss of one domain. Labels become probabilities, and the cross-entropy
with them is lambda CE(y) + (1 - lambda) CE(y'), y' being the partner's label.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tandem_pl.errors import InputError


@dataclass(frozen=True)
class Mixing:
    """How samples are mixed.

    Args:
        mixup: a of lambda ~ Beta(a, a) for mixing pixel by pixel; 0 for none of it.
        cutmix: a of lambda ~ Beta(a, a) for pasting a box; 0 for none of it. With both, a sample
            gets either with equal probability.
        probability: of a sample to be mixed at all.

    Raises:
        InputError: a number that cannot be.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        for key, value in (("mixup", self.mixup), ("cutmix", self.cutmix)):
            if not 0 <= value < float("inf"):
                raise InputError(f"{key}={value} must be at least 0, which turns it off.")
        if not 0 <= self.probability <= 1:
            raise InputError(f"mix_probability={self.probability} must be 0 to 1.")

    def __bool__(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0


def partners(domains: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The partner of every sample: another one of its domain, or itself where there is none.

    The samples of a domain stand in a ring of random order, and each has the next as its partner.

    Args:
        domains: int64 [B].
        random: draws the order.

    Returns:
        Places in the batch, int64 [B].

    Example:
        >>> partners(np.array([0, 0, 1]), np.random.default_rng(0)).tolist()
        [1, 0, 2]
    """
    order = np.lexsort((random.random(len(domains)), domains))
    starts = np.flatnonzero(np.diff(domains[order], prepend=-1))
    following = np.roll(order, -1)
    following[np.append(starts[1:], len(order)) - 1] = order[starts]  # the last of a ring
    found = np.empty_like(order)
    found[order] = following
    return found


def boxes(kept: np.ndarray, height: int, width: int, random: np.random.Generator) -> np.ndarray:
    """Boxes to paste: of the share `1 - kept` of the image, about a random centre, cut at its edge.

    Args:
        kept: lambda [B], the share of a sample's own pixels.
        height: of the images, in pixels.
        width: of the images.
        random: draws the centres.

    Returns:
        Top, bottom, left and right, int64 [4, B]; bottom and right are not inside.

    Example:
        >>> top, bottom, _, _ = boxes(np.array([1.0, 0.75]), 4, 4, np.random.default_rng(0))
        >>> (bottom - top).tolist()
        [0, 2]
    """
    sides = np.sqrt(1 - kept)
    found = []
    for size in (height, width):
        side = (sides * size).astype(np.int64)
        start = random.integers(0, size, len(kept)) - side // 2
        found += [start.clip(0, size), (start + side).clip(0, size)]
    return np.stack(found)


def mix(
    images: Tensor,
    labels: Tensor,
    domains: Tensor,
    num_classes: int,
    mixing: Mixing,
    random: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Mixes the samples of a batch with others of their domains.

    Args:
        images: [B, C, H, W].
        labels: int64 [B].
        domains: int64 [B].
        num_classes: C of the probabilities.
        mixing: how.
        random: draws all that is random.

    Returns:
        Images as they came in shape and type, and probabilities [B, classes], float32 or the
        images' higher precision, each row summing to 1.

    Example:
        >>> images = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
        >>> labels, domains = torch.tensor([0, 1]), torch.tensor([0, 0])
        >>> random = np.random.default_rng(0)
        >>> mixed, shares = mix(images, labels, domains, 2, Mixing(mixup=1.0), random)
        >>> bool(torch.allclose(mixed.mean((1, 2, 3)), shares[:, 1]))
        True
    """
    size, (height, width) = len(images), images.shape[-2:]
    partner = partners(domains.cpu().numpy(), random)
    cut = random.random(size) < (mixing.cutmix > 0) * (0.5 if mixing.mixup > 0 else 1.0)
    mixed = (random.random(size) < mixing.probability) & (partner != np.arange(size))
    kept = np.ones(size)
    for chosen, alpha in ((~cut, mixing.mixup), (cut, mixing.cutmix)):
        if alpha > 0:
            kept = np.where(chosen & mixed, random.beta(alpha, alpha, size), kept)
    top, bottom, left, right = boxes(np.where(cut, kept, 1.0), height, width, random)
    kept = np.where(cut, 1 - (bottom - top) * (right - left) / (height * width), kept)

    device, dtype = images.device, torch.promote_types(images.dtype, torch.float32)
    others = torch.from_numpy(partner).to(device)
    share = torch.from_numpy(kept).to(device, dtype)
    rows = torch.arange(height, device=device)[None, :, None]
    columns = torch.arange(width, device=device)[None, None, :]
    edges = torch.from_numpy(np.stack([top, bottom, left, right])).to(device)[:, :, None, None]
    inside = (rows >= edges[0]) & (rows < edges[1]) & (columns >= edges[2]) & (columns < edges[3])
    # The share of own pixels at each place: 1 or 0 where a box is pasted, lambda elsewhere.
    blended = torch.from_numpy(np.where(cut, 1.0, kept)).to(device, images.dtype)
    own = blended[:, None, None].masked_fill(inside, 0.0)[:, None]
    result = torch.where(own == 1, images, images * own + images[others] * (1 - own))
    exact = F.one_hot(labels, num_classes).to(dtype)
    return result, share[:, None] * exact + (1 - share[:, None]) * exact[others]
