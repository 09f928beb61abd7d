"""Images and labels in one `.npz` file, mapped into memory where it is not compressed."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np

from tandem_pl.errors import InputError

KEYS = ("image", "label")  # with or without an s
LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip member: the lengths of its name and extra field


def load_arrays(path: Path, where: str) -> tuple[np.ndarray, np.ndarray, list[str] | None]:
    """Reads `images` (or `image`), `labels` (or `label`) and, if there are some, `classes`.

    What `np.savez` wrote is memory-mapped; what `np.savez_compressed` wrote is held in memory.

    Args:
        path: the file.
        where: what messages call it.

    Returns:
        Images uint8 [N, H, W] or [N, H, W, C], labels int64 [N], and class names or None.

    Raises:
        InputError: no such file, a missing array, or one of another shape or type.
    """
    try:
        opened = np.load(path, allow_pickle=False)
        if isinstance(opened, np.ndarray):
            raise ValueError("it is one array, as np.save writes it")
        with opened as file:
            found = {key: next((k for k in (f"{key}s", key) if k in file), "") for key in KEYS}
            for key, name in found.items():
                if not name:
                    raise InputError(
                        f"{where}: {path} has no array '{key}s' (its arrays are "
                        f"{', '.join(map(repr, file.files))}): write it by "
                        "np.savez(path, images=..., labels=...)."
                    )
            labels = file[found["label"]]
            names = file["classes"].ravel().astype(str).tolist() if "classes" in file else None
            images = _mapped(path, f"{found['image']}.npy")
            images = file[found["image"]] if images is None else images
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise InputError(
            f"{where}: {path} cannot be read ({reason}): write it by "
            "np.savez(path, images=..., labels=...)."
        ) from error
    _check(images, labels, f"{where}: {path}")
    if names is not None and len(labels) and not 0 <= labels.min() <= labels.max() < len(names):
        bad = int(np.flatnonzero((labels < 0) | (labels >= len(names)))[0])
        raise InputError(
            f"{where}: label {labels[bad]} of image {bad} in {path} is outside 0 to "
            f"{len(names) - 1}, the places in its array 'classes': mend it."
        )
    return images, labels.astype(np.int64), names


def _check(images: np.ndarray, labels: np.ndarray, where: str) -> None:
    channels = images.shape[3] if images.ndim == 4 else 1
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or channels not in (1, 3, 4):
        raise InputError(
            f"{where}: images are {images.dtype} of shape {images.shape}: store uint8 [N, H, W] or "
            "[N, H, W, C] with 1, 3 or 4 channels."
        )
    if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
        raise InputError(
            f"{where}: labels are {labels.dtype} of shape {labels.shape} for {len(images)} images: "
            "store a class number for each, [N]."
        )


def _mapped(path: Path, member: str) -> np.ndarray | None:
    """A member that is stored as it is, memory-mapped; None where it is compressed."""
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        info = archive.getinfo(member)
        if info.compress_type != zipfile.ZIP_STORED:
            return None
        file.seek(info.header_offset)
        name, extra = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
        file.seek(info.header_offset + LOCAL_HEADER.size + name + extra)
        read = np.lib.format.read_array_header_2_0
        if np.lib.format.read_magic(file) == (1, 0):
            read = np.lib.format.read_array_header_1_0
        shape, fortran, dtype = read(file)
        if dtype.hasobject or not np.prod(shape):
            return None
        return np.memmap(path, dtype, "r", file.tell(), shape, "F" if fortran else "C")
