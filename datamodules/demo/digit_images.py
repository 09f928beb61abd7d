"""Scikit-learn's digits, and images made of a few of them: generated, moved, blurred, mislabelled.

The package contains 1797 grey handwritten digits of 8 x 8 pixels.
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
WHITE = 16.0  # largest grey value in the package's data

#: Images of the made domains; 0 leaves a domain out. The order decides the random numbers.
SIZES = {"generated": 2000} | dict.fromkeys(
    ("rotated", "blurred", "label_noise", "biased", "noise"), 1000
)


class Images(NamedTuple):
    """Grey images [N, 8, 8] of values 0 (paper) to 1 (ink), and their classes [N]."""

    pixels: Array
    labels: Labels


# ---- real images ----


def load_digits() -> Images:
    """Load all 1797 digits from the installed package.

    Raises:
        InputError: scikit-learn is not installed.
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
    """Draw the indices of every split, the same number of every class; "rest" has the others.

    Example:
        >>> labels = np.array([0, 1, 0, 1, 0, 1, 0, 1])
        >>> split = stratified_split(labels, {"a": 1, "b": 2}, np.random.default_rng(0))
        >>> [sorted(labels[rows].tolist()) for rows in split.values()]
        [[0, 1], [0, 0, 1, 1], [0, 1]]

    Raises:
        InputError: a class has no image left for "rest".
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


# ---- made images ----


class GaussianDigits:
    """A Gaussian for every class, in the space of the principal components of all images.

    With z = V'(x - mean) in R^d, z | c ~ N(m_c, (1 - s) S_c + s S). m_c and S_c are the mean and
    the covariance of class c, and S is the mean of all S_c. A drawn z becomes the image V z + mean,
    cut to 0 ... 1.

    Args:
        images: what it is fitted on; at least two of every class.
        components: d.
        shrinkage: s, 0 to 1.
    """

    def __init__(self, images: Images, components: int = 20, shrinkage: float = 0.5) -> None:
        flat = images.pixels.reshape(len(images.pixels), -1)
        self.mean = flat.mean(axis=0)
        axes = np.linalg.svd(flat - self.mean, full_matrices=False)[2][:components]
        self.axes = axes * np.sign(axes.sum(axis=1, keepdims=True))  # libraries choose either sign
        coded = (flat - self.mean) @ self.axes.T
        groups = [coded[images.labels == label] for label in range(CLASSES)]
        self.means = np.stack([group.mean(axis=0) for group in groups])
        own = np.stack([np.atleast_2d(np.cov(group.T)) for group in groups])
        covariances = (1 - shrinkage) * own + shrinkage * own.mean(axis=0)
        self.roots = np.linalg.cholesky(covariances + 1e-6 * np.eye(covariances.shape[-1]))

    def draw(self, labels: Labels, generator: Generator) -> Images:
        """Draw an image of each of the classes `labels` [N]."""
        noise = generator.standard_normal((len(labels), self.means.shape[1]))
        coded = self.means[labels] + np.einsum("nij,nj->ni", self.roots[labels], noise)
        flat = np.clip(coded @ self.axes + self.mean, 0.0, 1.0)
        return Images(flat.reshape(-1, SIDE, SIDE), labels)


def move(pixels: Array, degrees: Array, shifts: Array) -> Array:
    """Rotate every image [N, H, W] about its centre, then shift it, by cubic splines.

    `degrees` [N] are counter-clockwise, and `shifts` [N, 2] are pixels down and to the right. The
    background is 0, and values are cut to 0 ... 1.
    """
    from scipy.ndimage import rotate, shift

    rows = zip(pixels, degrees, shifts, strict=True)
    moved = [shift(rotate(x, angle, reshape=False), by) for x, angle, by in rows]
    return np.clip(np.stack(moved), 0.0, 1.0)


def move_at_random(images: Images, generator: Generator) -> Images:
    """Rotate by -15 to 15 degrees and shift by -0.8 to 0.8 pixels both ways, uniformly."""
    size = len(images.labels)
    degrees, shifts = generator.uniform(-15, 15, size), generator.uniform(-0.8, 0.8, (size, 2))
    return Images(move(images.pixels, degrees, shifts), images.labels)


def blur(pixels: Array, widths: Array) -> Array:
    """Convolve every image [N, H, W] with a Gaussian of standard deviation `widths` [N] pixels."""
    from scipy.ndimage import gaussian_filter

    return np.stack([gaussian_filter(x, w) for x, w in zip(pixels, widths, strict=True)])


def skewed_labels(size: int, few: int, share: float, generator: Generator) -> Labels:
    """Draw `size` classes: the first `few` get `share` of them, evenly, and the others the rest.

    Example:
        >>> labels = skewed_labels(1000, 3, 0.9, np.random.default_rng(0))
        >>> bool(0.87 < (labels < 3).mean() < 0.93)
        True
    """
    weights = np.where(np.arange(CLASSES) < few, share / few, (1 - share) / (CLASSES - few))
    return generator.choice(CLASSES, size, p=weights)


def make_domain(name: str, size: int, real: Images, generator: Generator) -> Images:
    """Make `size` images of a domain out of the scarce `real` ones.

    - generated: from `GaussianDigits`, fitted on ten moved copies of each; all classes evenly.
    - biased: the same, but nine in ten of the classes 0, 1 and 2.
    - rotated: real ones, rotated and shifted a little, see `move_at_random`.
    - blurred: real ones, blurred by a Gaussian of 0.4 to 1.0 pixels.
    - label_noise: real ones with random labels: one in ten is right.
    - noise: every pixel uniform from 0 to 1, and random labels.
    """
    if name in ("generated", "biased"):
        copies = Images(np.tile(real.pixels, (10, 1, 1)), np.tile(real.labels, 10))
        model = GaussianDigits(move_at_random(copies, generator))
        even = np.arange(size) % CLASSES
        labels = even if name == "generated" else skewed_labels(size, 3, 0.9, generator)
        return model.draw(labels, generator)
    if name == "noise":
        pixels = generator.random((size, SIDE, SIDE))
        return Images(pixels, generator.integers(CLASSES, size=size))
    rows = generator.integers(len(real.labels), size=size)
    pixels, labels = real.pixels[rows], real.labels[rows]
    if name == "rotated":
        return move_at_random(Images(pixels, labels), generator)
    if name == "blurred":
        return Images(blur(pixels, generator.uniform(0.4, 1.0, size)), labels)
    assert name == "label_noise"
    return Images(pixels, generator.integers(CLASSES, size=size))
