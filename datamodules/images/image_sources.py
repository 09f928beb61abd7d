"""Where a domain's images and labels lie: files, arrays, or a `datasets` data set.

No image is decoded before it is asked for, and what is held is arrays of numbers, which loader
workers share. `open_image_source` opens one domain from what a configuration says.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tandem_pl.datamodules.sources.file_rows import PARQUET
from tandem_pl.datamodules.sources.saved_datasets import open_dataset
from tandem_pl.errors import InputError

from .image_arrays import load_arrays
from .image_decoding import UnreadableImageError, read_image, to_mode
from .image_files import PathList, in_order, list_class_folder

KEYS = ("path", "dataset", "config", "split", "image", "label")
SAVED = ("dataset_info.json", "dataset_dict.json", "state.json")  # of Dataset.save_to_disk

#: A domain's source as it is written: a path, or a map with the keys `KEYS`.
ImageSpec = str | Mapping[str, Any]


class ImageSource:
    """Images with labels.

    Args:
        where: what messages call it, such as "train['real']".
        labels: int64 [N]: places in `names`, or class numbers where there are no names.
        names: class names, or None.
    """

    def __init__(self, where: str, labels: np.ndarray, names: Sequence[str] | None) -> None:
        self.where = where
        self.labels = np.ascontiguousarray(labels, dtype=np.int64)
        self.names = None if names is None else list(names)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, number: int, channels: int, convert: bool) -> Image.Image:
        """Image `number`, of mode "L" or "RGB" by `channels`.

        Raises:
            UnreadableImageError: it cannot be decoded, or has other channels and `convert` is off.
        """
        raise NotImplementedError

    def place(self, number: int) -> str:
        """What messages call image `number`."""
        return f"{self.where}, image {number}"

    def digest(self) -> str:
        """Stands for the images' names and labels, wherever they lie."""
        return hashlib.blake2b(self.labels.data, digest_size=16).hexdigest()

    def stamp(self) -> str | None:
        """Changes whenever an image may have become unreadable; None: it cannot."""
        return None


class ImageFiles(ImageSource):
    """Files of any kind that Pillow reads; see `ImageSource`.

    Args:
        where: what messages call it.
        labels: places in `names`.
        names: class names.
        paths: the files.
    """

    def __init__(
        self, where: str, labels: np.ndarray, names: Sequence[str], paths: PathList
    ) -> None:
        super().__init__(where, labels, names)
        self.paths = paths

    def read(self, number: int, channels: int, convert: bool) -> Image.Image:
        """Image `number`."""
        path = self.paths[number]
        return read_image(path, path, channels, convert)

    def place(self, number: int) -> str:
        """The path."""
        return self.paths[number]

    def digest(self) -> str:
        """Of paths relative to their folder, and labels."""
        digest = hashlib.blake2b(self.paths.bytes.data, digest_size=16)
        for array in (self.paths.ends, self.labels):
            digest.update(array.data)
        return digest.hexdigest()

    def stamp(self) -> str:
        """Of paths, sizes and times of change."""
        digest = hashlib.blake2b(digest_size=16)
        for number in range(len(self)):
            path = self.paths[number]
            try:
                stat = os.stat(path)
                facts = f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n"
            except OSError:
                facts = f"{path}\0gone\n"
            digest.update(os.fsencode(facts))
        return digest.hexdigest()


class ImageArrays(ImageSource):
    """Pixels in memory, or mapped into it; see `ImageSource`.

    Args:
        where: what messages call it.
        images: uint8 [N, H, W] or [N, H, W, C].
        labels: int64 [N].
        names: class names, or None.
    """

    def __init__(
        self, where: str, images: np.ndarray, labels: np.ndarray, names: Sequence[str] | None = None
    ) -> None:
        super().__init__(where, labels, names)
        self.images = images

    def __getstate__(self) -> dict[str, Any]:
        # A pickled memory map would be a copy of all pixels, in every worker.
        images = self.images
        if not isinstance(images, np.memmap):
            return dict(self.__dict__)
        order = "C" if images.flags.c_contiguous else "F"
        place = (images.filename, images.dtype, "r", images.offset, images.shape, order)
        return {**self.__dict__, "images": place}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(self.images, tuple):
            self.images = np.memmap(*self.images)

    def read(self, number: int, channels: int, convert: bool) -> Image.Image:
        """Image `number`."""
        pixels = self.images[number]
        if pixels.ndim == 3 and pixels.shape[2] == 1:
            pixels = pixels[..., 0]
        image = Image.fromarray(np.ascontiguousarray(pixels))
        return to_mode(image, self.place(number), channels, convert)


