"""From the bytes of an image to pixels in the asked mode; what cannot be read is one sentence."""

from __future__ import annotations

import io
import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from tandem_pl.errors import InputError
from tandem_pl.files import write_atomically

if TYPE_CHECKING:
    from .image_sources import ImageSource

MODES = {1: "L", 3: "RGB"}  # channels -> Pillow's mode
CHECKED_AT_ONCE = 256  # images a task of the check


class UnreadableImageError(InputError):
    """An image that cannot be used; the message is one sentence that names it and the mend.

    A loader worker's error is raised again with the whole traceback as its message, of which this
    class keeps the sentence.

    Example:
        >>> try:
        ...     raise UnreadableImageError("a.png is cut short: replace it.")
        ... except UnreadableImageError as error:
        ...     text = f"Caught in worker 0: UnreadableImageError: {error}"
        >>> str(UnreadableImageError(text))
        'a.png is cut short: replace it.'
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rsplit("UnreadableImageError: ", 1)[-1].strip())


def read_image(data: str | bytes, where: str, channels: int, convert: bool = True) -> Image.Image:
    """Decodes one image.

    Args:
        data: the path of a file, or the encoded bytes.
        where: what the message calls the image.
        channels: 1 for grey, 3 for colour.
        convert: whether images with other channels are converted; see `to_mode`.

    Returns:
        An image of mode "L" or "RGB", its pixels in memory.

    Raises:
        UnreadableImageError: not there, not an image, cut short, or with other channels.
    """
    try:
        with open(data, "rb") if isinstance(data, str) else io.BytesIO(data) as file:
            image = Image.open(file)
            image.load()
    except Exception as error:  # decoders raise whatever they like
        raise UnreadableImageError(
            f"{where} cannot be decoded ({_reason(error, data)}): replace or remove it, or set "
            'corrupt to "skip".'
        ) from error
    return to_mode(image, where, channels, convert)


def to_mode(image: Image.Image, where: str, channels: int, convert: bool = True) -> Image.Image:
    """The image in the mode "L" or "RGB".

    Colours become grey by luminance, transparency is dropped, and 16-bit grey is scaled to 8 bits.

    Raises:
        UnreadableImageError: another number of channels where `convert` is off; pixels of 32 bits,
            whose scale is not known.

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


def readable(
    source: ImageSource, name: str, channels: int, convert: bool, threads: int, cache_dir: Path
) -> np.ndarray:
    """The numbers of a source's images that can be decoded, int64, in order.

    Every image is decoded once, and the bad ones are remembered in `cache_dir` until a file's path,
    size or time of change differs. They are counted in a warning that names the first.

    Args:
        source: where the images lie; one whose images cannot be corrupt has no stamp, and is not
            looked at.
        name: what the progress bar and the warning call it.
        channels: see `read_image`.
        convert: see `read_image`.
        threads: how many decode.
        cache_dir: folder of the caches.
    """
    everything = np.arange(len(source))
    stamp = source.stamp()
    if stamp is None:
        return everything
    file = (
        cache_dir / "images" / f"unreadable-{stamp}-{channels}-{'any' if convert else 'own'}.json"
    )
    bad = _remembered(file)
    if bad is None:
        bad = _decode_all(source, name, channels, convert, threads)
        try:
            write_atomically(file, json.dumps(bad).encode())
        except OSError as error:
            raise InputError(
                f"{file} cannot be written ({error.strerror}): choose another cache_dir."
            ) from error
    if bad:
        warnings.warn(
            f"{name}: {len(bad)} of {len(source)} images were left out, as they cannot be used; "
            f"the first: {bad[0][1]}",
            stacklevel=2,
        )
    return np.delete(everything, [number for number, _ in bad])


def _remembered(file: Path) -> list[Any] | None:
    try:
        return list(json.loads(file.read_bytes()))
    except (OSError, ValueError):
        return None


def _decode_all(
    source: ImageSource, name: str, channels: int, convert: bool, threads: int
) -> list[tuple[int, str]]:
    """Number and message of every image that cannot be used."""

    def check(start: int) -> list[tuple[int, str]]:
        found = []
        for number in range(start, min(start + CHECKED_AT_ONCE, len(source))):
            try:
                source.read(number, channels, convert)
            except UnreadableImageError as error:
                found.append((number, str(error)))
            bar.update()
        return found

    with (
        tqdm(total=len(source), desc=f"checking {name}", unit=" images", delay=1) as bar,
        ThreadPoolExecutor(max(threads, 1)) as pool,
    ):
        parts = pool.map(check, range(0, len(source), CHECKED_AT_ONCE))
        return [bad for part in parts for bad in part]


def _reason(error: Exception, data: str | bytes) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, Image.UnidentifiedImageError):
        empty = not (data if isinstance(data, bytes) else Path(data).stat().st_size)
        return "it is empty" if empty else "it is no image that Pillow knows"
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
