"""Which images are for training, target and test: as given, or held out of training domains."""

from __future__ import annotations

import glob
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tandem_pl.checks import check_at_least, check_fractions
from tandem_pl.errors import InputError

from .files import parquet_files
from .sources import ImageSource, ImageSpec, as_map, open_source


def open_splits(
    specs: Mapping[str, Mapping[str, ImageSpec]], hold_out: Collection[str] = ()
) -> dict[str, dict[str, ImageSource]]:
    """Open the sources of every split and domain, `sources[split][domain]`.

    Args:
        specs: `specs[split][domain]`, see `open_source`.
        hold_out: training domains that give a part of their images to target and test.

    Raises:
        InputError: a source cannot be opened, or images are in two splits.
    """
    check_separate(specs, hold_out)
    return {
        split: {name: open_source(f"{split}[{name!r}]", spec) for name, spec in domains.items()}
        for split, domains in specs.items()
    }


def check_separate(specs: Mapping[str, Mapping[str, ImageSpec]], hold_out: Collection[str]) -> None:
    """Raise an error if two splits share images, or if a domain trains on held-out images."""
    first: dict[str, tuple[str, str]] = {}  # location -> the split and domain that named it first
    for split, domains in specs.items():
        for name, spec in domains.items():
            for location in sorted(_locations(spec)):
                other_split, other = first.setdefault(location, (split, name))
                shared = f"{split}[{name!r}] and {other_split}[{other!r}] share images ({location})"
                if other_split != split:
                    hint = f", or hold some out by hold_out: [{other}]" * (other_split == "train")
                    raise InputError(f"{shared}: give {split} others{hint}.")
                if other != name and split == "train" and {name, other} & set(hold_out):
                    raise InputError(
                        f"{shared}, so one would train on what hold_out takes out of the other: "
                        "give each its own images, or give target and test in place of hold_out."
                    )


def _locations(spec: ImageSpec) -> set[str]:
    """Return the files, the folder or the hub data set that a source reads."""
    given = as_map(spec)
    path = str(given.get("path", given.get("dataset")))
    folder = Path(path).expanduser()
    if folder.is_dir():
        paths = parquet_files(folder) or [folder]
    elif folder.exists():
        paths = [folder]
    else:
        paths = [Path(name) for name in glob.glob(str(folder), recursive=True)]
    if not paths and "dataset" in given:
        return {f"{path} {given.get('config')} {given.get('split')}"}
    return {str((place / str(given.get("split") or "")).resolve()) for place in paths}


@dataclass(frozen=True)
class HoldOut:
    """Training domains that give a part of every class to target and test data.

    See `ImageMixtureDataModule` for the fields.
    """

    domains: Sequence[str]
    target_fraction: float
    test_fraction: float
    seed: int

    def __post_init__(self) -> None:
        check_fractions(self.target_fraction, self.test_fraction)
        check_at_least("split_seed", self.seed, 0)

    def fractions(self, sources: Mapping[str, Mapping[str, ImageSource]]) -> dict[str, float]:
        """Return part -> fraction, for target and test if they have no data of their own.

        Raises:
            InputError: a domain is not in `sources["train"]`, or both have data.
        """
        for name in self.domains:
            if name not in sources["train"]:
                known = ", ".join(map(repr, sources["train"]))
                raise InputError(f"hold_out names {name!r}, no training domain: use {known}.")
        shares = {"target": self.target_fraction, "test": self.test_fraction}
        shares = {part: share for part, share in shares.items() if not sources[part]}
        if self.domains and not shares:
            raise InputError(
                f"hold_out={list(self.domains)} has nothing to do: leave out target or test."
            )
        return shares


def split_by_class(
    labels: np.ndarray,
    fractions: Mapping[str, float],
    seed: int,
    where: str,
    classes: Sequence[str],
) -> dict[str, np.ndarray]:
    """Split one domain's images into parts, class by class.

    Args:
        labels: the class of every image, int64 [N].
        fractions: part -> its share of every class, rounded, and at least one image.
        seed: decides which images. A class's parts depend on it and on the size of the class.
        where: the domain's name in error messages.
        classes: names of the classes, for error messages.

    Returns:
        The numbers of the images of "train" and of every part, int64, in order.

    Raises:
        InputError: there is no image, or a class has too few to have one in every part.

    Example:
        >>> labels = np.array([0, 1] * 10)
        >>> parts = split_by_class(labels, {"test": 0.2}, 0, "train['real']", ["a", "b"])
        >>> len(parts["train"]), sorted((parts["test"] % 2).tolist())
        (16, [0, 0, 1, 1])
    """
    if not len(labels):
        raise InputError(f"{where} has no image that can be used: leave it out of hold_out.")
    parts: dict[str, list[np.ndarray]] = {"train": [], **{part: [] for part in fractions}}
    for label in np.unique(labels).tolist():
        rows = np.flatnonzero(labels == label)
        rows = rows[np.random.default_rng([seed, label]).permutation(len(rows))]
        counts = [max(round(share * len(rows)), 1) for share in fractions.values()]
        if sum(counts) >= len(rows):
            raise InputError(
                f"{where} has {len(rows)} images of the class {classes[label]!r}, too few to hold "
                f"out {' and '.join(fractions)} data: add some, or leave it out of hold_out."
            )
        pieces = np.split(rows, np.cumsum(counts))
        for part, piece in zip([*fractions, "train"], pieces, strict=True):
            parts[part].append(piece)
    return {part: np.sort(np.concatenate(pieces)) for part, pieces in parts.items()}
