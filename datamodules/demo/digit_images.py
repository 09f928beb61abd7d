"""Scikit-learn's digits, and images made of a few of them: generated, moved, blurred, mislabelled.

1797 gray digits of 8 x 8 pixels, written by hand, that install with the package.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from tandem_pl.errors import InputError

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

CLASSES = 10
SIDE = 8  # pixels
WHITE = 16.0  # largest gray value in the package's data

#: Images of the made domains. A domain of 0 images is left out.
SIZES = {
    "generated": 2000,
    "rotated": 1000,
    "blurred": 1000,
    "label_noise": 1000,
    "biased": 1000,
    "noise": 1000,
}


class Images(NamedTuple):
    """Gray images [N, 8, 8] of values 0 (paper) to 1 (ink), and their classes [N]."""

    pixels: Array
    labels: Labels


# ---- the real ones ----


def load_digits() -> Images:
    """All 1797 digits, from the files of the installed package.

    Raises:
        InputError: without scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise InputError(
            'the digits need scikit-learn, which is not installed: pip install "tandem_pl[vision]".'
        ) from error
    data = load()
    return Images(data.images / WHITE, data.target.astype(np.int64))


def stratified_split(
    labels: Labels, per_class: Mapping[str, int], generator: Generator
) -> dict[str, NDArray[np.int64]]:
    """Split -> indices, drawn without replacement, as many of every class; "rest" has the others.

    Example:
        >>> labels = np.array([0, 1, 0, 1, 0, 1, 0, 1])
        >>> split = stratified_split(labels, {"a": 1, "b": 2}, np.random.default_rng(0))
        >>> [sorted(labels[rows].tolist()) for rows in split.values()]
        [[0, 1], [0, 0, 1, 1], [0, 1]]

    Raises:
        InputError: a class has none left for "rest".
    """
    wanted = sum(per_class.values())
    parts: dict[str, list[NDArray]] = {name: [] for name in (*per_class, "rest")}
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        if len(rows) <= wanted:
            asked = " + ".join(f"{name} {count}" for name, count in per_class.items())
            raise InputError(
                f"{asked} images a class leave none to test with: class {label} has {len(rows)} "
                "images; ask for fewer."
            )
        bounds = np.cumsum(list(per_class.values()))
        for part, chosen in zip(parts.values(), np.split(rows, bounds), strict=True):
            part.append(chosen)
    return {name: np.sort(np.concatenate(part)) for name, part in parts.items()}


# ---- the made ones ----


class GaussianDigits:
    """A Gaussian for every class, in the space of the principal components of all images.

    With z = V'(x - mean) in R^d, z | c ~ N(m_c, t^2 ((1 - s) S_c + s S)), where m_c and S_c are the
    mean and the covariance of class c, and S is the mean of all S_c. A drawn z becomes the image
    V z + mean, cut to 0 ... 1.

    Args:
        images: what it is fitted on; two of every class at least.
        components: d.
        shrinkage: s, 0 to 1.
        spread: t; below 1 the images differ less and more of them look like their class.
    """

    def __init__(
        self, images: Images, components: int = 20, shrinkage: float = 0.5, spread: float = 1.0
    ) -> None:
        flat = images.pixels.reshape(len(images.pixels), -1)
        self.mean = flat.mean(axis=0)
        axes = np.linalg.svd(flat - self.mean, full_matrices=False)[2][:components]
        self.axes = axes * np.sign(axes.sum(axis=1, keepdims=True))  # a library may choose either
        coded = (flat - self.mean) @ self.axes.T
        groups = [coded[images.labels == label] for label in range(CLASSES)]
        self.means = np.stack([group.mean(axis=0) for group in groups])
        own = np.stack([np.atleast_2d(np.cov(group.T)) for group in groups])
        covariances = (1 - shrinkage) * own + shrinkage * own.mean(axis=0)
        self.roots = spread * np.linalg.cholesky(covariances + 1e-6 * np.eye(covariances.shape[-1]))

    def draw(self, labels: Labels, generator: Generator) -> Images:
        """An image of each of the classes `labels` [N]."""
        noise = generator.standard_normal((len(labels), self.means.shape[1]))
        coded = self.means[labels] + np.einsum("nij,nj->ni", self.roots[labels], noise)
        flat = np.clip(coded @ self.axes + self.mean, 0.0, 1.0)
        return Images(flat.reshape(-1, SIDE, SIDE), labels)


