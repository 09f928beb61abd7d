"""Samples of images, and what happens to their pixels: a frame, augmentation and mixing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tandem_pl.datamodules.batching import ConfiguredDataModule
from tandem_pl.episode import PROBE, TRAIN, TRIAL, MixtureBatch

from .mixing import Mixing, mix
from .sources import ImageSource
from .transforms import (
    Augmentation,
    Transform,
    evaluation_transform,
    resolve_frame,
    training_transform,
)


@dataclass(eq=False, repr=False)
class ImageSet(Dataset[dict[str, Any]]):
    """Some images of a source; a sample is `{"image": FloatTensor[C, H, W], "label": int}`.

    Args:
        source: has the images.
        rows: their numbers in the source, int64 [N].
        labels: the class of each, int64 [N].
        transform: image -> tensor.
        channels: 1 or 3.
        convert: whether to convert images with other channels.
    """

    source: ImageSource
    rows: np.ndarray
    labels: np.ndarray
    transform: Transform
    channels: int
    convert: bool

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.transform(self.image(index)), "label": int(self.labels[index])}

    def image(self, index: int) -> Image.Image:
        """Return the image before the transform, of mode "L" or "RGB"."""
        return self.source.read(int(self.rows[index]), self.channels, self.convert)

    def with_transform(self, transform: Transform) -> ImageSet:
        """Return the same images with another transform."""
        return replace(self, transform=transform)


class AugmentedImageDataModule(ConfiguredDataModule):
    """Base of image data modules: the options of pixels, and the batches that they give.

    A subclass fills the data sets with `ImageSet`s that have `training_transform`, and defines
    `num_classes`.

    Args:
        channels: 3, or 1 for grey images.
        convert: whether to convert images with other channels (transparency is dropped); if off,
            they are an error.
        like: name of a timm network whose settings replace the defaults of the next five.
        image_size: pixels in both directions; None for 224.
        mean: of each channel, of pixels from 0 to 1: "imagenet", "half", "clip", "cifar10",
            "cifar100", or numbers; None for "imagenet".
        std: in the same way.
        interpolation: "nearest", "bilinear", "bicubic", ...; None for "bicubic".
        crop_pct: evaluation resizes the shorter side to `image_size / crop_pct` and cuts out the
            centre; None for 0.875 with random_crop "resized", else 1.
        random_crop: "resized" cuts out a part of random size and shape and resizes it; "padded"
            resizes, adds a border and cuts out a square, as is usual for CIFAR; "centre" does what
            evaluation does.
        crop_scale: least and greatest share of the area, with "resized".
        crop_ratio: least and greatest width over height, with "resized".
        crop_padding: pixels of the black border, with "padded".
        hflip: probability of a mirror image.
        color_jitter: strength for brightness, contrast and saturation, or three or four numbers
            (the fourth for hue, at most 0.5); None for none. timm ignores it if `auto_augment` is
            set.
        auto_augment: timm's name of a policy, such as "rand-m9-mstd0.5-inc1", "augmix-m5-w4-d2",
            "3a" or "original"; None for none.
        random_erasing: probability that a rectangle is filled with noise.
        mixup: a of lambda ~ Beta(a, a), the share of a sample that is kept when it is mixed with
            another one of its domain; 0 for none. Target samples are mixed too.
        cutmix: the same for pasting a box; with both, a sample gets either with equal probability.
        mix_probability: probability that a sample is mixed at all.
        batching: see `ConfiguredDataModule`.
    """

    def __init__(
        self,
        channels: Literal[1, 3] = 3,
        convert: bool = True,
        like: str | None = None,
        image_size: int | None = None,
        mean: float | list[float] | str | None = None,
        std: float | list[float] | str | None = None,
        interpolation: str | None = None,
        crop_pct: float | None = None,
        random_crop: Literal["resized", "padded", "centre"] = "resized",
        crop_scale: list[float] | tuple[float, float] = (0.08, 1.0),
        crop_ratio: list[float] | tuple[float, float] = (0.75, 4 / 3),
        crop_padding: int = 4,
        hflip: float = 0.5,
        color_jitter: float | list[float] | None = None,
        auto_augment: str | None = None,
        random_erasing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        mix_probability: float = 1.0,
        **batching: Any,
    ) -> None:
        super().__init__(**batching)
        self.channels, self.convert = channels, convert
        self.frame = resolve_frame(
            channels, random_crop, like, image_size, mean, std, interpolation, crop_pct
        )
        self.augmentation = Augmentation(
            random_crop,
            crop_scale,
            crop_ratio,
            crop_padding,
            hflip,
            color_jitter,
            auto_augment,
            random_erasing,
        )
        self.mixing = Mixing(mixup, cutmix, mix_probability)
        self.training_transform = training_transform(self.frame, self.augmentation)
        self.evaluation_transform = evaluation_transform(self.frame)

    @property
    def image_size(self) -> int:
        """Pixels of the images in both directions."""
        return self.frame.image_size

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        raise NotImplementedError

    def transform_on_device(self, batch: MixtureBatch) -> MixtureBatch:
        """Mix the samples of training and probe batches."""
        if not self.mixing or batch.phase not in (TRAIN, PROBE, TRIAL):
            return batch
        batch = batch._replace(samples=self._mix(batch.samples, batch.domains, batch.step, 0))
        if batch.target_samples is None or batch.target_domains is None:
            return batch
        mixed = self._mix(batch.target_samples, batch.target_domains, batch.step, 1)
        return batch._replace(target_samples=mixed)

    def _mix(self, samples: Any, domains: Tensor, step: int, stream: int) -> dict[str, Any]:
        # A generator of its own, so that the result depends on seed, step and rank alone.
        rank, _ = self.ranks()
        random = np.random.default_rng([self.seed, step, rank, stream])
        images, labels = mix(
            samples["image"], samples["label"], domains, self.num_classes, self.mixing, random
        )
        return {**samples, "image": images, "label": labels}

    def evaluation_loader(self, sets: Mapping[str, Dataset]) -> DataLoader:
        """Return a loader of samples with the plain transform."""
        plain = {
            name: data.with_transform(self.evaluation_transform)
            if isinstance(data, ImageSet)
            else data
            for name, data in sets.items()
        }
        return super().evaluation_loader(plain)
