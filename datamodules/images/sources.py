"""The sources of a domain's images and labels: files, arrays, or a `datasets` data set.

A source decodes an image only on request. Labels and paths are in arrays, which loader workers
share without a copy.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from tandem_pl.datamodules.sources.file_rows import PARQUET
from tandem_pl.datamodules.sources.saved_datasets import open_dataset, open_files
from tandem_pl.errors import InputError

from .arrays import load_arrays
from .dataset_images import DatasetImages
from .decoding import read_image, to_mode
from .files import list_class_folder, list_parquet_files
from .image_source import ImageSource, digest_of, file_facts, file_size, read_end

KEYS = ("path", "dataset", "config", "split", "image", "label")
SAVED = ("dataset_info.json", "dataset_dict.json", "state.json")  # of Dataset.save_to_disk

#: A domain's source in a configuration: a path, or a map with the keys `KEYS`.
ImageSpec = str | Mapping[str, Any]


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
        return digest_of([*(path.as_py() for path in self.paths), ends.data, self.labels.data])

    def stamp(self) -> str:
        """Return a digest of paths, sizes and times of change."""
        return digest_of(file_facts(self.place(number)) for number in range(len(self)))

    def content_sizes(self) -> np.ndarray:
        """Return the sizes of the files."""
        return np.array([file_size(self.place(number)) for number in range(len(self))], np.int64)

    def content(self, number: int, end: int | None = None) -> bytes:
        """Return the bytes of a file."""
        return read_end(self.place(number), end)


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

    def content_stamp(self) -> str | None:
        """Return a digest of the file's name, size and time of change, if it is memory-mapped."""
        if isinstance(self.images, np.memmap):
            return digest_of([file_facts(str(self.images.filename))])
        return None

    def content_sizes(self) -> np.ndarray:
        """Return the bytes of the pixels, the same for all images."""
        return np.full(len(self), int(np.prod(self.images.shape[1:])))

    def content(self, number: int, end: int | None = None) -> bytes:
        """Return the pixels, and their shape."""
        pixels = self.images[number]
        data = np.ascontiguousarray(pixels).tobytes()
        return data[-end if end else None :] + str(pixels.shape).encode()


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
        files = list_parquet_files(place, where)
        if not files:
            _refuse_columns(where, given, "a folder of images")
            return ImageFiles(where, *list_class_folder(place, where), place)
        for key in given.keys() & {"config", "split"}:
            raise InputError(f"{where} is a folder of Parquet files: leave {key} out.")
        return DatasetImages(where, *open_files(files, path), *_columns(given))
    if suffix == ".npz":
        _refuse_columns(where, given, "an .npz file")
        return ImageArrays(where, *load_arrays(place, where))
    if "path" in given and not is_folder and suffix not in PARQUET:
        raise InputError(
            f"{where} is {path!r}, which is no folder, .npz or Parquet file (looked from "
            f"{os.getcwd()}): give one, or a hub name as {{dataset: NAME, split: train}}."
        )
    opened = open_dataset(path, given.get("config"), given.get("split"))
    return DatasetImages(where, *opened, *_columns(given))


def _columns(given: Mapping[str, Any]) -> tuple[str, str]:
    return given.get("image", "image"), given.get("label", "label")


def _refuse_columns(where: str, given: Mapping[str, Any], what: str) -> None:
    for key in given.keys() - {"path", "dataset"}:
        raise InputError(f"{where} is {what}, which takes no {key}: leave it out.")


def as_map(spec: ImageSpec) -> dict[str, Any]:
    """Return a source's configuration as a map."""
    return {"path": spec} if isinstance(spec, str) else dict(spec)
