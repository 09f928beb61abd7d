"""`ImageSheet`: what each domain looks like, beside its weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor

from tandem_pl.curves import MOST_CURVES
from tandem_pl.errors import InputError
from tandem_pl.objectives.samples import inputs_and_labels
from tandem_pl.randomness import seeded_everywhere
from tandem_pl.simplex import Array

from .trainer_parts import experiments, reweighting_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE = 96  # pixels of the square that an image is fitted into
GAP = 4  # pixels between squares
CAPTION = 14  # pixels below a square for the class's name
LABEL = 200  # pixels to the left for the domain's name and weight
LETTERS = 15, 24  # of a class's name that fit below a square, and of a domain's name


class Tile(NamedTuple):
    """An image of the sheet: [h, w, 3] uint8, h and w at most SIDE; and what it is called."""

    pixels: NDArray
    caption: str


class ImageSheet(Callback):
    """A picture in TensorBoard of images of every domain, ordered by weight: `mixture/images`.

    It is drawn at the start and at the end of fit, and every so many episodes: a row for each
    domain (of more than 30, the largest weights) with its name, its current weight and some of its
    images. These are the same ones each time, drawn from all of the data set, which may be sorted
    by class, and as the data set gives them: augmented where it augments. Neither the order of
    training samples nor any global random state is touched.

    Images are un-normalised by `mean` and `std` of the datamodule where it has them; else values
    outside of 0 to 1 are stretched image by image. Class names are the datamodule's `classes`.

    Args:
        images: of each domain.
        every_n_episodes: episodes between sheets; None for none between start and end.

    Raises:
        InputError: by `setup`, for domains whose samples are not images.
    """

    def __init__(self, images: int = 8, every_n_episodes: int | None = None) -> None:
        for key, value in (("images", images), ("every_n_episodes", every_n_episodes)):
            if value is not None and value < 1:
                raise InputError(f"{key}={value} must be at least 1.")
        self.images = images
        self.every_n_episodes = every_n_episodes
        self._tiles: dict[str, list[Tile]] = {}
        self._drawn = -1  # global step of the last sheet

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses samples that are not images, of the domains that the first sheet would show."""
        if stage != "fit":
            return
        data: Any = getattr(trainer, "datamodule", None)
        if not getattr(data, "train_sets", None):
            raise InputError(
                "ImageSheet shows the domains of a MixtureDataModule: pass one as datamodule to "
                "trainer.fit."
            )
        self._tiles, self._drawn = {}, -1
        for name in list(data.train_sets)[:MOST_CURVES]:
            _fetch(name, data.train_sets[name], [0])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The first sheet."""
        self._draw(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """An epoch is an episode."""
        every = self.every_n_episodes
        if every is not None and (trainer.current_epoch + 1) % every == 0:
            self._draw(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last sheet."""
        self._draw(trainer)

    def _draw(self, trainer: Trainer) -> None:
        loggers = list(experiments(trainer, "add_figure"))
        if not loggers or self._drawn == trainer.global_step:
            return
        self._drawn = trainer.global_step
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        reweighting = reweighting_of(trainer)
        weights = data.mixture.array if reweighting is None else reweighting.weights
        names = list(data.train_sets)
        shown = [names[m] for m in np.argsort(-weights, kind="stable")[:MOST_CURVES]]
        for name in shown:
            if name not in self._tiles:
                self._tiles[name] = self._tiles_of(name, data)
        rows = {name: self._tiles[name] for name in shown}
        figure = draw_sheet(rows, np.sort(weights)[::-1][: len(shown)], len(names))
        for experiment in loggers:
            experiment.add_figure("mixture/images", figure, global_step=trainer.global_step)

    def _tiles_of(self, name: str, data: Any) -> list[Tile]:
        samples = data.train_sets[name]
        size = len(samples)
        count = min(self.images, size)
        places = sorted(np.random.default_rng(0).choice(size, count, replace=False).tolist())
        frame = getattr(data, "frame", data)  # where `ImageMixtureDataModule` has them
        mean, std = (getattr(frame, key, None) for key in ("mean", "std"))
        classes = getattr(data, "classes", None)
        return [
            Tile(thumbnail(image, mean, std), _caption(label, classes))
            for image, label in _fetch(name, samples, places)
        ]


