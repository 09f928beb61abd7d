"""Images in the rows of a `datasets` data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from tandem_pl.errors import InputError

from .decoding import UnreadableImageError, read_image
from .files import sort_names
from .image_source import ImageSource, digest_of, file_size, read_end


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
        value = self._value(number)
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
        return digest_of([f"{self._stamp} {self._column}".encode()])

    def content_sizes(self) -> np.ndarray:
        """Return the sizes of the encoded images, in the rows or in files that they name."""
        sizes = []
        for batch in self.data.with_format("arrow").iter(batch_size=10_000):
            column = batch.column(0).combine_chunks()
            if not pa.types.is_struct(column.type):
                sizes.append(pc.binary_length(column))
                continue
            size = pc.binary_length(column.field("bytes"))
            if size.null_count and column.type.get_field_index("path") >= 0:
                paths = column.field("path").to_pylist()
                there = [file_size(path) if path else -1 for path in paths]
                size = pc.coalesce(size.cast(pa.int64()), pa.array(there))
            sizes.append(size)
        if not sizes:
            return np.empty(0, np.int64)
        return np.concatenate([pc.fill_null(size.cast(pa.int64()), -1) for size in sizes])

    def content(self, number: int, end: int | None = None) -> bytes:
        """Return the encoded image."""
        value = self._value(number)
        if isinstance(value, str):
            return read_end(value, end)
        return (value or b"")[-end if end else None :]

    def _value(self, number: int) -> bytes | str | None:
        value = self.data[number][self._column]
        if isinstance(value, Mapping):
            value = value["path"] if value.get("bytes") is None else value["bytes"]
        return value


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
