"""The sources of a domain's images and labels: files, arrays, or a `datasets` data set.

A source decodes an image only on request. Labels and paths are in arrays, which loader workers
share without a copy.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from tandem_pl.datamodules.sources.file_rows import PARQUET
from tandem_pl.datamodules.sources.saved_datasets import open_dataset
from tandem_pl.errors import InputError

from .arrays import load_arrays
from .decoding import UnreadableImageError, read_image, to_mode
from .files import list_class_folder, sort_names

KEYS = ("path", "dataset", "config", "split", "image", "label")
SAVED = ("dataset_info.json", "dataset_dict.json", "state.json")  # of Dataset.save_to_disk

#: A domain's source in a configuration: a path, or a map with the keys `KEYS`.
ImageSpec = str | Mapping[str, Any]


class ImageSource:
    """Images with labels; a subclass says where they are.

    Args:
        where: the source's name in error messages, such as "train['real']".
        labels: int64 [N]: positions in `names`, or class numbers if there are no names.
        names: class names, or None.
    """

    def __init__(self, where: str, labels: np.ndarray, names: Sequence[str] | None) -> None:
        self.where = where
        self.labels = np.ascontiguousarray(labels, dtype=np.int64)
        self.names = None if names is None else list(names)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, number: int, channels: int, convert: bool) -> Image.Image:
        """Return image `number`, of mode "L" or "RGB" by `channels`.

        Raises:
            UnreadableImageError: it cannot be decoded, or has other channels and `convert` is off.
        """
        raise NotImplementedError

    def place(self, number: int) -> str:
        """Return the name of image `number` in error messages."""
        return f"{self.where}, image {number}"

    def digest(self) -> str:
        """Return a digest of the labels and of what names the images, for checkpoints."""
        return _digest([self.labels.data])

    def stamp(self) -> str | None:
        """Return a digest that changes if an image may have become unreadable; None if none can."""
        return None


class ImageFiles(ImageSource):
    """Files of any format that Pillow reads, by paths relative to `root`; see `ImageSource`."""

    def __init__(
        self,
        where: str,
        labels: np.ndarray,
        names: Sequence[str],
        paths: Iterable[str],
        root: Path,
    ) -> None:
        super().__init__(where, labels, names)
        self.root = str(root)
        self.paths = pa.array(map(os.fsencode, paths), pa.large_binary())

    def read(self, number: int, channels: int, convert: bool) -> Image.Image:
        """Decode a file."""
        return read_image(self.place(number), self.place(number), channels, convert)

    def place(self, number: int) -> str:
        """Return the path."""
        return os.path.join(self.root, os.fsdecode(self.paths[number].as_py()))

    def digest(self) -> str:
        """Return a digest of labels and relative paths; a folder may move as a whole."""
        ends = np.cumsum(pc.binary_length(self.paths).to_numpy(), dtype=np.int64)
        return _digest([*(path.as_py() for path in self.paths), ends.data, self.labels.data])

    def stamp(self) -> str:
        """Return a digest of paths, sizes and times of change."""
        return _digest(_file_facts(self.place(number)) for number in range(len(self)))


class ImageArrays(ImageSource):
    """Pixels uint8 [N, H, W] or [N, H, W, C], in memory or memory-mapped; see `ImageSource`."""

    def __init__(
        self, where: str, images: np.ndarray, labels: np.ndarray, names: Sequence[str] | None = None
    ) -> None:
        super().__init__(where, labels, names)
        self.images = images

    def __getstate__(self) -> dict[str, Any]:
        # Pickle would copy all pixels of a memory map into every worker.
        images = self.images
        if not isinstance(images, np.memmap):
            return dict(self.__dict__)
        order = "C" if images.flags.c_contiguous else "F"
        arguments = (images.filename, images.dtype, "r", images.offset, images.shape, order)
        return {**self.__dict__, "images": arguments}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(self.images, tuple):
            self.images = np.memmap(*self.images)

    def read(self, number: int, channels: int, convert: bool) -> Image.Image:
        """Return an image of the array."""
        pixels = self.images[number]
        if pixels.ndim == 3 and pixels.shape[2] == 1:
            pixels = pixels[..., 0]
        image = Image.fromarray(np.ascontiguousarray(pixels))
        return to_mode(image, self.place(number), channels, convert)


class DatasetImages(ImageSource):
    """Rows of a `datasets.Dataset`, memory-mapped; see `ImageSource`.

    Args:
        where: the source's name in error messages.
        data: the data set.
        name: the data set's name in error messages.
        stamp: a digest of its content.
        image: column of images, or of encoded bytes.
        label: column of class names or numbers.
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
        super().__init__(where, *_read_labels(data, label, f"{where}: dataset {name!r}"))
        self.name, self._stamp, self._column = name, stamp, image
        self.data = _without_decoding(data.select_columns([image]), image, where)

    def read(self, number: int, channels: int, convert: bool) -> Image.Image:
        """Decode the image of a row."""
        value = self.data[number][self._column]
        if isinstance(value, Mapping):
            value = value["path"] if value.get("bytes") is None else value["bytes"]
        if value is None:
            raise UnreadableImageError(
                f'{self.place(number)} has no image: filter it out, or set corrupt to "skip".'
            )
        return read_image(value, self.place(number), channels, convert)

    def place(self, number: int) -> str:
        """Return the data set and the row, counted from 1."""
        return f"dataset {self.name!r}, row {number + 1}"

    def stamp(self) -> str:
        """Return a digest of the data set and the column."""
        return _digest([f"{self._stamp} {self._column}".encode()])


