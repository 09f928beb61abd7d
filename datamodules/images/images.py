"""Images of your own as a mixture: one source a domain, or one table of paths and labels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tandem_pl.datamodules.batching import ConfiguredDataModule
from tandem_pl.datamodules.text.text import default_cache_dir
from tandem_pl.episode import PROBE, TRAIN, MixtureBatch
from tandem_pl.errors import InputError

from .image_classes import class_numbers, find_classes
from .image_decoding import readable
from .image_files import SPLITS
from .image_sets import ImageSet
from .image_sources import ImageSource
from .image_splits import hold_out, open_splits, open_table
from .mixing import Mixing, mix
from .transforms import evaluation_transform, frame, training_transform

FIRST_LOOKS = 32  # domains of which one image is decoded before the start
NAMED = 20  # classes that a checkpoint names one by one


class ImageMixtureDataModule(ConfiguredDataModule):
    """Labelled images from your own files; a domain is a source, such as real and generated images.

    A batch is `{"image": [B, C, H, W] float32, "label": [B] int64}`, or with mixup or cutmix labels
    [B, classes] float32 in training. All domains share one list of classes.

    A source is

    - a folder with a subfolder of images for each class, of any format that Pillow reads;
    - an `.npz` file with `images` [N, H, W] or [N, H, W, C] uint8, `labels` [N] ints (or `image`,
      `label`) and optionally `classes` (names), memory-mapped where it is not compressed;
    - Parquet files, a folder that `Dataset.save_to_disk` wrote, or a hub name as
      `{dataset: NAME, split: train}`, with the columns `image` and `label`.

    Where only training images are there, `hold_out` takes target and test images out of the domains
    that the network is for. In a configuration:

        data:
          class_path: tandem_pl.datamodules.ImageMixtureDataModule
          init_args:
            train:
              real: data/photos                 # data/photos/CLASS/*.jpg
              diffusion: data/diffusion.npz
              web: {dataset: data/web.parquet, image: picture, label: category}
            hold_out: [real]                    # 5 % each for target and test
            image_size: 64
            auto_augment: rand-m9-mstd0.5-inc1
            mixup: 0.2
            batch_size: 128
            num_workers: 4

    Training and measuring take the training transform, with which the network learns; validation
    and test take the plain one, also of target data. Random augmentations are a function of `seed`,
    step and rank: a run that resumes, or has other `num_workers`, sees the same pixels.

    Args:
        train: domain -> a path, or a map with `path` or `dataset` and optionally `config`, `split`,
            `image` and `label` (columns). Give this or `table`.
        target: the same of target data.
        test: the same of test data.
        table: a CSV with the columns `path`, `label`, `domain` and optionally `split` (train,
            target or test), which fills all domains.
        root: folder that paths in the table are relative to; None: the table's folder.
        hold_out: training domains of which a part of every class becomes target data (unless there
            is some) and test data (likewise), under the same name, and is not trained on.
        target_fraction: share of every class that becomes target data.
        test_fraction: share that becomes test data.
        split_seed: decides which images are held out.
        classes: class names in the order of their numbers, or how many there are where they are
            numbers; a domain may then lack some. None: what the sources have, alike in all.
        channels: 3, or 1 for grey images.
        convert: whether images with other channels are converted (transparency is dropped); off,
            they are refused.
        like: name of a timm network, whose settings hold where the next five are not given.
        image_size: pixels both ways; None: 224.
        mean: of each channel, of pixels in 0 to 1: "imagenet", "half", "clip", "cifar10",
            "cifar100", or numbers; None: "imagenet".
        std: likewise.
        interpolation: "nearest", "bilinear", "bicubic", ...; None: "bicubic".
        crop_pct: evaluation resizes the shorter side to `image_size / crop_pct` and cuts out the
            centre; None: 0.875 with random_crop "resized", else 1.
        random_crop: "resized" (a part of random size and shape, resized), "padded" (random place
            within a border, as usual for CIFAR) or "centre" (not random).
        crop_scale: least and most share of the area, with "resized".
        crop_ratio: least and most width over height, with "resized".
        crop_padding: pixels of the border, with "padded".
        hflip: probability of a mirror image.
        color_jitter: strength, or three or four of them; None for none.
        auto_augment: timm's name of a policy, such as "rand-m9-mstd0.5-inc1" or "augmix-m5-w4-d2".
        random_erasing: probability that a rectangle is filled with noise.
        mixup: a of lambda ~ Beta(a, a), see `mixing.Mixing`; 0 for none. Samples are mixed with
            others of their domain in the batch, target samples too.
        cutmix: likewise; with both, half of the samples each.
        mix_probability: of a sample to be mixed at all.
        corrupt: an image that cannot be used ends the run with one sentence ("stop"), or every
            image is decoded once before the start and the bad ones are left out ("skip").
        cache_dir: folder where bad images are remembered; None: see `text.default_cache_dir`.
        batching: see `ConfiguredDataModule`.

    Raises:
        InputError: a bad setting at once; by `setup`, a source that cannot be opened, or classes
            that differ.

    Example:
        >>> data = ImageMixtureDataModule({"real": "photos", "fake": "fakes.npz"}, image_size=32)
        >>> data.image_size, data.channels
        (32, 3)
    """

    def __init__(
        self,
        train: dict[str, str | dict[str, Any]] | None = None,
        target: dict[str, str | dict[str, Any]] | None = None,
        test: dict[str, str | dict[str, Any]] | None = None,
        table: str | None = None,
        root: str | None = None,
        hold_out: list[str] | None = None,
        target_fraction: float = 0.05,
        test_fraction: float = 0.05,
        split_seed: int = 0,
        classes: int | list[str | int] | None = None,
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
        corrupt: Literal["stop", "skip"] = "stop",
        cache_dir: str | None = None,
        **batching: Any,
    ) -> None:
        super().__init__(
            **batching,
        )
        if bool(train) == (table is not None):
            raise InputError(
                "give either train (a source a domain) or table (one CSV with a domain column), "
                f"not {'both' if train else 'neither'}."
            )
        if table is not None and (target or test):
            raise InputError("with table, target and test come from its column split: leave them.")
        if root is not None and table is None:
            raise InputError(f"root={root!r} goes with table: write whole paths instead.")
        if corrupt not in ("stop", "skip"):
            raise InputError(f'corrupt={corrupt!r} must be "stop" or "skip".')
        for key, share in (
            ("target_fraction", target_fraction),
            ("test_fraction", test_fraction),
            ("target_fraction + test_fraction", target_fraction + test_fraction),
        ):
            if not 0 < share < 1:
                raise InputError(f"{key}={share} must lie between 0 and 1, both excluded.")
        if split_seed < 0:
            raise InputError(f"split_seed={split_seed} must be at least 0.")
        self.specs = {"train": train or {}, "target": target or {}, "test": test or {}}
        self.table, self.root = table, root
        self.hold_out = list(hold_out or ())
        self.fractions = {"target": target_fraction, "test": test_fraction}
        self.split_seed = split_seed
        self.asked_classes = classes
        self.frame = frame(
            channels, random_crop, like, image_size, mean, std, interpolation, crop_pct
        )
        self.image_size = self.frame.image_size
        self.channels, self.convert = channels, convert
        self.training_transform = training_transform(
            self.frame,
            random_crop,
            crop_scale,
            crop_ratio,
            crop_padding,
            hflip,
            color_jitter,
            auto_augment,
            random_erasing,
        )
        self.evaluation_transform = evaluation_transform(self.frame)
        self.mixing = Mixing(mixup, cutmix, mix_probability)
        self.corrupt = corrupt
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir else default_cache_dir()
        self._sets: dict[str, dict[str, ImageSet]] | None = None
        self._classes: list[str] = []

    # ---- set-up ----

    @property
    def classes(self) -> list[str]:
        """Class names in the order of their numbers; opens the sources when first asked."""
        self._open()
        return self._classes

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    def prepare_data(self) -> None:
        """Decodes every image once, where bad ones are to be left out and nobody has looked yet."""
        if self.corrupt == "skip":
            self._open()

    def setup(self, stage: str | None = None) -> None:
        """Opens the sources, and decodes one image of each."""
        sets = self._open()
        self.train_sets = dict(sets["train"])
        self.target_sets = dict(sets["target"])
        self.test_sets = dict(sets["test"])
        for split in SPLITS:  # what is wrong with all images of a domain shall be said at once
            for data in list(sets[split].values())[:FIRST_LOOKS]:
                if len(data):
                    data.image(0)
        super().setup(stage)

    def summary(self) -> list[dict[str, Any]]:
        """One row a domain: how many images it has.

        `domain`, `train`, `target` and `test` (images), `share` of the training images, `classes`
        that it trains on, and the `fewest` and `most` training images of one class.
        """
        sets = self._open()
        total = sum(map(len, sets["train"].values()))
        rows = []
        for domain in dict.fromkeys(name for split in SPLITS for name in sets[split]):
            row: dict[str, Any] = {"domain": domain}
            row |= {split: len(sets[split].get(domain, ())) for split in SPLITS}
            counts = np.zeros(self.num_classes, dtype=np.int64)
            if domain in sets["train"]:
                counts = np.bincount(sets["train"][domain].labels, minlength=self.num_classes)
            row |= {"share": row["train"] / total, "classes": int((counts > 0).sum())}
            rows.append(row | {"fewest": int(counts.min()), "most": int(counts.max())})
        return rows

    def _open(self) -> dict[str, dict[str, ImageSet]]:
        """`sets[split][domain]`, opened once."""
        if self._sets is not None:
            return self._sets
        if self.table is not None:
            sources = open_table(self.table, self.root)
        else:
            sources = open_splits(self.specs, self.hold_out)
        for name in self.hold_out:
            if name not in sources["train"]:
                raise InputError(
                    f"hold_out names {name!r}, which is no training domain: use "
                    f"{', '.join(map(repr, sources['train']))}."
                )
        everything = [source for domains in sources.values() for source in domains.values()]
        self._classes = find_classes(everything, self.asked_classes)
        parts = [split for split in ("target", "test") if not sources[split]]
        if self.hold_out and not parts:
            raise InputError(
                f"hold_out={self.hold_out} has nothing to do, as target and test are given: leave "
                "it out, or leave one of them out."
            )
        fractions = {part: self.fractions[part] for part in parts}
        sets: dict[str, dict[str, ImageSet]] = {split: {} for split in SPLITS}
        for split, domains in sources.items():
            for name, source in domains.items():
                held = fractions if split == "train" and name in self.hold_out else {}
                for part, rows in self._parts(source, held).items():
                    sets[part if part != "train" else split][name] = rows
        self._sets = sets
        return sets

    def _parts(self, source: ImageSource, fractions: Mapping[str, float]) -> dict[str, ImageSet]:
        """The data sets that one source gives: "train", and those that are held out."""
        labels = class_numbers(source, self._classes)
        rows = np.arange(len(source))
        if self.corrupt == "skip":
            options = (self.channels, self.convert, self.num_workers, self.cache_dir)
            rows = readable(source, source.where, *options)
        parts = {"train": np.arange(len(rows))}
        if fractions:
            parts = hold_out(labels[rows], fractions, self.split_seed, source.where, self._classes)
        return {
            part: ImageSet(
                source,
                rows[chosen],
                labels[rows[chosen]],
                self.training_transform,
                self.channels,
                self.convert,
            )
            for part, chosen in parts.items()
        }

    # ---- checkpoints ----

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resumes; refuses to evaluate on what is held out of other images or by another split.

        Raises:
            InputError: as said, or a checkpoint of other data.
        """
        evaluating = self.sampler is None
        if (
            evaluating
            and self.hold_out
            and state
            and state["identity"].get("images") != self._identity()["images"]
        ):
            raise InputError(
                "the checkpoint was made of other images or another split, so images that are "
                "held out here may have been trained on: use the same files, hold_out, fractions, "
                "split_seed and corrupt, or give test data without hold_out."
            )
        super().load_state_dict(state)

    def _identity(self) -> dict[str, Any]:
        digest = hashlib.blake2b(digest_size=8)
        for split in ("train", "target"):
            for name, data in self._open()[split].items():
                digest.update(f"{split} {name} {data.source.digest()} ".encode())
                digest.update(np.ascontiguousarray(data.rows).data)
        names = self._classes[:NAMED]
        more = f" and {len(self._classes) - NAMED} more" if len(self._classes) > NAMED else ""
        return {
            **super()._identity(),
            "classes": ", ".join(names) + more,
            "images": digest.hexdigest(),
        }

    # ---- batches ----

    def evaluation_loader(self, sets: dict[str, Dataset]) -> DataLoader:
        """Return a loader of all samples without augmentation, in order."""
        plain = {
            name: data.with_transform(self.evaluation_transform)
            if isinstance(data, ImageSet)
            else data
            for name, data in sets.items()
        }
        return super().evaluation_loader(plain)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Mixes the samples of training and probe batches, then does what the base class does."""
        if self.mixing and isinstance(batch, MixtureBatch) and batch.phase in (TRAIN, PROBE):
            samples = self._mixed(batch.samples, batch.domains, batch.step, 0)
            batch = batch._replace(samples=samples)
            if batch.target_samples is not None and batch.target_domains is not None:
                others = self._mixed(batch.target_samples, batch.target_domains, batch.step, 1)
                batch = batch._replace(target_samples=others)
        return super().on_after_batch_transfer(batch, dataloader_idx)

    def _mixed(self, samples: Any, domains: Tensor, step: int, stream: int) -> dict[str, Any]:
        """The samples mixed by a generator of their own: a function of seed, step and rank."""
        rank, _ = self.ranks()
        random = np.random.default_rng([self.seed, step, rank, stream])
        images, labels = mix(
            samples["image"], samples["label"], domains, len(self._classes), self.mixing, random
        )
        return {**samples, "image": images, "label": labels}