class DatasetImages(ImageSource):
    """Rows of a `datasets.Dataset`, memory-mapped; see `ImageSource`.

    Args:
        where: what messages call it.
        data: the data set.
        name: of the data set, for messages.
        stamp: stands for its content.
        image: column of images, or of encoded bytes.
        label: column of class names or numbers.

    Raises:
        InputError: a missing column, one of another type, or a row without a label.
    """

    def __init__(
        self, where: str, data: Any, name: str, stamp: str, image: str, label: str
    ) -> None:
        for key, column in (("image", image), ("label", label)):
            if column not in data.column_names:
                raise InputError(
                    f"{where}: dataset {name!r} has no column {column!r} (its columns are "
                    f"{', '.join(map(repr, data.column_names))}): name it as {key}."
                )
        labels, names = _labels(where, data, name, label)
        super().__init__(where, labels, names)
        self.name, self._stamp, self._column = name, stamp, image
        self.data = _encoded(where, data.select_columns([image]), image)

    def read(self, number: int, channels: int, convert: bool) -> Image.Image:
        """Image of row `number`."""
        value = self.data[number][self._column]
        if isinstance(value, Mapping):
            value = value["path"] if value.get("bytes") is None else value["bytes"]
        if value is None:
            raise UnreadableImageError(
                f'{self.place(number)} has no image: filter it out, or set corrupt to "skip".'
            )
        return read_image(value, self.place(number), channels, convert)

    def place(self, number: int) -> str:
        """Data set and row."""
        return f"dataset {self.name!r}, row {number + 1}"

    def stamp(self) -> str:
        """Of the data set and the column."""
        facts = f"{self._stamp} {self._column}"
        return hashlib.blake2b(facts.encode(), digest_size=16).hexdigest()


def _labels(where: str, data: Any, name: str, column: str) -> tuple[np.ndarray, list[str] | None]:
    """Labels int64 [N], and class names where there are some."""
    feature = data.features[column]
    table = data.select_columns([column]).with_format("arrow")
    parts = [batch.column(0) for batch in table.iter(batch_size=10_000)]
    nulls = next((n for n, part in enumerate(parts) if part.null_count), None)
    if nulls is not None:
        row = nulls * 10_000 + parts[nulls].to_pylist().index(None) + 1
        raise InputError(
            f"{where}: dataset {name!r}, row {row} has no {column!r}: filter such rows out."
        )
    names = getattr(feature, "names", None)
    dtype = str(getattr(feature, "dtype", feature))
    if dtype.startswith(("int", "uint")):
        arrays = [part.to_numpy(zero_copy_only=False) for part in parts]
        return np.concatenate([np.empty(0, np.int64), *arrays]).astype(np.int64), names
    if dtype in ("string", "large_string"):
        distinct = in_order({value for part in parts for value in part.unique().to_pylist()})
        number = {value: n for n, value in enumerate(distinct)}
        values = (number[value] for part in parts for value in part.to_pylist())
        return np.fromiter(values, np.int64), distinct
    raise InputError(
        f"{where}: column {column!r} of dataset {name!r} is of type {dtype}, and labels are class "
        "numbers or names: name another column as label."
    )


def _encoded(where: str, data: Any, column: str) -> Any:
    """The data set with its images as bytes or paths rather than decoded."""
    import datasets

    feature = data.features[column]
    if isinstance(feature, datasets.Image):
        return data.cast_column(column, datasets.Image(decode=False))
    binary = getattr(feature, "dtype", None) in ("binary", "large_binary")
    if binary or (isinstance(feature, Mapping) and "bytes" in feature):
        return data
    raise InputError(
        f"{where}: column {column!r} has no images but {feature}: name a column of images, or of "
        "their encoded bytes, as image."
    )


def open_image_source(where: str, spec: ImageSpec) -> ImageSource:
    """Opens one domain's source.

    Args:
        where: what messages call it, such as "train['real']".
        spec: a path: a folder with a subfolder for each class, an `.npz`, Parquet files (a glob
            pattern or a folder of them too), or a folder that `Dataset.save_to_disk` wrote; or a
            map with `path` or `dataset` (such a folder, or a hub name, with `config` and `split`),
            and the columns `image` and `label` where they have other names.

    Raises:
        InputError: a source that is not there or not understood.
    """
    given: dict[str, Any] = {"path": spec} if isinstance(spec, str) else dict(spec)
    for key in given:
        if key not in KEYS:
            raise InputError(f"{where} has the unknown key {key!r}: use {', '.join(KEYS)}.")
    if ("path" in given) == ("dataset" in given):
        raise InputError(f"{where} needs one of path and dataset: give it.")
    image, label = given.get("image", "image"), given.get("label", "label")
    path = str(given.get("path", given.get("dataset")))
    place = Path(path).expanduser()
    if "path" in given and place.is_dir() and not any((place / name).exists() for name in SAVED):
        files = sorted(p for p in place.iterdir() if p.suffix.lower() in PARQUET)
        if not files:
            _refuse_keys(where, given, "a folder of images")
            names, labels, paths = list_class_folder(place, where)
            return ImageFiles(where, labels, names, paths)
        path = str(place / f"*{files[0].suffix}")
    elif place.suffix.lower() == ".npz":
        _refuse_keys(where, given, "an .npz file")
        return ImageArrays(where, *load_arrays(place, where))
    elif "path" in given and not place.is_dir() and place.suffix.lower() not in PARQUET:
        raise InputError(
            f"{where} is {path!r}, which is no folder, .npz or Parquet file (looked from "
            f"{os.getcwd()}): give one, or a hub name as {{dataset: NAME, split: train}}."
        )
    data, name, stamp = open_dataset(path, given.get("config"), given.get("split"))
    return DatasetImages(where, data, name, stamp, image, label)


def _refuse_keys(where: str, given: Mapping[str, Any], what: str) -> None:
    for key in given:
        if key not in ("path", "dataset"):
            raise InputError(f"{where} is {what}, with which {key} does not go: leave it out.")
