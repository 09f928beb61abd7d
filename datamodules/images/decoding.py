"""Decode an image into a Pillow image of mode "L" or "RGB"."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from tandem_pl.errors import InputError

MODES = {1: "L", 3: "RGB"}  # channels -> Pillow's mode


class UnreadableImageError(InputError):
    """An image that cannot be used; the message is one sentence."""


def read_image(data: str | bytes, where: str, channels: int, convert: bool = True) -> Image.Image:
    """Decode one image, turned upright as its EXIF orientation says.

    Args:
        data: the path of a file, or the encoded bytes.
        where: the image's name in error messages.
        channels: 1 for grey, 3 for colour.
        convert: whether to convert images with other channels, see `to_mode`.

    Returns:
        An image of mode "L" or "RGB" with its pixels in memory.

    Raises:
        UnreadableImageError: the image is missing, broken, or has other channels.
    """
    try:
        with open(data, "rb") if isinstance(data, str) else io.BytesIO(data) as file:
            image = Image.open(file)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:  # Pillow's decoders raise many kinds of exception
        raise UnreadableImageError(
            f"{where} cannot be decoded ({_reason(error, data)}): replace or remove it, or set "
            'corrupt to "skip".'
        ) from error
    return to_mode(image, where, channels, convert)


def to_mode(image: Image.Image, where: str, channels: int, convert: bool = True) -> Image.Image:
    """Return the image in mode "L" or "RGB".

    Colours become grey by luminance, transparency is dropped, and 16-bit grey is scaled to 8 bits.

    Raises:
        UnreadableImageError: the image has other channels and `convert` is off, or it has 32-bit
            pixels, whose range is not known.

    Example:
        >>> to_mode(Image.new("RGBA", (2, 2)), "a.png", 3).mode
        'RGB'
    """
    mode = MODES[channels]
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == mode:
        return image
    if image.mode in ("I", "F"):
        raise UnreadableImageError(
            f"{where} has pixels of 32 bits (mode {image.mode}), whose range is not known: store "
            "it with 8 or 16 bits a channel."
        )
    if not convert:
        raise UnreadableImageError(
            f"{where} has mode {image.mode} ({len(image.getbands())} channels) and channels="
            f"{channels} needs {mode}: set convert to true, or channels to what all images have."
        )
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert(mode)


def _reason(error: Exception, data: str | bytes) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, Image.UnidentifiedImageError):
        size = len(data) if isinstance(data, bytes) else Path(data).stat().st_size
        return "it is no image that Pillow knows" if size else "it is empty"
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
