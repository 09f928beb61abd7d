"""Vectors of images, to cluster them: colours and gradients, or the features of a timm network."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tandem_pl.errors import InputError
from tandem_pl.files import write_atomically

from .batches import ImageSet
from .image_source import digest_of, file_facts
from .passes import map_chunks

SIDE = 32  # pixels of an image whose colours and gradients are counted
COLOURS = 4  # bins of each channel
CELLS = 4  # in each direction, of gradients
ANGLES = 8

Describe = Callable[[Image.Image], np.ndarray]


def histogram(image: Image.Image) -> np.ndarray:
    """Return the colours and the directions of edges of an image, float32 `[192]` of length 1.

    64 bins of colour, and 8 directions of gradients in each of 4 x 4 cells, as in a histogram of
    oriented gradients (Dalal and Triggs 2005). Each half has the same weight.

    Example:
        >>> red, blue = (histogram(Image.new("RGB", (9, 9), name)) for name in ("red", "blue"))
        >>> round(float(red @ red), 3), round(float(red @ blue), 3)
        (1.0, 0.0)
    """
    small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = np.asarray(small, np.float32) / 256
    bins = (pixels * COLOURS).astype(np.int64) @ np.array([COLOURS**2, COLOURS, 1])
    colours = np.sqrt(np.bincount(bins.ravel(), minlength=COLOURS**3) / SIDE**2)
    down, right = np.gradient(pixels.mean(axis=2))
    angle = (np.arctan2(down, right) / (2 * np.pi) * ANGLES).round().astype(np.int64) % ANGLES
    cell = np.arange(SIDE) * CELLS // SIDE
    place = (cell[:, None] * CELLS + cell[None]) * ANGLES + angle
    size = np.hypot(down, right)
    edges = np.sqrt(np.bincount(place.ravel(), size.ravel(), minlength=CELLS**2 * ANGLES))
    halves = [half / max(float(np.linalg.norm(half)), 1e-12) for half in (colours, edges)]
    both = np.concatenate(halves)
    return (both / np.linalg.norm(both)).astype(np.float32)


def open_network(folder: str) -> Describe:
    """Return a function that gives the features of a timm network in a folder.

    Raises:
        InputError: the folder is missing or cannot be loaded.
    """
    import timm
    import torch

    path = Path(folder).expanduser()
    _check_network(folder)
    try:
        network = timm.create_model(f"local-dir:{path}", pretrained=True, num_classes=0).eval()
        config = timm.data.resolve_model_data_config(network)
        transform: Any = timm.data.create_transform(**config, is_training=False)
    except Exception as error:  # whatever timm raises at a damaged folder
        reason = " ".join(str(error).split())
        raise InputError(_no_network(folder, reason)) from error

    @torch.no_grad()
    def describe(image: Image.Image) -> np.ndarray:
        features = network(transform(image.convert("RGB"))[None])[0].float().numpy()
        return np.asarray(features / max(float(np.linalg.norm(features)), 1e-12))

    return describe


def embed_images(data: ImageSet, embedder: str | None, threads: int, cache_dir: Path) -> np.ndarray:
    """Return the vectors of all images, float32 `[images, dimensions]`.

    They are kept in `cache_dir` until an image or the network changes.

    Args:
        data: the images.
        embedder: folder of a timm network; None for `histogram`.
        threads: how many decode.
        cache_dir: folder of the results.

    Raises:
        InputError: the folder holds no network, also if the vectors are in the cache.
    """
    if embedder:
        _check_network(embedder)
    file = _cache_file(data, embedder, cache_dir)
    if file and file.exists():
        return np.asarray(np.load(file, allow_pickle=False))
    describe = open_network(embedder) if embedder else histogram

    def some(numbers: range) -> list[np.ndarray]:
        return [describe(data.image(number)) for number in numbers]

    what = f"features of {data.source.where}"
    found: list[np.ndarray] = list(map_chunks(some, len(data), threads, what))
    vectors = np.stack(found)
    if file:
        write_atomically(file, _npy_bytes(vectors))
    return vectors


def _check_network(folder: str) -> None:
    if not (Path(folder).expanduser() / "config.json").is_file():
        raise InputError(_no_network(folder, "it has no config.json"))


def _no_network(folder: str, reason: str) -> str:
    return (
        f"embedder={folder!r} cannot be loaded as a timm network ({reason}); give a folder "
        "with config.json and weights, as `hf download timm/NAME --local-dir FOLDER` writes."
    )


def _cache_file(data: ImageSet, embedder: str | None, cache_dir: Path) -> Path | None:
    stamp = data.source.content_stamp()
    if stamp is None:
        return None
    rows = np.ascontiguousarray(data.rows)
    files = sorted(Path(embedder).expanduser().glob("*")) if embedder else []
    facts = [b"network"] * bool(embedder) + [file_facts(str(file)) for file in files]
    name = digest_of([stamp.encode(), rows.data, str(data.channels).encode(), *facts])
    return cache_dir / "images" / f"features-{name}.npy"


def _npy_bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()