def move(pixels: Array, degrees: Array, shifts: Array) -> Array:
    """Turns every image [N, H, W] about its middle, then shifts it.

    `degrees` [N] are counter-clockwise, and `shifts` [N, 2] are pixels down and to the right. By
    cubic splines, cut to 0 ... 1; what comes in from outside is 0.
    """
    from scipy.ndimage import rotate, shift

    rows = zip(pixels, degrees, shifts, strict=True)
    moved = [shift(rotate(x, angle, reshape=False), by) for x, angle, by in rows]
    return np.clip(np.stack(moved), 0.0, 1.0)


def move_at_random(images: Images, generator: Generator) -> Images:
    """Turns by -15 to 15 degrees and shifts by -0.8 to 0.8 pixels each way, all alike probable."""
    size = len(images.labels)
    degrees, shifts = generator.uniform(-15, 15, size), generator.uniform(-0.8, 0.8, (size, 2))
    return Images(move(images.pixels, degrees, shifts), images.labels)


def blur(pixels: Array, widths: Array) -> Array:
    """Convolves every image [N, H, W] with a Gaussian whose deviation is `widths` [N] pixels."""
    from scipy.ndimage import gaussian_filter

    return np.stack([gaussian_filter(x, w) for x, w in zip(pixels, widths, strict=True)])


def skewed_labels(size: int, few: int, share: float, generator: Generator) -> Labels:
    """`size` classes: the `few` first ones have `share` of them, evenly, and the others the rest.

    Example:
        >>> labels = skewed_labels(1000, 3, 0.9, np.random.default_rng(0))
        >>> bool(0.87 < (labels < 3).mean() < 0.93)
        True
    """
    weights = np.where(np.arange(CLASSES) < few, share / few, (1 - share) / (CLASSES - few))
    return generator.choice(CLASSES, size, p=weights)


def random_labels(size: int, generator: Generator) -> Labels:
    """`size` classes, all alike probable."""
    return generator.integers(CLASSES, size=size)


def make_domain(name: str, size: int, real: Images, generator: Generator) -> Images:
    """`size` images of a made domain, out of the scarce `real` ones.

    - generated: of `GaussianDigits`, fitted on ten moved copies of each; all classes alike.
    - biased: the same, but nine in ten of the classes 0, 1 and 2.
    - rotated: real ones, turned and shifted a little, see `move_at_random`.
    - blurred: real ones under a Gaussian of 0.4 to 1.0 pixels.
    - label_noise: real ones, whose labels are drawn anew: one in ten is right.
    - noise: every pixel uniform from 0 to 1, and any label.
    """
    if name in ("generated", "biased"):
        copies = Images(np.tile(real.pixels, (10, 1, 1)), np.tile(real.labels, 10))
        model = GaussianDigits(move_at_random(copies, generator))
        even = np.arange(size) % CLASSES
        labels = even if name == "generated" else skewed_labels(size, 3, 0.9, generator)
        return model.draw(labels, generator)
    if name == "noise":
        pixels = generator.random((size, SIDE, SIDE))
        return Images(pixels, random_labels(size, generator))
    rows = generator.integers(len(real.labels), size=size)
    pixels, labels = real.pixels[rows], real.labels[rows]
    if name == "rotated":
        return move_at_random(Images(pixels, labels), generator)
    if name == "blurred":
        return Images(blur(pixels, generator.uniform(0.4, 1.0, size)), labels)
    assert name == "label_noise"
    return Images(pixels, random_labels(size, generator))
