"""Image folders, arrays, data sets and tables for tests."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tandem_pl import InputError
from tandem_pl.datamodules import ImageMixtureDataModule

PETS = ("cat", "dog")
PLAIN = {"mean": 0.0, "std": 1.0, "random_crop": "centre", "hflip": 0.0, "image_size": 8}


def pixels(value: int, side: int = 8, channels: int = 3) -> np.ndarray:
    return np.full((side, side, 3) if channels == 3 else (side, side), value, dtype=np.uint8)


def write_folder(root, classes=PETS, each: int = 6, start: int = 0, suffix: str = "png"):
    """Write images of one grey value each: start, start + 1, ..."""
    for place, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(each):
            image = Image.fromarray(pixels(start + place * each + number))
            image.save(root / name / f"{number:03}.{suffix}")
    return str(root)


def write_arrays(path, labels=(0, 1, 0, 1), start: int = 100, **more):
    images = np.stack([pixels(start + number) for number in range(len(labels))])
    np.savez(path, images=images, labels=np.array(labels), **more)
    return str(path)


def noise(path, size: int, seed: int) -> str:
    images = np.random.default_rng(seed).integers(0, 256, (size, 12, 12, 3), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(size) % 2)
    return str(path)


def write_noise(folder) -> dict[str, dict[str, str]]:
    """Return arguments of a data module: two training domains, one target and one test domain."""
    return {
        "train": {"a": noise(folder / "a.npz", 20, 0), "b": noise(folder / "b.npz", 12, 1)},
        "target": {"t": noise(folder / "t.npz", 8, 2)},
        "test": {"u": noise(folder / "u.npz", 8, 3)},
    }


def make_data(train=None, target=None, **options) -> ImageMixtureDataModule:
    data = ImageMixtureDataModule(train, target, **{"batch_size": 4, **PLAIN, **options})
    data.trainer = SimpleNamespace(
        distributed_sampler_kwargs={"rank": 0, "num_replicas": 1},
        _accelerator_connector=SimpleNamespace(use_distributed_sampler=False),
    )
    return data


def contents(data) -> list[tuple[int, int]]:
    """Return (grey value, label) of all samples of a data set."""
    rows = [data[number] for number in range(len(data))]
    return [(round(float(row["image"].mean()) * 255), row["label"]) for row in rows]


def refused(words: str, function, *arguments, **options) -> str:
    with pytest.raises(InputError) as caught:
        function(*arguments, **options)
    message = str(caught.value)
    assert words in message, message
    assert "\n" not in message
    return message


def setup_of(*arguments, **options):
    return lambda: make_data(*arguments, **options).setup("fit")


def write_dataset(place, order=("dog", "cat"), labels=(0, 1, 1), numbers=False, form="parquet"):
    import datasets

    names = datasets.Value("int64") if numbers else datasets.ClassLabel(names=list(order))
    columns = {
        "picture": [Image.fromarray(pixels(200 + n)) for n in range(len(labels))],
        "kind": list(labels),
    }
    features = datasets.Features({"picture": datasets.Image(), "kind": names})
    rows = datasets.Dataset.from_dict(columns, features=features)
    rows.to_parquet(str(place)) if form == "parquet" else rows.save_to_disk(str(place))
    return {"path": str(place), "image": "picture", "label": "kind"}


def write_table(folder, rows, header="path,label,domain") -> str:
    (folder / "images.csv").write_text("\n".join([header, *rows]) + "\n")
    return str(folder / "images.csv")
