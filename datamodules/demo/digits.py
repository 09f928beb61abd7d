"""Real images that install with a package, a few of them, and domains made of these.

Few of scikit-learn's digits are kept for training, as where real data are scarce; see
`digit_images` for how the other domains are made of those few alone.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tandem_pl.datamodules.batching import ConfiguredDataModule
from tandem_pl.errors import InputError

from .digit_images import CLASSES, SIZES, Images, load_digits, make_domain, stratified_split

REAL = "real"


class LabelledImages(Dataset):
    """Images [N, C, H, W] float32 and classes [N] int64, in memory.

    A sample is {"image": [C, H, W], "label": int}.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index], "label": int(self.labels[index])}

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """The same samples; one look-up for all of them."""
        labels = self.labels[indices].tolist()
        pairs = zip(self.images[indices], labels, strict=True)
        return [{"image": image, "label": label} for image, label in pairs]


class DigitsMixtureDataModule(ConfiguredDataModule):
    """A few real digits, six domains made of them, and real target and test data.

    Training has the domain "real" and those of `sizes` (see `make_domain`); target and test have
    "real" alone, with images that no training domain holds or was made of. A sample is
    {"image": FloatTensor[1, 8, 8], "label": int}; the pixels are normalised by mean and standard
    deviation of the real training images.

    Args:
        real_per_class: real training images of each of the 10 classes.
        target_per_class: real target images of each class; the others are test data.
        sizes: made domain -> images, in place of those of `SIZES`; 0 leaves a domain out.
        split_seed: of the split and of everything that is made; `seed` only orders the batches.
        batching: see `ConfiguredDataModule`.

    Attributes:
        classes: their names, "0" to "9".
        num_classes: 10.
        channels: 1.
        mean, std: [1] each, of the real training images of values 0 to 1; None before `setup`.

    Raises:
        InputError: an unknown domain, a negative size, fewer than two real images a class; by
            `setup`, without scikit-learn, or where no image is left to test with.

    Example:
        >>> data = DigitsMixtureDataModule(sizes={"noise": 0, "rotated": 500})
        >>> list(data.sizes)
        ['generated', 'rotated', 'blurred', 'label_noise', 'biased']
    """

    def __init__(
        self,
        real_per_class: int = 10,
        target_per_class: int = 30,
        sizes: dict[str, int] | None = None,
        split_seed: int = 0,
        **batching: Any,
    ) -> None:
        super().__init__(
            **batching,
        )
        for key, value, least in (
            ("real_per_class", real_per_class, 2),
            ("target_per_class", target_per_class, 1),
            ("split_seed", split_seed, 0),
            *((f"sizes[{name!r}]", size, 0) for name, size in (sizes or {}).items()),
        ):
            if value < least:
                raise InputError(f"{key}={value} must be at least {least}.")
        unknown = [name for name in sizes or {} if name not in SIZES]
        if unknown:
            raise InputError(
                f"sizes names the unknown domain {unknown[0]!r}: the made domains are "
                f"{', '.join(SIZES)}."
            )
        self.real_per_class = real_per_class
        self.target_per_class = target_per_class
        self.sizes = {name: size for name, size in {**SIZES, **(sizes or {})}.items() if size}
        self.split_seed = split_seed
        self.classes = [str(label) for label in range(CLASSES)]
        self.num_classes = CLASSES
        self.channels = 1
        self.mean: list[float] | None = None
        self.std: list[float] | None = None

    def setup(self, stage: str | None = None) -> None:
        """Splits the real images and makes the other domains; takes half a second."""
        if not self.train_sets:
            digits = load_digits()
            wanted = {"train": self.real_per_class, "target": self.target_per_class}
            split = stratified_split(digits.labels, wanted, np.random.default_rng(self.split_seed))
            parts = {n: Images(digits.pixels[r], digits.labels[r]) for n, r in split.items()}
            real = parts["train"]
            domains, order = {REAL: real}, list(SIZES)
            for name, size in self.sizes.items():  # each of its own stream: sizes may change
                stream = np.random.SeedSequence(self.split_seed, spawn_key=(order.index(name),))
                domains[name] = make_domain(name, size, real, np.random.default_rng(stream))
            mean, deviation = float(real.pixels.mean()), float(real.pixels.std())
            self.mean, self.std = [mean], [deviation]

            def normalised(images: Images) -> LabelledImages:
                pixels = (images.pixels - mean)[:, None] / deviation
                return LabelledImages(
                    torch.from_numpy(pixels).float(), torch.from_numpy(images.labels)
                )

            self.train_sets = {name: normalised(images) for name, images in domains.items()}
            self.target_sets = {REAL: normalised(parts["target"])}
            self.test_sets = {REAL: normalised(parts["rest"])}
        super().setup(stage)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Refuses a checkpoint of another split, also to test with: its test images are others."""
        for key in ("split_seed", "real_per_class", "target_per_class"):
            then = state["identity"].get(key) if state else None
            if then is not None and then != getattr(self, key):
                raise InputError(
                    f"the checkpoint was made with {key}={then} and this run has "
                    f"{key}={getattr(self, key)}, which tests on images that it trained on: set it "
                    "to the same, or use the run's own config.yaml."
                )
        super().load_state_dict(state)

    def _identity(self) -> dict[str, Any]:
        # Sizes alike do not make images alike.
        keys = ("split_seed", "real_per_class", "target_per_class")
        return {**super()._identity(), **{key: getattr(self, key) for key in keys}}