def thumbnail(
    image: Tensor, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> NDArray:
    """[h, w, 3] uint8 of an image [C, H, W], the longer side SIDE pixels or a little less.

    Args:
        image: floats or uint8; one channel is grey, and of any other number but 3 the first is.
        mean: [C] subtracted from the image's channels before it came here; None for none.
        std: [C] that they were divided by.
    """
    pixels = image.detach().to("cpu", torch.float32)
    if not image.is_floating_point():
        pixels = pixels / 255
    elif mean is not None and std is not None:
        channels = torch.tensor(std).float().view(-1, 1, 1), torch.tensor(mean).float()
        pixels = pixels * channels[0] + channels[1].view(-1, 1, 1)
    elif pixels.min() < 0 or pixels.max() > 1:
        low, high = pixels.min(), pixels.max()
        pixels = (pixels - low) / (high - low).clamp_min(1e-12)
    pixels = pixels if len(pixels) == 3 else pixels[:1].expand(3, -1, -1)
    longest = max(pixels.shape[1:])
    if longest > SIDE:
        sides = [max(round(side * SIDE / longest), 1) for side in pixels.shape[1:]]
        pixels = F.interpolate(pixels[None], sides, mode="bilinear", antialias=True)[0]
    else:  # whole pixels, so that small images stay sharp
        factor = SIDE // longest
        pixels = pixels.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    pixels = pixels.nan_to_num(0.0).clamp(0, 1)
    return (255 * pixels).round().byte().permute(1, 2, 0).numpy()


def draw_sheet(rows: Mapping[str, Sequence[Tile]], weights: Array, domains: int) -> Figure:
    """A row of images for each domain, from top to bottom.

    Args:
        rows: domain -> its images.
        weights: [rows] shares of samples.
        domains: how many there are, shown or not.
    """
    from matplotlib.figure import Figure

    captions = any(tile.caption for tiles in rows.values() for tile in tiles)
    down, across = SIDE + GAP + CAPTION * captions, SIDE + GAP
    columns = max(len(tiles) for tiles in rows.values())
    more = domains - len(rows)
    height, width = down * len(rows) + CAPTION * (more > 0), LABEL + across * columns
    canvas = np.full((height, width, 3), 255, np.uint8)
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))  # a pixel of the canvas is one of the picture
    axes.set_axis_off()
    for row, (name, weight) in enumerate(zip(rows, weights, strict=True)):
        top = row * down
        text = f"{_cut(name, LETTERS[1])}\n{100 * weight:.2f} %"
        axes.text(LABEL - 8, top + SIDE / 2, text, va="center", ha="right", fontsize=9).set(
            parse_math=False
        )
        for column, tile in enumerate(rows[name]):
            tall, wide = tile.pixels.shape[:2]
            y, x = top + (SIDE - tall) // 2, LABEL + column * across + (SIDE - wide) // 2
            canvas[y : y + tall, x : x + wide] = tile.pixels
            middle = LABEL + column * across + SIDE / 2
            axes.text(middle, y + tall + 1, tile.caption, va="top", ha="center", fontsize=7).set(
                parse_math=False
            )
    if more:
        axes.text(
            LABEL, height - CAPTION, f"and {more} domains of lower weight", va="top", fontsize=8
        )
    axes.imshow(canvas, extent=(0, width, height, 0), aspect="auto", interpolation="nearest")
    return figure


def _fetch(name: str, samples: Any, places: Sequence[int]) -> list[tuple[Tensor, Any]]:
    """Images [C, H, W] and labels; augmentation draws the same each time."""
    found = []
    for place in places:
        with seeded_everywhere(place):
            sample = samples[place]
        try:
            image, label = inputs_and_labels(sample)
        except InputError:
            image, label = sample, None
        if not (isinstance(image, Tensor) and image.dim() == 3 and min(image.shape) > 0):
            what = f"of shape {tuple(image.shape)}" if isinstance(image, Tensor) else "otherwise"
            raise InputError(
                f"ImageSheet shows images, tensors [C, H, W] under the key 'image', and those of "
                f"domain {name!r} are {what} ({type(image).__name__}): take the callback out."
            )
        found.append((image, label))
    return found


def _caption(label: Any, classes: Sequence[str] | None) -> str:
    if isinstance(label, Tensor):
        label = int(label) if label.dim() == 0 and not label.is_floating_point() else None
    known = classes is not None and isinstance(label, int | np.integer)
    if not known or not 0 <= label < len(classes):  # type: ignore[arg-type]
        return ""
    return _cut(str(classes[label]), LETTERS[0])  # type: ignore[index]


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1] + "…"
