"""The digits: the split, what is made of the few real ones, and what it is made of."""

import sys
from collections import Counter

import numpy as np
import pytest
import torch

from tandem_pl.datamodules import DigitsMixtureDataModule
from tandem_pl.datamodules.demo import digits
from tandem_pl.datamodules.demo.digit_images import (
    SIZES,
    GaussianDigits,
    Images,
    blur,
    make_domain,
    move,
    stratified_split,
)
from tandem_pl.datamodules.demo.digits import REAL
from tandem_pl.errors import InputError

pytest.importorskip("sklearn")
SMALL = dict.fromkeys(SIZES, 200)


def set_up(**options) -> DigitsMixtureDataModule:
    data = DigitsMixtureDataModule(**{"sizes": SMALL, **options})
    data.setup("fit")
    return data


@pytest.fixture(scope="module")
def real() -> Images:
    """The 100 real training images."""
    everything = digits.load_digits()
    rows = stratified_split(everything.labels, {"train": 10}, np.random.default_rng(0))["train"]
    return Images(everything.pixels[rows], everything.labels[rows])


def test_the_splits_hold_every_image_once():
    from sklearn.datasets import load_digits

    data = set_up()
    parts = [data.train_sets[REAL], data.target_sets[REAL], data.test_sets[REAL]]
    assert [len(part) for part in parts] == [100, 300, 1397]
    assert [Counter(p.datasets["label"]).most_common()[-1][1] for p in parts[:2]] == [10, 30]
    source = load_digits().images  # 0 to 16

    def key(pixels) -> list:
        return sorted(map(tuple, np.rint(pixels.reshape(len(pixels), -1)).astype(int).tolist()))

    images = torch.cat([part.datasets["image"] for part in parts])
    assert images.dtype == torch.float32
    assert images.shape[1:] == (1, 8, 8)
    low, high = images.min(), images.max()
    back = ((images - low) / (high - low) * 16).numpy()
    assert key(back) == key(source)


def test_real_training_images_have_mean_0_and_deviation_1():
    images = set_up().train_sets[REAL].datasets["image"].double()
    assert float(images.mean()) == pytest.approx(0, abs=1e-6)
    assert float(images.std(correction=0)) == pytest.approx(1, abs=1e-6)


def test_made_domains_know_nothing_of_target_and_test(monkeypatch):
    before = set_up()
    everything = digits.load_digits()
    split = {"train": 10, "target": 30}
    rows = stratified_split(everything.labels, split, np.random.default_rng(0))["train"]
    other = np.ones_like(everything.pixels)
    other[rows] = everything.pixels[rows]
    monkeypatch.setattr(digits, "load_digits", lambda: Images(other, everything.labels))
    after = set_up()
    assert not torch.equal(
        before.test_sets[REAL].datasets["image"], after.test_sets[REAL].datasets["image"]
    )
    for name, data in before.train_sets.items():
        assert torch.equal(data.datasets["image"], after.train_sets[name].datasets["image"]), name


def test_everything_is_a_function_of_the_split_seed():
    first, again = set_up(), set_up(seed=5, batch_size=8)
    other, fewer = set_up(split_seed=1), set_up(sizes={**SMALL, "generated": 0, "rotated": 20})
    for name, data in first.train_sets.items():
        assert torch.equal(data.datasets["image"], again.train_sets[name].datasets["image"])
        assert data.datasets["label"] == again.train_sets[name].datasets["label"]
        assert not torch.equal(data.datasets["image"], other.train_sets[name].datasets["image"])
        if name not in ("generated", "rotated"):  # of other sizes
            assert torch.equal(data.datasets["image"], fewer.train_sets[name].datasets["image"])
    assert list(fewer.train_sets) == [REAL, "rotated", "blurred", "label_noise", "biased", "noise"]
    assert len(fewer.train_sets["rotated"]) == 20


def test_samples_and_batches():
    data = set_up(batch_size=16)
    rows = data.train_sets["rotated"]
    one = rows[3]
    assert isinstance(one["label"], int)
    (many,) = rows.__getitems__([3])
    assert torch.equal(one["image"], many["image"])
    assert one["label"] == many["label"]
    batch = next(iter(data.train_dataloader()))
    assert batch.samples["image"].shape == (16, 1, 8, 8)
    assert batch.samples["image"].dtype == torch.float32
    assert batch.samples["label"].dtype == torch.int64
    assert data.classes[7] == "7"
    assert (data.num_classes, data.channels) == (10, 1)


@pytest.fixture(scope="module")
def judge():
    """A classifier of other real images than those that the domains are made of."""
    from sklearn.svm import SVC

    everything = digits.load_digits()
    rows = stratified_split(everything.labels, {"train": 10}, np.random.default_rng(0))["rest"]
    return SVC(gamma=0.05).fit(everything.pixels[rows].reshape(-1, 64), everything.labels[rows])


LABELS = [("generated", 0.4, 1), ("rotated", 0.4, 1), ("blurred", 0.9, 1), ("biased", 0.4, 1)]


