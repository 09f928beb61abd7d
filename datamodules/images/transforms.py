"""Transforms from an image to a tensor, by timm.

Random ones draw from the global generators of `random`, NumPy and PyTorch, which the data loader
seeds for every batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

from PIL import Image
from torch import Tensor

from tandem_pl.checks import check_at_least, check_choice, check_share
from tandem_pl.errors import InputError

Transform = Callable[[Image.Image], Tensor]

#: name -> mean and standard deviation of red, green and blue, of pixels from 0 to 1.
STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
SMALLEST = 8  # pixels
CROPS = ("resized", "padded", "centre")
MOST_HUE = 0.5  # half the circle of colours in either direction


@dataclass(frozen=True)
class Frame:
    """Size, normalisation and resizing of images; see `AugmentedImageDataModule`."""

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float


@dataclass(frozen=True)
class Augmentation:
    """How training images are changed; see `AugmentedImageDataModule`.

    Raises:
        InputError: an unknown name, or a number out of range.
    """

    random_crop: str = "resized"
    crop_scale: Sequence[float] = (0.08, 1.0)
    crop_ratio: Sequence[float] = (3 / 4, 4 / 3)
    crop_padding: int = 4
    hflip: float = 0.5
    color_jitter: float | Sequence[float] | None = None
    auto_augment: str | None = None
    random_erasing: float = 0.0

    def __post_init__(self) -> None:
        check_choice("random_crop", self.random_crop, CROPS)
        check_share("hflip", self.hflip)
        check_share("random_erasing", self.random_erasing)
        _check_range("crop_scale", self.crop_scale, " and at most 1", 1.0)
        _check_range("crop_ratio", self.crop_ratio)
        check_at_least("crop_padding", self.crop_padding, 0)
        jitter = 0.0 if self.color_jitter is None else self.color_jitter
        parts = list(jitter) if isinstance(jitter, Sequence) else [jitter] * 3
        if len(parts) not in (3, 4) or min(parts) < 0 or max(parts[3:], default=0) > MOST_HUE:
            raise InputError(
                f"color_jitter={self.color_jitter!r} must be a number, or three or four of them, "
                f"at least 0; the fourth, of hue, is at most {MOST_HUE}."
            )


def resolve_frame(
    channels: int = 3,
    random_crop: str = "resized",
    like: str | None = None,
    image_size: int | None = None,
    mean: str | float | Sequence[float] | None = None,
    std: str | float | Sequence[float] | None = None,
    interpolation: str | None = None,
    crop_pct: float | None = None,
) -> Frame:
    """Fill in the settings that are None, see `AugmentedImageDataModule`.

    With one channel, named statistics and those of a network become the average of the three.

    Raises:
        InputError: an unknown name, or a number out of range.

    Example:
        >>> resolve_frame(channels=1, random_crop="padded", image_size=28, mean=0.5, std=0.25)
        Frame(image_size=28, mean=(0.5,), std=(0.25,), interpolation='bicubic', crop_pct=1.0)
    """
    if channels not in (1, 3):
        raise InputError(f"channels={channels} must be 1 (grey) or 3 (red, green and blue).")
    defaults: dict[str, Any] = {
        "input_size": (3, 224, 224),
        "mean": "imagenet",
        "std": "imagenet",
        "interpolation": "bicubic",
        "crop_pct": 0.875 if random_crop == "resized" else 1.0,
    }
    if like is not None:
        defaults |= _network_settings(like)
    size = defaults["input_size"][-1] if image_size is None else image_size
    check_at_least("image_size", size, SMALLEST)
    pct = defaults["crop_pct"] if crop_pct is None else crop_pct
    if not 0 < pct <= 1:
        raise InputError(f"crop_pct={pct} must be above 0 and at most 1.")
    resampling = interpolation or defaults["interpolation"]
    check_choice("interpolation", resampling, INTERPOLATIONS)
    means = _statistic("mean", mean, defaults, channels)
    stds = _statistic("std", std, defaults, channels)
    if min(stds) <= 0:
        raise InputError(f"std={std!r} must be above 0.")
    return Frame(size, means, stds, resampling, pct)


def training_transform(frame: Frame, augmentation: Augmentation) -> Transform:
    """Return the transform image -> float32 [C, H, W] that augments.

    Raises:
        InputError: timm does not know `auto_augment`.
    """
    from timm.data import create_transform
    from torchvision import transforms

    try:
        stages = create_transform(
            frame.image_size,
            is_training=True,
            separate=True,
            scale=tuple(augmentation.crop_scale),
            ratio=tuple(augmentation.crop_ratio),
            hflip=augmentation.hflip,
            color_jitter=augmentation.color_jitter,
            auto_augment=augmentation.auto_augment,
            interpolation=frame.interpolation,
            mean=frame.mean,
            std=frame.std,
            re_prob=augmentation.random_erasing,
            re_mode="pixel",
        )
    except (AssertionError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(
            f"auto_augment={augmentation.auto_augment!r} is unknown to timm ({error or 'bad name'})"
            ': use a name such as "rand-m9-mstd0.5-inc1", "augmix-m5-w4-d2", "3a" or "original".'
        ) from error
    steps = [step for stage in stages for step in stage.transforms]
    for step in steps:
        _keep_one_bit(step)
    size, padding = frame.image_size, augmentation.crop_padding
    if augmentation.random_crop != "resized":  # the first step is timm's crop
        mode = transforms.InterpolationMode(frame.interpolation)
        resize = transforms.Resize(int(size / frame.crop_pct), mode)
        steps[:1] = [resize, transforms.CenterCrop(size)]
    if augmentation.random_crop == "padded":
        steps.insert(2, transforms.RandomCrop(size, padding=padding))
    return transforms.Compose(steps)


def evaluation_transform(frame: Frame) -> Transform:
    """Return the transform image -> float32 [C, H, W] that resizes and cuts out the centre."""
    from timm.data import create_transform

    return create_transform(
        frame.image_size,
        is_training=False,
        interpolation=frame.interpolation,
        mean=frame.mean,
        std=frame.std,
        crop_pct=frame.crop_pct,
    )


def _network_settings(name: str) -> dict[str, Any]:
    import timm
    from timm.data import resolve_data_config

    from tandem_pl.networks import wide_resnet as wide_resnet  # registers its networks

    try:
        settings = timm.get_pretrained_cfg(name)
    except RuntimeError:  # a known architecture with an unknown tag
        settings = None
    if settings is None:
        raise InputError(f"like={name!r} has no settings: give a name of timm.list_pretrained().")
    return resolve_data_config(pretrained_cfg=settings.to_dict())


def _statistic(
    key: str,
    value: str | float | Sequence[float] | None,
    defaults: Mapping[str, Any],
    channels: int,
) -> tuple[float, ...]:
    of_colours = value is None or isinstance(value, str)
    value = defaults[key] if value is None else value
    if isinstance(value, str):
        if value not in STATISTICS:
            raise InputError(
                f"{key}={value!r} is unknown: use {', '.join(STATISTICS)}, or a number a channel."
            )
        value = STATISTICS[value][key == "std"]
    numbers = [value] * channels if isinstance(value, int | float) else list(value)
    if of_colours and channels == 1:
        numbers = [round(sum(numbers) / len(numbers), 6)]
    if len(numbers) != channels:
        raise InputError(
            f"{key}={value!r} has {len(numbers)} numbers and channels={channels}: give one each."
        )
    return tuple(map(float, numbers))


def _check_range(
    key: str, pair: Sequence[float], limit: str = "", most: float = float("inf")
) -> None:
    if len(pair) != 2 or not 0 < pair[0] <= pair[1] <= most:
        raise InputError(
            f"{key}={list(pair)!r} must be two numbers, the least and the most, above 0{limit}."
        )


def _keep_one_bit(policy: Any) -> None:
    """Make timm's "posterize" keep at least one bit, because Pillow fails if it keeps none."""
    groups = [getattr(policy, "ops", ()), *getattr(policy, "policy", ())]
    for operation in chain.from_iterable(groups):
        if getattr(getattr(operation, "aug_fn", None), "__name__", None) == "posterize":
            operation.level_fn = partial(_at_least_one, operation.level_fn)


def _at_least_one(level_fn: Callable[..., tuple[int, ...]], *level: Any) -> tuple[int, ...]:
    return tuple(max(bits, 1) for bits in level_fn(*level))
