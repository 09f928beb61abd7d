"""Which images are for training, target and test: as given, by a table, or held out."""

from __future__ import annotations

import glob
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from tandem_pl.datamodules.sources.file_rows import PARQUET
from tandem_pl.errors import InputError

from .image_files import SPLITS, Table, in_order
from .image_sources import ImageFiles, ImageSource, ImageSpec, open_image_source

#: `sources[split][domain]`, for every split of `SPLITS`.
SplitSources = dict[str, dict[str, ImageSource]]


def open_splits(
    specs: Mapping[str, Mapping[str, ImageSpec]], hold_out: Collection[str] = ()
) -> SplitSources:
    """Opens the sources of every split and domain.

    Args:
        specs: `specs[split][domain]`, see `open_image_source`.
        hold_out: training domains of which a part is taken out.

    Raises:
        InputError: a source that cannot be opened, or images that are in two splits.
    """
    sources: SplitSources = {}
    owners: dict[str, tuple[str, str]] = {}  # place -> split and domain that named it first
    for split, domains in specs.items():
        sources[split] = {}
        for name, spec in domains.items():
            where = f"{split}[{name!r}]"
            for place in sorted(_places(spec)):
                first, other = owners.setdefault(place, (split, name))
                if first != split:
                    held = f", or take some out of train by hold_out: [{other}]"
                    raise InputError(
                        f"{where} and {first}[{other!r}] share images ({place}): give {split} "
                        f"others{held if first == 'train' else ''}."
                    )
                if other != name and split == "train" and not {name, other}.isdisjoint(hold_out):
                    raise InputError(
                        f"{where} and {first}[{other!r}] share images ({place}), so what hold_out "
                        "takes out of one is trained on in the other: give each its own images, "
                        "or target and test of their own in place of hold_out."
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
        InputError: no image, or a class with too few to have one in every part.

    Example:
        >>> parts = hold_out(np.array([0, 1] * 10), {"test": 0.2}, 0, "train['real']", ["a", "b"])
        >>> len(parts["train"]), sorted((parts["test"] % 2).tolist())
        (16, [0, 0, 1, 1])
    """
    if not len(labels):
        raise InputError(
            f"{where} has no image that can be used, so there is nothing to hold out: mend its "
            "images, or leave it out."
        )
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


def _places(spec: ImageSpec) -> set[str]:
    """The files, folder or hub data set that a source names, whatever way it is written."""
    given = {"path": spec} if isinstance(spec, str) else dict(spec)
    path = str(given.get("path", given.get("dataset")))
    place = Path(path).expanduser()
    if place.is_dir():
        found = [p for p in place.iterdir() if p.suffix.lower() in PARQUET] or [place]
    else:
        found = [Path(name) for name in glob.glob(str(place), recursive=True)]
    if not found and "dataset" in given:
        return {f"{path} {given.get('config')} {given.get('split')}"}
    return {str((p / str(given.get("split") or "")).resolve()) for p in found}
