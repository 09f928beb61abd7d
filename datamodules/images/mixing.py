"""Mixup and cutmix within domains: every sample is mixed with another one of its own domain.

So the loss of a sample remains the loss of one domain. Labels become probabilities, and their
cross-entropy is lambda CE(y) + (1 - lambda) CE(y') with y' the label of the partner.

mixup: Zhang et al. 2018, arXiv 1710.09412; cutmix: Yun et al. 2019, arXiv 1905.04899. timm mixes
whole batches with one lambda, and across domains.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tandem_pl.checks import check_share
from tandem_pl.errors import InputError


@dataclass(frozen=True)
class Mixing:
    """How samples are mixed; `AugmentedImageDataModule` describes the settings.

    Raises:
        InputError: a number out of range.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        for key, value in (("mixup", self.mixup), ("cutmix", self.cutmix)):
            if not 0 <= value < float("inf"):
                raise InputError(f"{key}={value} must be at least 0, which turns it off.")
        check_share("mix_probability", self.probability)

    def __bool__(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0


def mix(
    images: Tensor,
    labels: Tensor,
    domains: Tensor,
    num_classes: int,
    mixing: Mixing,
    random: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Mix the samples of a batch with others of their domains.

    Args:
        images: [B, C, H, W].
        labels: int64 [B].
        domains: int64 [B].
        num_classes: columns of the probabilities.
        mixing: the settings.
        random: draws all that is random.

    Returns:
        Images of the same shape and type, and probabilities [B, num_classes], float32 or the
        images' higher precision. Each row sums to 1.

    Example:
        >>> images = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
        >>> labels, domains = torch.tensor([0, 1]), torch.tensor([0, 0])
        >>> random = np.random.default_rng(0)
        >>> mixed, shares = mix(images, labels, domains, 2, Mixing(mixup=1.0), random)
        >>> bool(torch.allclose(mixed.mean((1, 2, 3)), shares[:, 1]))
        True
    """
    device, dtype = images.device, torch.promote_types(images.dtype, torch.float32)
    height, width = images.shape[-2:]
    partner = partners(domains.cpu().numpy(), random)
    kept, cut = _draw_lambda(partner, mixing, random)
    edges = boxes(np.where(cut, kept, 1.0), height, width, random)
    top, bottom, left, right = edges
    kept = np.where(cut, 1 - (bottom - top) * (right - left) / (height * width), kept)

    others = torch.from_numpy(partner).to(device)
    blend = torch.from_numpy(np.where(cut, 1.0, kept)).to(device, images.dtype)
    inside = _in_boxes(torch.from_numpy(edges).to(device), height, width)
    own = blend[:, None, None].masked_fill(inside, 0.0)[:, None]  # share of each pixel that is kept
    mixed = torch.where(own == 1, images, images * own + images[others] * (1 - own))
    share = torch.from_numpy(kept).to(device, dtype)[:, None]
    exact = F.one_hot(labels, num_classes).to(dtype)
    return mixed, share * exact + (1 - share) * exact[others]


def partners(domains: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draw the position of a partner for every sample, int64 [B], of the same `domains` [B].

    The samples of a domain form a ring in random order, and each one's partner is the next. A
    sample alone in its domain is its own partner.

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
    """Draw boxes about random centres, and cut them at the edge of the image.

    Args:
        kept: lambda [B]; a box has the share `1 - kept` of the image.
        height: pixels of the images.
        width: pixels of the images.
        random: draws the centres.

    Returns:
        Top, bottom, left and right, int64 [4, B]; bottom and right are outside.

    Example:
        >>> top, bottom, _, _ = boxes(np.array([1.0, 0.75]), 4, 4, np.random.default_rng(0))
        >>> (bottom - top).tolist()
        [0, 2]
    """
    sides = np.sqrt(1 - kept)
    edges = []
    for size in (height, width):
        side = (sides * size).astype(np.int64)
        start = random.integers(0, size, len(kept)) - side // 2
        edges += [start.clip(0, size), (start + side).clip(0, size)]
    return np.stack(edges)


def _draw_lambda(
    partner: np.ndarray, mixing: Mixing, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw lambda, float64 [B], and whether a sample gets cutmix, bool [B].

    Lambda is the share that a sample keeps; a sample that is its own partner keeps all.
    """
    size = len(partner)
    cut = random.random(size) < (mixing.cutmix > 0) * (0.5 if mixing.mixup > 0 else 1.0)
    mixed = (random.random(size) < mixing.probability) & (partner != np.arange(size))
    kept = np.ones(size)
    for chosen, alpha in ((~cut, mixing.mixup), (cut, mixing.cutmix)):
        if alpha > 0:
            kept = np.where(chosen & mixed, random.beta(alpha, alpha, size), kept)
    return kept, cut


def _in_boxes(edges: Tensor, height: int, width: int) -> Tensor:
    """Return whether each pixel is in the box of its image, bool [B, height, width]."""
    top, bottom, left, right = edges[:, :, None, None]
    rows = torch.arange(height, device=edges.device)[None, :, None]
    columns = torch.arange(width, device=edges.device)[None, None, :]
    return (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
