import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from tandem_pl import InputError
from tandem_pl.datamodules.images.transforms import (
    STATISTICS,
    Augmentation,
    evaluation_transform,
    resolve_frame,
    training_transform,
)


def picture(side: int = 40, channels: int = 3, seed: int = 0) -> Image.Image:
    shape = (side, side, 3) if channels == 3 else (side, side)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def ramp(side: int) -> Image.Image:
    rows = np.arange(side, dtype=np.uint8)
    return Image.fromarray(np.add.outer(3 * rows, rows).astype(np.uint8) + 1)


def test_evaluation_normalises_the_pixels() -> None:
    image = picture(32)
    settings = resolve_frame(random_crop="padded", image_size=32, mean="cifar10", std="cifar10")
    mean, std = (torch.tensor(row)[:, None, None] for row in STATISTICS["cifar10"])
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    torch.testing.assert_close(evaluation_transform(settings)(image), (pixels - mean) / std)


def test_evaluation_cuts_out_the_centre() -> None:
    settings = resolve_frame(image_size=28, mean=0.0, std=1.0, channels=1)
    assert settings.crop_pct == 0.875
    image = ramp(32)  # 28 / 0.875: no resizing
    expected = torch.from_numpy(np.array(image)[2:30, 2:30]) / 255
    torch.testing.assert_close(evaluation_transform(settings)(image)[0], expected)


def test_padded_crops_are_windows_of_the_image_in_a_border() -> None:
    settings = resolve_frame(1, "padded", image_size=16, mean=0.0, std=1.0)
    transform = training_transform(settings, Augmentation("padded", crop_padding=3, hflip=0.5))
    image = ramp(16)
    padded = torch.from_numpy(np.pad(np.array(image), 3)) / 255
    windows = [padded[i : i + 16, j : j + 16] for i in range(7) for j in range(7)]
    windows += [window.flip(1) for window in windows]
    torch.manual_seed(0)
    found = set()
    for _ in range(200):
        crop = transform(image)[0]
        (index,) = [n for n, window in enumerate(windows) if torch.equal(window, crop)]
        found.add(index)
    assert len(found) > 60


def test_resized_crops_stay_within_their_scale() -> None:
    settings = resolve_frame(
        1, "resized", image_size=16, mean=0.0, std=1.0, interpolation="nearest"
    )
    whole = training_transform(
        settings, Augmentation(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), hflip=0.0)
    )
    image = ramp(16)
    torch.testing.assert_close(whole(image)[0], torch.from_numpy(np.array(image)) / 255)
    small = training_transform(
        settings, Augmentation(crop_scale=(0.25, 0.25), crop_ratio=(1.0, 1.0), hflip=0.0)
    )
    crop = small(image)[0] * 255
    assert crop.max() - crop.min() == pytest.approx(3 * 7 + 7)  # 8 x 8 pixels of the ramp


def test_centre_is_evaluation_with_flips() -> None:
    settings = resolve_frame(3, "centre", image_size=24)
    image, transform = picture(), training_transform(settings, Augmentation("centre"))
    plain = evaluation_transform(settings)(image)
    torch.manual_seed(0)
    seen = [transform(image) for _ in range(20)]
    assert all(torch.equal(x, plain) or torch.equal(x.flip(2), plain) for x in seen)
    assert len({float(x[0, 0, 0]) for x in seen}) == 2


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", ["rand-m2-n3", "rand-m9-mstd0.5-inc1", "augmix-m3", "v0", "3a"])
def test_every_policy_works_for_grey_and_colour(channels, policy) -> None:
    settings = resolve_frame(channels, image_size=16)
    transform = training_transform(settings, Augmentation(auto_augment=policy, random_erasing=0.5))
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    image = picture(20, channels)
    seen = [transform(image) for _ in range(60)]  # weak ones keep no bit of a colour in timm
    assert {tuple(x.shape) for x in seen} == {(channels, 16, 16)}
    assert not torch.equal(seen[0], seen[1])


def test_erasing_fills_a_rectangle() -> None:
    settings = resolve_frame(1, "centre", image_size=32, mean=0.0, std=1.0)
    black = Image.fromarray(np.zeros((32, 32), dtype=np.uint8))
    transform = training_transform(settings, Augmentation("centre", hflip=0.0, random_erasing=1.0))
    random.seed(0)
    filled = transform(black)[0] != 0
    assert filled.sum() == filled.any(0).sum() * filled.any(1).sum() > 0


def test_a_networks_own_settings() -> None:
    import timm

    name = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    own = timm.get_pretrained_cfg(name)
    settings = resolve_frame(like=name)
    assert (settings.image_size, settings.mean, settings.std) == (224, own.mean, own.std)
    assert (settings.interpolation, settings.crop_pct) == (own.interpolation, own.crop_pct)
    assert (
        resolve_frame(like=name, image_size=64, mean="imagenet").mean == STATISTICS["imagenet"][0]
    )


def test_grey_images_get_the_average_of_a_networks_colours() -> None:
    import timm

    name = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    own = timm.get_pretrained_cfg(name)
    settings = resolve_frame(1, like=name)
    assert settings.mean == pytest.approx([np.mean(own.mean)], abs=1e-5)
    assert settings.std == pytest.approx([np.mean(own.std)], abs=1e-5)
    with pytest.raises(InputError, match="has 3 numbers and channels=1"):
        resolve_frame(1, like=name, mean=[0.1, 0.2, 0.3])


def test_like_knows_wide_resnets_whatever_was_imported() -> None:
    code = (
        "from tandem_pl.datamodules.images.transforms import resolve_frame\n"
        "settings = resolve_frame(like='wrn_28_10_silu')\n"
        "print(settings.image_size, *settings.mean)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["32", *map(str, STATISTICS["cifar10"][0])], done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_size": 4}, "image_size=4 must be at least 8"),
        ({"mean": "cifar"}, "mean='cifar' is unknown"),
        ({"std": [0.1, 0.2]}, "has 2 numbers and channels=3"),
        ({"std": 0.0}, "std=0.0 must be above 0"),
        ({"channels": 2}, "channels=2"),
        ({"interpolation": "cubic"}, "interpolation='cubic'"),
        ({"crop_pct": 1.5}, "crop_pct=1.5"),
        ({"like": "resnet_fifty"}, "like='resnet_fifty'"),
    ],
)
def test_bad_frames(options, words) -> None:
    with pytest.raises(InputError, match=words) as caught:
        resolve_frame(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"random_crop": "random"}, "random_crop='random'"),
        ({"auto_augment": "randaugment"}, "auto_augment='randaugment'"),
        ({"auto_augment": "rand-z9"}, "auto_augment='rand-z9'"),
        ({"hflip": 2}, "hflip=2"),
        ({"random_erasing": -1}, "random_erasing=-1"),
        ({"crop_scale": [0.5, 0.1]}, "crop_scale"),
        ({"crop_ratio": [1.0]}, "crop_ratio"),
        ({"crop_padding": -1}, "crop_padding=-1"),
        ({"color_jitter": [0.1, 0.2]}, "color_jitter"),
        (
            {"color_jitter": [0.4, 0.4, 0.4, 0.6]},
            "0.6.* must be .* the fourth, of hue, is at most 0.5",
        ),
    ],
)
def test_bad_training_transforms(options, words) -> None:
    with pytest.raises(InputError, match=words) as caught:
        training_transform(resolve_frame(image_size=16), Augmentation(**options))
    assert "\n" not in str(caught.value)
