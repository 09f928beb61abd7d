"""Seconds to load an epoch of JPEGs: our loader over a plain one with the same transforms.

`python tests/benchmarks/images.py` writes generated JPEGs, 600 of 64 x 64 and 300 of 256 x 256
pixels. `ImageMixtureDataModule` (two domains) and a shuffled `DataLoader` over torchvision's
`ImageFolder` read them in turns, with the same batches, workers and transforms.
The workers start before the clock does.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import alternate
from PIL import Image
from record import Record, Row, arguments, at_most, finish, parse, plot, show
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from tandem_pl.datamodules import ImageMixtureDataModule

NAME = "images"
CLASSES = 3
DOMAINS = ("photos", "drawings")


def write_folder(root: Path, images: int, side: int) -> None:
    """Write JPEGs of all domains and classes: blurred noise, whose files are as large as photos."""
    random = np.random.default_rng(0)
    for number in range(images):
        folder = root / DOMAINS[number % len(DOMAINS)] / str(number // 2 % CLASSES)
        folder.mkdir(parents=True, exist_ok=True)
        noise = Image.fromarray(random.integers(0, 256, (side // 4, side // 4, 3), dtype=np.uint8))
        noise.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{number:05}.jpg")


def epoch(loader: DataLoader, take: Callable[[Any], int]) -> list[float]:
    """Return seconds an image in one pass, in which `take` counts the images of a batch."""
    start = time.perf_counter()
    count = sum(take(batch) for batch in loader)
    return [(time.perf_counter() - start) / count]


def compare(root: Path, side: int, workers: int, batch: int, repeats: int) -> Row:
    """Return the speeds of both loaders, and their ratio."""
    train = {name: str(root / name) for name in DOMAINS}
    options = {"image_size": side, "batch_size": batch, "num_workers": workers}
    data = ImageMixtureDataModule(train, **options)
    data.setup("fit")
    ours = data.train_dataloader()
    files = ImageFolder(str(root), data.training_transform)
    plain = DataLoader(
        files, batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    runs = {
        "ours": lambda: epoch(ours, lambda b: len(data.on_after_batch_transfer(b, 0).domains)),
        "plain": lambda: epoch(plain, lambda batch: len(batch[1])),
    }
    alternate(runs, 1)  # starts the workers, and reads the files into the system's cache
    found = {name: np.median(times) for name, times in alternate(runs, repeats).items()}
    return {
        "images": len(files),
        "side": side,
        "workers": workers,
        "ours_images_a_second": 1 / float(found["ours"]),
        "plain_images_a_second": 1 / float(found["plain"]),
        "ratio": float(found["ours"] / found["plain"]),
    }


def main(argv: Sequence[str] | None = None) -> Record:
    """Compare for both sizes and each number of workers."""
    parser = arguments(__doc__, repeats=15)  # passes are short
    parser.add_argument("--images", type=int, nargs=2, default=[600, 300], help="small and large")
    parser.add_argument("--sides", type=int, nargs=2, default=[64, 256], help="pixels of both")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--batch", type=int, default=32)
    options = parse(parser, argv, images=[24, 12], sides=[16, 24], batch=6, workers=[0])
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for images, side in zip(options.images, options.sides, strict=True):
            root = Path(folder) / str(side)
            write_folder(root, images, side)
            for workers in options.workers:
                row = compare(root, side, workers, options.batch, options.repeats)
                rows.append(show(row))
    goals = []
    for row in rows:
        what = "time of our loader over a plain one, {side} pixels, {workers} workers".format(**row)
        goals.append(at_most(what, row["ratio"], 1.053))
    plots = [plot("Loading over a plain loader", "side", "ratio", by=("workers",))]
    return finish(NAME, options, rows, goals, plots)


if __name__ == "__main__":
    main()