@pytest.mark.parametrize(
    ("name", "low", "high"), [*LABELS, ("label_noise", 0.05, 0.15), ("noise", 0.05, 0.15)]
)
def test_labels_are_right_where_they_should_be(real, judge, name, low, high):
    images = make_domain(name, 1000, real, np.random.default_rng(1))
    assert images.pixels.shape == (1000, 8, 8)
    assert 0 <= images.pixels.min() < images.pixels.max() <= 1
    agreement = (judge.predict(images.pixels.reshape(-1, 64)) == images.labels).mean()
    assert low < agreement <= high


def test_shares_of_the_classes(real):
    counts = {
        name: np.bincount(make_domain(name, 2000, real, np.random.default_rng(2)).labels) / 2000
        for name in SIZES
    }
    assert np.allclose(counts.pop("generated"), 0.1)
    biased = counts.pop("biased")
    assert np.allclose(biased[:3], 0.3, atol=0.04)
    assert np.allclose(biased[3:], 0.1 / 7, atol=0.012)
    for name, shares in counts.items():
        assert np.allclose(shares, 0.1, atol=0.035), name


def test_label_noise_is_real_images_and_noise_is_none(real):
    kept = make_domain("label_noise", 300, real, np.random.default_rng(3))
    known = {image.tobytes() for image in real.pixels}
    assert all(image.tobytes() in known for image in kept.pixels)
    pixels = make_domain("noise", 300, real, np.random.default_rng(3)).pixels
    assert pixels.mean() == pytest.approx(1 / 2, abs=0.01)
    assert pixels.var() == pytest.approx(1 / 12, abs=0.002)


def test_turns_by_right_angles_and_shifts_by_pixels_are_exact():
    pixels = np.random.default_rng(0).random((4, 8, 8))
    turned = move(pixels, np.array([0.0, 90.0, 180.0, -90.0]), np.zeros((4, 2)))
    for turns, image, result in zip((0, 1, 2, 3), pixels, turned, strict=True):
        assert np.allclose(result, np.rot90(image, turns), atol=1e-9)
    shifted = move(pixels, np.zeros(4), np.tile([1.0, -2.0], (4, 1)))
    expected = np.zeros_like(pixels)
    expected[:, 1:, :-2] = pixels[:, :-1, 2:]  # one down, two to the left
    assert np.allclose(shifted, expected, atol=1e-9)


def test_blur_of_a_point_is_the_gaussian():
    point = np.zeros((2, 15, 15))
    point[:, 7, 7] = 1
    blurred = blur(point, np.array([0.5, 1.0]))
    distance = np.arange(-7, 8)
    for width, result in zip((0.5, 1.0), blurred, strict=True):
        bell = np.exp(-0.5 * (distance / width) ** 2)
        bell /= bell.sum()
        assert np.allclose(result, np.outer(bell, bell), atol=1e-4)  # it is cut at 4 widths


def test_drawn_digits_have_the_mean_and_covariance_of_their_class():
    generator = np.random.default_rng(0)
    labels = np.arange(200) % 10
    spreads = generator.random((10, 8, 8))
    noise = generator.standard_normal((200, 8, 8)) * spreads[labels]
    images = Images(0.5 + 0.02 * noise + 0.01 * labels[:, None, None], labels)
    model = GaussianDigits(images, components=64, shrinkage=0.25)
    drawn = model.draw(np.full(40_000, 3), generator).pixels.reshape(-1, 64)
    assert 0 < drawn.min() < drawn.max() < 1, "nothing is cut off, or the moments would differ"
    flat = images.pixels.reshape(200, 64)
    own = [np.cov(flat[labels == label].T) for label in range(10)]
    expected = 0.75 * own[3] + 0.25 * np.mean(own, axis=0)
    scale = expected.diagonal().max()
    assert np.allclose(drawn.mean(axis=0), flat[labels == 3].mean(axis=0), atol=0.05 * scale**0.5)
    assert np.abs(np.cov(drawn.T) - expected).max() < 0.06 * scale


def test_a_split_that_leaves_no_test_data():
    message = r"train 100 \+ target 100 images a class leave none to test with: class 0 has 178"
    with pytest.raises(InputError, match=message):
        set_up(real_per_class=100, target_per_class=100)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"real_per_class": 1}, "real_per_class=1 must be at least 2"),
        ({"target_per_class": 0}, "target_per_class=0 must be at least 1"),
        ({"sizes": {"blurred": -1}}, r"sizes\['blurred'\]=-1 must be at least 0"),
        ({"sizes": {"sharp": 9}}, "unknown domain 'sharp'.*generated, rotated"),
        ({"split_seed": -1}, "split_seed=-1"),
    ],
)
def test_settings_that_cannot_be(options, message):
    with pytest.raises(InputError, match=message):
        DigitsMixtureDataModule(**options)


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(InputError, match=r'pip install "tandem_pl\[vision\]"'):
        set_up()


def test_a_resume_wants_the_same_split():
    state = set_up().state_dict()
    set_up().load_state_dict(state)
    for stage in ("fit", "test"):  # there too: test images would have been trained on
        other = DigitsMixtureDataModule(split_seed=1)
        other.setup(stage)
        with pytest.raises(InputError, match="split_seed=0"):
            other.load_state_dict(state)
