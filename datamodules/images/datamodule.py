"""`ImageMixtureDataModule`: your own images as a mixture."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tandem_pl.checks import check_choice
from tandem_pl.datamodules.clusters.options import ClusterOptions
from tandem_pl.datamodules.sources.cache_folder import default_cache_dir
from tandem_pl.errors import InputError

from .batches import AugmentedImageDataModule, ImageSet
from .classes import class_numbers, find_classes
from .clusters import cluster_images
from .copies import find_copies
from .readable import check_readable, find_readable
from .sources import ImageSource
from .splits import HoldOut, open_splits, split_by_class
from .table import SPLITS, open_table

PROBED = 32  # domains of a split; one image of each is decoded at the start
NAMED = 20  # classes that a checkpoint names one by one
MOST_THREADS = 16  # that read images before the start


class ImageMixtureDataModule(AugmentedImageDataModule):
    """Labelled images from your own files; a domain is a source, such as real and generated images.

    A batch is `{"image": [B, C, H, W] float32, "label": [B] int64}`, or with mixup or cutmix labels
    [B, classes] float32 in training. All domains share one list of classes.

    A source is

    - a folder with a subfolder of images for each class, of any format that Pillow reads;
    - an `.npz` file with `images` [N, H, W] or [N, H, W, C] uint8, `labels` [N] ints (or `image`,
      `label`) and optionally `classes` (names), memory-mapped unless it is compressed;
    - Parquet files, a folder that `Dataset.save_to_disk` wrote, or a hub name as
      `{dataset: NAME, split: train}`, with the columns `image` and `label`.

    If there are only training images, `hold_out` takes target and test images out of the domains
    that the network is for. Training images with the content of target or test images are left out,
    whatever their names are, and so are target images with that of test images.

    Training and measuring use the training transform, which the network learns with; validation
    and test use the plain one, also of target data. Random augmentations are a function of `seed`,
    step and rank: a run that resumes, or has other `num_workers`, sees the same pixels.

    Args:
        train: domain -> a path, or a map with `path` or `dataset` and optionally `config`, `split`,
            `image` and `label` (columns). Give this or `table`.
        target: the same for target data.
        test: the same for test data.
        table: a CSV with the columns `path`, `label`, `domain` and optionally `split` (train,
            target or test), which fills all domains.
        root: folder that paths in the table are relative to; None for the table's folder.
        hold_out: training domains; a part of every class of theirs becomes target data (unless
            target data is given) and test data (in the same way), and is not trained on.
        target_fraction: share of every class that becomes target data.
        test_fraction: share that becomes test data.
        split_seed: decides which images are held out.
        classes: class names in the order of their numbers, or how many there are if they are
            numbers; a domain may then lack some. None for those of the sources, the same in all.
        corrupt: every image is decoded once before the first start; one that cannot be used ends
            the run with one sentence ("stop"), or is left out ("skip").
        cache_dir: folder that remembers bad images and copies; None for `default_cache_dir`.
        cluster: number of clusters that each training domain is divided into, or `auto`, see
            `cluster_images`; target and test data keep their domains.
        smallest_cluster: images below which a cluster is merged into the nearest.
        embedder: folder of a timm network whose features are clustered; None for histograms.
        pixels: options of `AugmentedImageDataModule` and `ConfiguredDataModule`.

    Raises:
        InputError: a bad setting; by `setup`, a source that cannot be opened, or classes that
            differ.

    Example:
        >>> data = ImageMixtureDataModule({"real": "photos", "fake": "fakes.npz"}, image_size=32)
        >>> data.image_size, data.channels
        (32, 3)
    """

    def __init__(
        self,
        train: dict[str, str | dict[str, str | None]] | None = None,
        target: dict[str, str | dict[str, str | None]] | None = None,
        test: dict[str, str | dict[str, str | None]] | None = None,
        table: str | None = None,
        root: str | None = None,
        hold_out: list[str] | None = None,
        target_fraction: float = 0.05,
        test_fraction: float = 0.05,
        split_seed: int = 0,
        classes: int | list[str | int] | None = None,
        corrupt: Literal["stop", "skip"] = "stop",
        cache_dir: str | None = None,
        cluster: int | str | None = None,
        smallest_cluster: int | None = None,
        embedder: str | None = None,
        **pixels: Any,
    ) -> None:
        super().__init__(**pixels)
        if bool(train) == (table is not None):
            raise InputError(
                "give either train (a source a domain) or table (one CSV with a domain column), "
                f"not {'both' if train else 'neither'}."
            )
        if table is not None and (target or test):
            raise InputError("with table, target and test come from its column split: leave them.")
        if root is not None and table is None:
            raise InputError(f"root={root!r} goes with table: write whole paths instead.")
        check_choice("corrupt", corrupt, ("stop", "skip"))
        self.specs = {"train": train or {}, "target": target or {}, "test": test or {}}
        self.table, self.root = table, root
        self.hold_out = HoldOut(hold_out or (), target_fraction, test_fraction, split_seed)
        self.clusters = ClusterOptions.checked(
            cluster, False, embedder, smallest_cluster, split_seed, folders=False
        )
        self.asked_classes = classes
        self.corrupt = corrupt
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir else default_cache_dir()
        self._sets: dict[str, dict[str, ImageSet]] | None = None
        self._classes: list[str] = []

    # ---- opening ----

    @property
    def classes(self) -> list[str]:
        """Class names in the order of their numbers; the first use opens the sources."""
        self._open()
        return self._classes

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    @property
    def _threads(self) -> int:
        return max(self.num_workers, min(os.cpu_count() or 1, MOST_THREADS))

    def prepare_data(self) -> None:
        """Decode every image once, unless that was done before, so that bad ones are known.

        Raises:
            UnreadableImageError: an image cannot be used, and `corrupt` is "stop".
        """
        sources = {
            id(data.source): data.source for sets in self._open().values() for data in sets.values()
        }
        if self.corrupt == "stop":
            options = (self.channels, self.convert, self._threads, self.cache_dir)
            for source in sources.values():
                check_readable(source, *options)

    def setup(self, stage: str | None = None) -> None:
        """Open the sources, and decode one image of each, so that wrong settings fail early."""
        sets = self._open()
        self.train_sets = dict(sets["train"])
        self.target_sets = dict(sets["target"])
        self.test_sets = dict(sets["test"])
        for split in SPLITS:
            for data in list(sets[split].values())[:PROBED]:
                if len(data):
                    data.image(0)
        super().setup(stage)

    def _open(self) -> dict[str, dict[str, ImageSet]]:
        """Return `sets[split][domain]`, opened once."""
        if self._sets is not None:
            return self._sets
        if self.table is not None:
            sources = open_table(self.table, self.root)
        else:
            sources = open_splits(self.specs, self.hold_out.domains)
        everything = [source for domains in sources.values() for source in domains.values()]
        self._classes = find_classes(everything, self.asked_classes)
        held = self.hold_out.fractions(sources)
        sets: dict[str, dict[str, ImageSet]] = {split: {} for split in SPLITS}
        for split, domains in sources.items():
            for name, source in domains.items():
                is_held = split == "train" and name in self.hold_out.domains
                for part, images in self._parts(source, held if is_held else {}).items():
                    sets[split if part == "train" else part][name] = images
        self._leave_out_copies(sets["target"], [sets["test"]], "are left out")
        held_out = [sets["target"], sets["test"]]
        self._leave_out_copies(sets["train"], held_out, "are not trained on")
        if self.clusters:
            options = (self._classes, self.clusters, self._threads, self.cache_dir)
            found = cluster_images(sets["train"], sets["target"], *options)
            sets["train"], self.target_clusters, self.cluster_folder = found
        self._sets = sets
        return sets

    def _leave_out_copies(
        self, sets: dict[str, ImageSet], held_out: Sequence[dict[str, ImageSet]], what: str
    ) -> None:
        """Leave the images out of `sets` that have the content of a held-out image."""
        held = [data for domains in held_out for data in domains.values()]
        if not held or not sets:
            return
        found = find_copies(
            [(data.source, data.rows) for data in held],
            [(data.source, data.rows) for data in sets.values()],
            self._threads,
            self.cache_dir,
        )
        for (name, data), copies in zip(sets.items(), found, strict=True):
            if not copies:
                continue
            number, owner, row = copies[0]
            source = held[owner].source
            first = f"{data.source.place(int(data.rows[number]))} is a copy of {source.place(row)}"
            if len(copies) == len(data):
                raise InputError(
                    f"{data.source.where}: all {len(data)} images are copies of held-out images "
                    f"({first}): give others, or leave it out."
                )
            warnings.warn(
                f"{data.source.where}: {len(copies)} of {len(data)} images are copies of held-out "
                f"images and {what}; the first: {first}",
                stacklevel=2,
            )
            kept = np.delete(np.arange(len(data)), [number for number, _, _ in copies])
            sets[name] = replace(data, rows=data.rows[kept], labels=data.labels[kept])

    def _parts(self, source: ImageSource, fractions: Mapping[str, float]) -> dict[str, ImageSet]:
        """Return the data sets that one source gives: "train", and those that are held out."""
        labels = class_numbers(source, self._classes)
        rows = np.arange(len(source))
        if self.corrupt == "skip":
            rows = find_readable(source, self.channels, self.convert, self._threads, self.cache_dir)
        parts = {"train": np.arange(len(rows))}
        if fractions:
            parts = split_by_class(
                labels[rows], fractions, self.hold_out.seed, source.where, self._classes
            )
        options = (self.training_transform, self.channels, self.convert)
        return {
            part: ImageSet(source, rows[chosen], labels[rows[chosen]], *options)
            for part, chosen in parts.items()
        }

    def summary(self) -> list[dict[str, Any]]:
        """Return one row a domain: how many images it has.

        `domain`, `train`, `target` and `test` (images), `share` of the training images, `classes`
        that it trains on, and the `fewest` and `most` training images of one class.
        """
        sets = self._open()
        total = sum(map(len, sets["train"].values()))
        rows = []
        for domain in dict.fromkeys(name for split in SPLITS for name in sets[split]):
            sizes = {split: len(sets[split].get(domain, ())) for split in SPLITS}
            labels = sets["train"][domain].labels if sizes["train"] else np.empty(0, np.int64)
            counts = np.bincount(labels, minlength=self.num_classes)
            row = {"domain": domain, **sizes, "share": sizes["train"] / total}
            row |= {"classes": int((counts > 0).sum())}
            rows.append(row | {"fewest": int(counts.min()), "most": int(counts.max())})
        return rows

    # ---- checkpoints ----

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume.

        Raises:
            InputError: the checkpoint is of other data, or was trained with another split than the
                one that holds out the images to evaluate.
        """
        evaluating = self.sampler is None and self.hold_out.domains and state
        if evaluating and state["identity"].get("images") != self._identity()["images"]:
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
