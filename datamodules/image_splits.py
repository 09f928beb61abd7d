"""Which images are for training, target and test: as given, by a table, or held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tandem_pl.errors import InputError

from .image_files import SPLITS, Table, in_order
from .image_sources import ImageFiles, ImageSource, ImageSpec, open_image_source

#: `sources[split][domain]`, for every split of `SPLITS`.
SplitSources = dict[str, dict[str, ImageSource]]


def open_splits(specs: Mapping[str, Mapping[str, ImageSpec]]) -> SplitSources:
    """Opens the sources of every split and domain.

    Args:
        specs: `specs[split][domain]`, see `open_image_source`.

    Raises:
        InputError: a source that cannot be opened, or that is trained on and evaluated with.
    """
    sources: SplitSources = {}
    trained: dict[str, str] = {}  # place -> domain
    for split, domains in specs.items():
        sources[split] = {}
        for name, spec in domains.items():
            where, place = f"{split}[{name!r}]", _place(spec)
            if split == "train":
                trained.setdefault(place, name)
            elif place in trained:
                raise InputError(
                    f"{where} and train[{trained[place]!r}] are the same images: give {split} "
                    "others, or take some out of the training images by "
                    f"hold_out: [{trained[place]}]."
                )
            sources[split][name] = open_image_source(where, spec)
    return sources


def open_table(path: str, root: str | None = None) -> SplitSources:
    """The domains of every split that a table names; see `Table`."""
    sources: SplitSources = {split: {} for split in SPLITS}
    for split, domains in Table(path, root).domains.items():
        for name, (paths, labels) in domains.items():
            names = in_order(set(labels))
            number = {label: place for place, label in enumerate(names)}
            numbers = np.array([number[label] for label in labels])
            sources[split][name] = ImageFiles(f"{split}[{name!r}]", numbers, names, paths)
    return sources


def hold_out(
    labels: np.ndarray,
    fractions: Mapping[str, float],
    seed: int,
    where: str,
    classes: Sequence[str],
) -> dict[str, np.ndarray]:
    """Parts of one domain's images, taken class by class, that have none in common.

    Args:
        labels: the class of every image, int64 [N].
        fractions: part -> its share of every class, rounded, and at least one image.
        seed: decides which images; a class's part depends on it and on how many the class has.
        where: what messages call the domain.
        classes: names of the classes, for messages.

    Returns:
        "train" and every part: the numbers of its images in order, int64.

    Raises:
        InputError: a class with too few images to have one in every part.

    Example:
        >>> parts = hold_out(np.array([0, 1] * 10), {"test": 0.2}, 0, "train['real']", ["a", "b"])
        >>> len(parts["train"]), sorted((parts["test"] % 2).tolist())
        (16, [0, 0, 1, 1])
    """
    parts: dict[str, list[np.ndarray]] = {"train": [], **{part: [] for part in fractions}}
    for label in np.unique(labels).tolist():
        rows = np.flatnonzero(labels == label)
        rows = rows[np.random.default_rng([seed, label]).permutation(len(rows))]
        counts = [max(round(share * len(rows)), 1) for share in fractions.values()]
        if sum(counts) >= len(rows):
            raise InputError(
                f"{where} has {len(rows)} images of the class {classes[label]!r}, too few to hold "
                f"out {' and '.join(fractions)} data: add some, leave it out of hold_out, or lower "
                "the fractions."
            )
        pieces = np.split(rows, np.cumsum(counts))
        for part, piece in zip([*fractions, "train"], pieces, strict=True):
            parts[part].append(piece)
    return {part: np.sort(np.concatenate(pieces)) for part, pieces in parts.items()}


def _place(spec: ImageSpec) -> str:
    """Stands for what a source names, whatever way it is written."""
    given = {"path": spec} if isinstance(spec, str) else dict(spec)
    path = str(given.get("path", given.get("dataset")))
    if "path" in given or Path(path).expanduser().exists():
        path = str(Path(path).expanduser().resolve())
    return f"{path} {given.get('config')} {given.get('split')}"
