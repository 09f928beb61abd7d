"""The samples of one domain: images of a source with their labels, through a transform."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from .image_sources import ImageSource


class ImageSet(Dataset[dict[str, Any]]):
    """Some images of a source: a sample is `{"image": FloatTensor[C, H, W], "label": int}`.

    Args:
        source: where they lie.
        rows: their numbers in the source, int64 [N].
        labels: the class of each, int64 [N].
        transform: image -> tensor.
        channels: 1 or 3.
        convert: whether images of other channels are converted.
    """

    def __init__(
        self,
        source: ImageSource,
        rows: np.ndarray,
        labels: np.ndarray,
        transform: Callable[[Image.Image], Tensor],
        channels: int,
        convert: bool,
    ) -> None:
        self.source, self.rows, self.labels = source, rows, labels
        self.transform, self.channels, self.convert = transform, channels, convert

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.transform(self.image(index)), "label": int(self.labels[index])}

    def image(self, index: int) -> Image.Image:
        """The image before the transform, of mode "L" or "RGB"."""
        return self.source.read(int(self.rows[index]), self.channels, self.convert)

    def with_transform(self, transform: Callable[[Image.Image], Tensor]) -> ImageSet:
        """The same images with another transform."""
        return ImageSet(self.source, self.rows, self.labels, transform, self.channels, self.convert)
