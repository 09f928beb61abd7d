"""Images and labels in one `.npz` file, memory-mapped unless it is compressed."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np

from tandem_pl.errors import InputError

LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip member: the lengths of its name and extra field
WRITE_IT = "write it by np.savez(path, images=..., labels=...)."


def load_arrays(path: Path, where: str) -> tuple[np.ndarray, np.ndarray, list[str] | None]:
    """Read the arrays `images` (or `image`), `labels` (or `label`) and optionally `classes`.

    Images that `np.savez` wrote are memory-mapped; those of `np.savez_compressed` are in memory.

    Returns:
        Images uint8 [N, H, W] or [N, H, W, C], labels int64 [N], and class names or None.

    Raises:
        InputError: the file cannot be read, or an array is missing or has another shape or type.
    """
    where = f"{where}: {path}"
    try:
        opened = np.load(path, allow_pickle=False)
        if isinstance(opened, np.ndarray):
            raise ValueError("it is one array, as np.save writes it")
        with opened as file:
            image, label = (_find(key, file.files, where) for key in ("image", "label"))
            labels = file[label]
            names = file["classes"].ravel().astype(str).tolist() if "classes" in file else None
            mapped = _map_member(path, f"{image}.npy")
            images = file[image] if mapped is None else mapped
    except InputError:
        raise
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise InputError(f"{where} cannot be read ({reason}): {WRITE_IT}") from error
    channels = images.shape[3] if images.ndim == 4 else 1
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or channels not in (1, 3, 4):
        found = f"{where}: images are {images.dtype} of shape {images.shape}"
        raise InputError(f"{found}: store uint8 [N, H, W] or [N, H, W, C] with 1, 3 or 4 channels.")
    if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
        found = f"{labels.dtype} of shape {labels.shape} for {len(images)} images"
        raise InputError(f"{where}: labels are {found}: store a class number for each, [N].")
    return images, labels.astype(np.int64), names


def _find(key: str, names: list[str], where: str) -> str:
    for name in (f"{key}s", key):
        if name in names:
            return name
    found = ", ".join(map(repr, names))
    raise InputError(f"{where} has no array '{key}s' (its arrays are {found}): {WRITE_IT}")


def _map_member(path: Path, member: str) -> np.ndarray | None:
    """Return an array of the file as a memory map, or None if it is compressed.

    `np.load(mmap_mode=...)` does not map the members of an `.npz` file.
    """
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
