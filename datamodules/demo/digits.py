"""`DigitsMixtureDataModule`: few real images, and domains made of them.

Few of scikit-learn's digits are for training, as if real data were scarce; `digit_images` makes the
other domains of those few alone.
"""

from typing import Any

import numpy as np
import torch
from torch.utils.data import StackDataset

from tandem_pl.checks import check_at_least
from tandem_pl.datamodules.batching import ConfiguredDataModule
from tandem_pl.errors import InputError

from .digit_images import CLASSES, SIZES, Images, load_digits, make_domain, stratified_split

REAL = "real"
SPLIT_OPTIONS = ("split_seed", "real_per_class", "target_per_class")


class DigitsMixtureDataModule(ConfiguredDataModule):
    """A few real digits, six domains made of them, and real target and test data.

    Training has the domain "real" and those of `sizes` (see `make_domain`). Target and test have
    only "real", with images that no training domain has or was made of. A sample is
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
            `setup`, without scikit-learn, or if no image is left to test with.

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
        super().__init__(**batching)
        check_at_least("real_per_class", real_per_class, 2)
        check_at_least("target_per_class", target_per_class, 1)
        check_at_least("split_seed", split_seed, 0)
        for name, size in (sizes or {}).items():
            check_at_least(f"sizes[{name!r}]", size, 0)
            if name not in SIZES:
                raise InputError(
                    f"sizes names the unknown domain {name!r}: the made domains are "
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
        """Split the real images and make the other domains; takes half a second."""
        if not self.train_sets:
            digits = load_digits()
            wanted = {"train": self.real_per_class, "target": self.target_per_class}
            split = stratified_split(digits.labels, wanted, np.random.default_rng(self.split_seed))
            parts = {n: Images(digits.pixels[r], digits.labels[r]) for n, r in split.items()}
            real = parts["train"]
            domains = {REAL: real}
            for number, name in enumerate(SIZES):  # a generator each, so that sizes may change
                if name in self.sizes:
                    stream = np.random.SeedSequence(self.split_seed, spawn_key=(number,))
                    random = np.random.default_rng(stream)
                    domains[name] = make_domain(name, self.sizes[name], real, random)
            mean, std = float(real.pixels.mean()), float(real.pixels.std())
            self.mean, self.std = [mean], [std]
            self.train_sets = {name: _normalise(x, mean, std) for name, x in domains.items()}
            self.target_sets = {REAL: _normalise(parts["target"], mean, std)}
            self.test_sets = {REAL: _normalise(parts["rest"], mean, std)}
        super().setup(stage)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume; refuse a checkpoint of another split, which trained on other images."""
        for key in SPLIT_OPTIONS:
            then = state["identity"].get(key) if state else None
            if then is not None and then != getattr(self, key):
                raise InputError(
                    f"the checkpoint was made with {key}={then} and this run has "
                    f"{key}={getattr(self, key)}, which tests on images that it trained on: set it "
                    "to the same, or use the run's own config.yaml."
                )
        super().load_state_dict(state)

    def _identity(self) -> dict[str, Any]:
        # With the split, because equal sizes may have other images.
        return {**super()._identity(), **{key: getattr(self, key) for key in SPLIT_OPTIONS}}


def _normalise(images: Images, mean: float, std: float) -> StackDataset:
    pixels = torch.from_numpy((images.pixels - mean)[:, None] / std).float()
    columns: dict[str, Any] = {"image": pixels, "label": images.labels.tolist()}
    return StackDataset(**columns)
