"""From an image to a tensor: timm's training and evaluation transforms by their settings.

Random ones draw from the global generators of `random`, numpy and torch, which the data loader
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

from tandem_pl.errors import InputError

Transform = Callable[[Image.Image], Tensor]

#: name -> mean and standard deviation of the channels red, green and blue, of pixels in 0 to 1.
STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
CROPS = ("resized", "padded", "centre")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
SMALLEST = 8  # pixels
MOST_HUE = 0.5  # of color_jitter: half the circle of colours either way


@dataclass(frozen=True)
class Frame:
    """What training and evaluation share: size, statistics and how images are resized.

    Args:
        image_size: pixels, both ways.
        mean: of each channel.
        std: of each channel.
        interpolation: name of the filter.
        crop_pct: evaluation resizes the shorter side to `image_size / crop_pct` and cuts out the
            centre.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float


def frame(
    channels: int = 3,
    random_crop: str = "resized",
    like: str | None = None,
    image_size: int | None = None,
    mean: str | float | Sequence[float] | None = None,
    std: str | float | Sequence[float] | None = None,
    interpolation: str | None = None,
    crop_pct: float | None = None,
) -> Frame:
    """Fills in what is not given: from `like`, a timm network's own settings, or the usual ones.

    The usual ones are 224 pixels, ImageNet's mean and deviation, bicubic, and a `crop_pct` of 0.875
    with `random_crop="resized"`, else 1. Names and settings of three channels give one channel
    their average.

    Raises:
        InputError: an unknown name, or a number that cannot be.

    Example:
        >>> frame(channels=1, random_crop="padded", image_size=28, mean=0.5, std=0.25)
        Frame(image_size=28, mean=(0.5,), std=(0.25,), interpolation='bicubic', crop_pct=1.0)
    """
    if channels not in (1, 3):
        raise InputError(f"channels={channels} must be 1 (grey) or 3 (red, green and blue).")
    own = _network_settings(like) if like is not None else {}
    size = own.get("input_size", (3, 224, 224))[-1] if image_size is None else image_size
    if size < SMALLEST:
        raise InputError(f"image_size={size} is too small: give at least {SMALLEST} pixels.")
    pct = own.get("crop_pct", 0.875 if random_crop == "resized" else 1.0)
    pct = pct if crop_pct is None else crop_pct
    if not 0 < pct <= 1:
        raise InputError(f"crop_pct={pct} must be above 0 and at most 1.")
    scaling = interpolation or own.get("interpolation", "bicubic")
    if scaling not in INTERPOLATIONS:
        raise InputError(f"interpolation={scaling!r} is unknown: use {', '.join(INTERPOLATIONS)}.")
    means = _statistic("mean", mean, own, channels)
    stds = _statistic("std", std, own, channels)
    if min(stds) <= 0:
        raise InputError(f"std={std!r} must be above 0.")
    return Frame(size, means, stds, scaling, pct)


def _network_settings(name: str) -> dict[str, Any]:
    import timm
    from timm.data import resolve_data_config

    from tandem_pl.networks import wide_resnet as wide_resnet  # registers its networks

    try:
        settings = timm.get_pretrained_cfg(name)
    except RuntimeError:  # a known architecture with an unknown tag
        settings = None
    if settings is None:
        raise InputError(
            f"like={name!r} is no timm network with settings of its own: give a name of "
            "timm.list_pretrained(), or mean, std and image_size."
        )
    return resolve_data_config(pretrained_cfg=settings.to_dict())


def _statistic(
    key: str, value: str | float | Sequence[float] | None, own: Mapping[str, Any], channels: int
) -> tuple[float, ...]:
    named = value is None or isinstance(value, str)  # of red, green and blue
    given: Any = own.get(key, "imagenet") if value is None else value
    if isinstance(given, str):
        if given not in STATISTICS:
            raise InputError(
                f"{key}={given!r} is unknown: use {', '.join(STATISTICS)}, or a number a channel."
            )
        given = STATISTICS[given][key == "std"]
    if named and channels == 1:
        given = round(sum(given) / len(given), 6)
    numbers = [given] * channels if isinstance(given, int | float) else list(given)
    if len(numbers) != channels:
        raise InputError(
            f"{key}={given!r} has {len(numbers)} numbers and channels={channels}: give one each."
        )
    return tuple(map(float, numbers))


