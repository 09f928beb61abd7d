"""`ImageSheet`: a picture of images of each domain, with its weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor

from tandem_pl.checks import check_at_least
from tandem_pl.curves import MOST_CURVES
from tandem_pl.errors import InputError
from tandem_pl.objectives.samples import inputs_and_labels
from tandem_pl.plots import shorten
from tandem_pl.randomness import seeded_everywhere
from tandem_pl.simplex import Array
from tandem_pl.text_tables import counted
from tandem_pl.training.connection import mixture_data

from .logger_outputs import log_figure, takes_figures
from .trainer_parts import reweighting_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE = 96  # pixels of the square that an image is fitted into
GAP = 4  # pixels between squares
CAPTION = 14  # pixels below a square for the name of the class
LABEL = 200  # pixels on the left for the name and weight of the domain
CLASS_LETTERS, DOMAIN_LETTERS = 15, 24  # longest names

PURPOSE = "ImageSheet shows the domains of a MixtureDataModule"


class Tile(NamedTuple):
    """An image of the sheet."""

    pixels: NDArray  # [h, w, 3] uint8, h and w at most SIDE
    caption: str


class ImageSheet(Callback):
    """Draw images of every domain, ordered by weight, as `mixture/images` of loggers with pictures.

    There is a sheet at the start and at the end of fit, and every n episodes. It has a row for
    each domain (for more than 30 domains, the largest weights) with its name, its current weight
    and some of its images. The images are the same in each sheet, and chosen from the whole data
    set, which may be sorted by class. They look as the data set returns them: augmented if it
    augments. The order of training samples and the global random states do not change.

    Images are un-normalised by `mean` and `std` of the datamodule if it has them; otherwise values
    outside of 0 to 1 are stretched to this range for each image. Class names are the datamodule's
    `classes`.

    Args:
        images: number of images of each domain.
        every_n_episodes: episodes between sheets; None for none between start and end.

    Raises:
        InputError: in `setup`, if samples of a domain are not images.
    """

    def __init__(self, images: int = 8, every_n_episodes: int | None = None) -> None:
        check_at_least("images", images, 1)
        if every_n_episodes is not None:
            check_at_least("every_n_episodes", every_n_episodes, 1)
        self.images = images
        self.every_n_episodes = every_n_episodes
        self._tiles: dict[str, list[Tile]] = {}  # of domains that were shown
        self._drawn = -1  # global step of the last sheet

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raise an error if samples of the domains in the first sheet are not images."""
        if stage != "fit":
            return
        train_sets = mixture_data(trainer, PURPOSE).train_sets
        self._tiles, self._drawn = {}, -1
        for name in list(train_sets)[:MOST_CURVES]:
            _read_images(name, train_sets[name], [0])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the first sheet."""
        self._draw(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw a sheet every n episodes."""
        every = self.every_n_episodes
        if every is not None and (trainer.current_epoch + 1) % every == 0:
            self._draw(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the last sheet."""
        self._draw(trainer)

    def _draw(self, trainer: Trainer) -> None:
        if not takes_figures(trainer) or self._drawn == trainer.global_step:
            return
        self._drawn = trainer.global_step
        data, reweighting = mixture_data(trainer, PURPOSE), reweighting_of(trainer)
        weights = data.mixture.array if reweighting is None else reweighting.weights
        names = list(data.train_sets)
        shown = [names[m] for m in np.argsort(-weights, kind="stable")[:MOST_CURVES]]
        for name in shown:
            if name not in self._tiles:
                self._tiles[name] = self._make_tiles(name, data)
        rows = {name: self._tiles[name] for name in shown}
        highest = np.sort(weights)[::-1][: len(shown)]
        log_figure(trainer, "mixture/images", lambda: draw_sheet(rows, highest, len(names)))

    def _make_tiles(self, name: str, data: Any) -> list[Tile]:
        samples = data.train_sets[name]
        size = len(samples)
        chosen = np.random.default_rng(0).choice(size, min(self.images, size), replace=False)
        frame = getattr(data, "frame", data)  # of an ImageMixtureDataModule, which has mean and std
        mean, std = (getattr(frame, key, None) for key in ("mean", "std"))
        classes = getattr(data, "classes", None)
        return [
            Tile(thumbnail(image, mean, std), _caption(label, classes))
            for image, label in _read_images(name, samples, sorted(chosen.tolist()))
        ]


def thumbnail(
    image: Tensor, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> NDArray:
    """Return an image [C, H, W] as pixels [h, w, 3] uint8, the longer side close to SIDE.

    Args:
        image: floats or uint8. One channel is grey; of two, or of more than three, the first is.
        mean: [C] that was subtracted from the channels; None for none.
        std: [C] that the channels were divided by; None for none.
    """
    pixels = image.detach().to("cpu", torch.float32)
    if not image.is_floating_point():
        pixels = pixels / 255
    elif mean is not None and std is not None:
        scale, shift = (torch.tensor(values).float().view(-1, 1, 1) for values in (std, mean))
        pixels = pixels * scale + shift
    elif pixels.min() < 0 or pixels.max() > 1:
        low, high = pixels.min(), pixels.max()
        pixels = (pixels - low) / (high - low).clamp_min(1e-12)
    pixels = pixels if len(pixels) == 3 else pixels[:1].expand(3, -1, -1)
    longest = max(pixels.shape[1:])
    if longest > SIDE:
        sides = [max(round(side * SIDE / longest), 1) for side in pixels.shape[1:]]
        pixels = F.interpolate(pixels[None], sides, mode="bilinear", antialias=True)[0]
    else:  # repeat pixels, so that small images stay sharp
        factor = SIDE // longest
        pixels = pixels.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    pixels = pixels.nan_to_num(0.0).clamp(0, 1)
    return (255 * pixels).round().byte().permute(1, 2, 0).numpy()


def draw_sheet(rows: Mapping[str, Sequence[Tile]], weights: Array, domains: int) -> Figure:
    """Draw a row of images for each domain, from top to bottom.

    Args:
        rows: domain -> its images.
        weights: [rows] shares of samples.
        domains: number of domains, including those that are not shown.
    """
    from matplotlib.figure import Figure

    captions = any(tile.caption for tiles in rows.values() for tile in tiles)
    down, across = SIDE + GAP + CAPTION * captions, SIDE + GAP
    columns = max(len(tiles) for tiles in rows.values())
    more = domains - len(rows)
    height, width = down * len(rows) + CAPTION * (more > 0), LABEL + across * columns
    canvas = np.full((height, width, 3), 255, np.uint8)
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))  # a pixel of the canvas is a pixel of the picture
    axes.set_axis_off()

    def write(x: float, y: float, text: str, **style: Any) -> None:
        axes.text(x, y, text, **style).set(parse_math=False)

    for row, (name, weight) in enumerate(zip(rows, weights, strict=True)):
        top = row * down
        label = f"{shorten(name, DOMAIN_LETTERS)}\n{100 * weight:.2f} %"
        write(LABEL - 8, top + SIDE / 2, label, va="center", ha="right", fontsize=9)
        for column, tile in enumerate(rows[name]):
            left = LABEL + column * across
            tall, wide = tile.pixels.shape[:2]
            y, x = top + (SIDE - tall) // 2, left + (SIDE - wide) // 2
            canvas[y : y + tall, x : x + wide] = tile.pixels
            write(left + SIDE / 2, y + tall + 1, tile.caption, va="top", ha="center", fontsize=7)
    if more:
        text = f"and {counted(more, 'domain')} of lower weight"
        write(LABEL, height - CAPTION, text, va="top", fontsize=8)
    axes.imshow(canvas, extent=(0, width, height, 0), aspect="auto", interpolation="nearest")
    return figure


def _read_images(name: str, samples: Any, indices: Sequence[int]) -> list[tuple[Tensor, Any]]:
    """Return images [C, H, W] and labels; augmentation draws the same each time.

    Raises:
        InputError: a sample of the domain is not an image.
    """
    images = []
    for index in indices:
        with seeded_everywhere(index):
            sample = samples[index]
        try:
            image, label = inputs_and_labels(sample)
        except InputError:
            image, label = sample, None
        if not (isinstance(image, Tensor) and image.dim() == 3 and min(image.shape) > 0):
            shape = f"of shape {tuple(image.shape)}, " if isinstance(image, Tensor) else ""
            raise InputError(
                f"ImageSheet shows images, tensors [C, H, W] under the key 'image', and those of "
                f"domain {name!r} are {shape}of type {type(image).__name__}: remove the callback."
            )
        images.append((image, label))
    return images


def _caption(label: Any, classes: Sequence[str] | None) -> str:
    """Return the name of the label's class, or "" if it is not known."""
    if isinstance(label, Tensor) and label.dim() == 0 and not label.is_floating_point():
        label = int(label)
    if classes is None or not isinstance(label, int | np.integer) or not 0 <= label < len(classes):
        return ""
    return shorten(str(classes[int(label)]), CLASS_LETTERS)