def open_source(where: str, spec: ImageSpec) -> ImageSource:
    """Open one domain's source.

    Args:
        where: the source's name in error messages, such as "train['real']".
        spec: a path: a folder with a subfolder for each class, an `.npz`, Parquet files (also a
            glob pattern or a folder of them), or a folder that `Dataset.save_to_disk` wrote; or a
            map with `path` or `dataset` (such a folder, or a hub name, with `config` and `split`),
            and the columns `image` and `label` if they have other names.

    Raises:
        InputError: the source does not exist or is of no known kind.
    """
    given = as_map(spec)
    for key in given:
        if key not in KEYS:
            raise InputError(f"{where} has the unknown key {key!r}: use {', '.join(KEYS)}.")
    if ("path" in given) == ("dataset" in given):
        raise InputError(f"{where} needs one of path and dataset: give it.")
    path = str(given.get("path", given.get("dataset")))
    place = Path(path).expanduser()
    suffix = place.suffix.lower()
    is_folder = "path" in given and place.is_dir()
    if is_folder and not any((place / name).exists() for name in SAVED):
        files = parquet_files(place)
        if not files:
            _refuse_columns(where, given, "a folder of images")
            return ImageFiles(where, *list_class_folder(place, where), place)
        path = str(place / f"*{files[0].suffix}")
    elif suffix == ".npz":
        _refuse_columns(where, given, "an .npz file")
        return ImageArrays(where, *load_arrays(place, where))
    elif "path" in given and not is_folder and suffix not in PARQUET:
        raise InputError(
            f"{where} is {path!r}, which is no folder, .npz or Parquet file (looked from "
            f"{os.getcwd()}): give one, or a hub name as {{dataset: NAME, split: train}}."
        )
    data, name, stamp = open_dataset(path, given.get("config"), given.get("split"))
    columns = given.get("image", "image"), given.get("label", "label")
    return DatasetImages(where, data, name, stamp, *columns)


def _refuse_columns(where: str, given: Mapping[str, Any], what: str) -> None:
    for key in given.keys() - {"path", "dataset"}:
        raise InputError(f"{where} is {what}, which takes no {key}: leave it out.")


def as_map(spec: ImageSpec) -> dict[str, Any]:
    """Return a source's configuration as a map."""
    return {"path": spec} if isinstance(spec, str) else dict(spec)


def parquet_files(folder: Path) -> list[Path]:
    """Return the Parquet files of a folder, sorted."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PARQUET)


def _digest(parts: Iterable[Any]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _file_facts(path: str) -> bytes:
    try:
        stat = os.stat(path)
        return os.fsencode(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n")
    except OSError:
        return os.fsencode(f"{path}\0gone\n")


def _read_labels(data: Any, column: str, where: str) -> tuple[np.ndarray, list[str] | None]:
    """Return the labels, int64 [N], and class names or None."""
    feature = data.features[column]
    dtype = str(getattr(feature, "dtype", feature))
    if not dtype.startswith(("int", "uint")) and dtype not in ("string", "large_string"):
        raise InputError(
            f"{where}: column {column!r} is of type {dtype}, and labels are class numbers or "
            "names: name another column as label."
        )
    values = data.select_columns([column]).with_format("arrow")[:].column(0)
    if values.null_count:
        row = pc.index(pc.is_null(values), True).as_py() + 1
        raise InputError(f"{where}, row {row} has no {column!r}: filter such rows out.")
    if "string" not in dtype:
        return values.to_numpy(), getattr(feature, "names", None)
    names = sort_names(values.unique().to_pylist())
    return pc.index_in(values, pa.array(names, values.type)).to_numpy(), names


def _without_decoding(data: Any, column: str, where: str) -> Any:
    """Return the data set with its images as encoded bytes or paths."""
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