def training_transform(
    frame: Frame,
    random_crop: str = "resized",
    crop_scale: Sequence[float] = (0.08, 1.0),
    crop_ratio: Sequence[float] = (3 / 4, 4 / 3),
    crop_padding: int = 4,
    hflip: float = 0.5,
    color_jitter: float | Sequence[float] | None = None,
    auto_augment: str | None = None,
    random_erasing: float = 0.0,
) -> Transform:
    """Image -> float32 [C, H, W], augmented.

    Args:
        frame: size, statistics and filter.
        random_crop: "resized" cuts out a part of random size and shape and resizes it; "padded"
            resizes, adds a border and cuts out a square, as is usual for CIFAR; "centre" does what
            evaluation does.
        crop_scale: share of the image's area that is cut out, with "resized": least and most.
        crop_ratio: width over height of that part: least and most.
        crop_padding: pixels of the black border, with "padded".
        hflip: probability of a mirror image.
        color_jitter: strength for brightness, contrast and saturation, or three or four numbers
            (the fourth for hue, at most 0.5); None for none. timm leaves it out where
            `auto_augment` is set.
        auto_augment: timm's name of a policy, such as "rand-m9-mstd0.5-inc1", "augmix-m5-w4-d2",
            "3a" or "original"; None for none.
        random_erasing: probability that a rectangle is filled with noise.

    Raises:
        InputError: an unknown name, or a number that cannot be.
    """
    from timm.data import create_transform
    from torchvision import transforms

    if random_crop not in CROPS:
        raise InputError(f"random_crop={random_crop!r} is unknown: use {', '.join(CROPS)}.")
    for key, probability in (("hflip", hflip), ("random_erasing", random_erasing)):
        if not 0 <= probability <= 1:
            raise InputError(f"{key}={probability} must be a probability, 0 to 1.")
    for key, pair in (("crop_scale", crop_scale), ("crop_ratio", crop_ratio)):
        most = 1.0 if key == "crop_scale" else float("inf")
        if len(pair) != 2 or not 0 < pair[0] <= pair[1] <= most:
            raise InputError(
                f"{key}={list(pair)!r} must be two numbers, the least and the most, above 0"
                f"{' and at most 1' if key == 'crop_scale' else ''}."
            )
    if crop_padding < 0:
        raise InputError(f"crop_padding={crop_padding} must be at least 0 pixels.")
    jitter = (
        color_jitter
        if color_jitter is None or isinstance(color_jitter, int | float)
        else (tuple(color_jitter))
    )
    if jitter is not None and (
        (isinstance(jitter, tuple) and len(jitter) not in (3, 4))
        or min(jitter if isinstance(jitter, tuple) else (jitter,)) < 0
    ):
        raise InputError(
            f"color_jitter={color_jitter!r} must be a number, or three or four of them, from 0 on."
        )
    if isinstance(jitter, tuple) and len(jitter) == 4 and jitter[3] > MOST_HUE:
        raise InputError(
            f"color_jitter={color_jitter!r} has the hue {jitter[3]}: give at most {MOST_HUE}."
        )
    try:
        parts = create_transform(
            frame.image_size,
            is_training=True,
            separate=True,
            scale=tuple(crop_scale),
            ratio=tuple(crop_ratio),
            hflip=hflip,
            color_jitter=jitter,
            auto_augment=auto_augment,
            interpolation=frame.interpolation,
            mean=frame.mean,
            std=frame.std,
            re_prob=random_erasing,
            re_mode="pixel",
        )
    except (AssertionError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(
            f"auto_augment={auto_augment!r} is not understood by timm ({error or 'bad name'}): use "
            'a name such as "rand-m9-mstd0.5-inc1", "augmix-m5-w4-d2", "3a" or "original".'
        ) from error
    steps = [step for part in parts for step in part.transforms]
    for step in steps:
        _keep_a_bit(step)
    if random_crop == "padded":
        steps[:1] = [
            *_resize(frame, transforms),
            transforms.RandomCrop(frame.image_size, padding=crop_padding),
        ]
    elif random_crop == "centre":
        steps[:1] = _resize(frame, transforms)
    return transforms.Compose(steps)


def evaluation_transform(frame: Frame) -> Transform:
    """Image -> float32 [C, H, W]: resized, and the centre cut out."""
    from timm.data import create_transform

    return create_transform(
        frame.image_size,
        is_training=False,
        interpolation=frame.interpolation,
        mean=frame.mean,
        std=frame.std,
        crop_pct=frame.crop_pct,
    )


def _keep_a_bit(policy: Any) -> None:
    """Lets timm's "posterize" keep one bit at least: Pillow refuses to keep none, amid a run."""
    groups = [getattr(policy, "ops", ()), *getattr(policy, "policy", ())]
    for operation in chain.from_iterable(groups):
        if getattr(getattr(operation, "aug_fn", None), "__name__", None) == "posterize":
            operation.level_fn = partial(_at_least_one, operation.level_fn)


def _at_least_one(level_fn: Callable[..., tuple[int, ...]], *level: Any) -> tuple[int, ...]:
    return tuple(max(bits, 1) for bits in level_fn(*level))


def _resize(frame: Frame, transforms: Any) -> list[Any]:
    size = int(frame.image_size / frame.crop_pct)
    mode = transforms.InterpolationMode(frame.interpolation)
    return [transforms.Resize(size, mode), transforms.CenterCrop(frame.image_size)]
