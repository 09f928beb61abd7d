"""Images with the content of held-out images are found whatever their names are, and left out."""

import shutil
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from image_helpers import contents, make_data, noise, pixels, refused, setup_of, write_folder
from PIL import Image

from tandem_pl.datamodules.images.copies import find_copies
from tandem_pl.datamodules.images.sources import open_source


def said(data) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data.setup("fit")
    return [str(warning.message) for warning in caught]


def copy(source: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, place)


@pytest.mark.parametrize("split", ["target", "test"])
def test_copies_of_held_out_images_are_not_trained_on(tmp_path, split) -> None:
    train = write_folder(tmp_path / "a")
    held = write_folder(tmp_path / "t", start=100)
    copy(tmp_path / "t" / "cat" / "002.png", tmp_path / "a" / "cat" / "another name.png")
    copy(tmp_path / "t" / "dog" / "001.png", tmp_path / "a" / "dog" / "deep" / "x.PNG")
    options = {split: {"t": held}, "cache_dir": str(tmp_path / "cache")}
    data = make_data({"a": train}, **options)
    (message,) = said(data)
    assert message == (
        "train['a']: 2 of 14 images are copies of held-out images and are not trained on; the "
        f"first: {tmp_path}/a/cat/another name.png is a copy of {tmp_path}/t/cat/002.png"
    )
    kept = [(n, int(n >= 6)) for n in range(12)]
    assert contents(data.train_sets["a"]) == kept
    assert len(getattr(data, f"{split}_sets")["t"]) == 12
    assert said(make_data({"a": train}, **options)) == [message]  # from the cache
    (tmp_path / "a" / "dog" / "deep" / "x.PNG").unlink()
    (message,) = said(make_data({"a": train}, **options))
    assert "1 of 13 images" in message


def test_copies_of_test_images_are_no_target(tmp_path) -> None:
    folders = {name: write_folder(tmp_path / name, start=20 * n) for n, name in enumerate("atu")}
    copy(tmp_path / "u" / "dog" / "000.png", tmp_path / "t" / "dog" / "again.png")
    data = make_data({"a": folders["a"]}, {"t": folders["t"]}, test={"u": folders["u"]})
    (message,) = said(data)
    assert "target['t']: 1 of 13 images are copies of held-out images and are left out" in message
    assert [len(data.target_sets["t"]), len(data.test_sets["u"])] == [12, 12]


def test_a_copy_of_what_is_held_out_of_the_domain_itself(tmp_path) -> None:
    folder = write_folder(tmp_path / "a", each=10)
    for name in ("cat", "dog"):
        for number in range(10):
            copy(
                tmp_path / "a" / name / f"{number:03}.png", tmp_path / "b" / name / f"{number}.png"
            )
    both = {"a": folder, "b": str(tmp_path / "b")}
    data = make_data(both, hold_out=["a"], target_fraction=0.2, test_fraction=0.1)
    (message,) = said(data)
    assert "train['b']: 6 of 20 images are copies" in message
    trained = {value for name in both for value, _ in contents(data.train_sets[name])}
    held = [*contents(data.target_sets["a"]), *contents(data.test_sets["a"])]
    assert trained | {value for value, _ in held} == set(range(20))
    assert not trained & {value for value, _ in held}
    shutil.copytree(tmp_path / "b" / "cat", tmp_path / "a" / "cat" / "again")
    data = make_data({"a": folder}, hold_out=["a"], target_fraction=0.2, test_fraction=0.2)
    said(data)
    trained = {value for value, _ in contents(data.train_sets["a"])}
    assert not trained & {v for v, _ in contents(data.test_sets["a"])}
    assert not trained & {v for v, _ in contents(data.target_sets["a"])}


def test_a_domain_of_copies_alone_is_refused(tmp_path) -> None:
    train = write_folder(tmp_path / "a")
    shutil.copytree(train, tmp_path / "t")
    words = "train['a']: all 12 images are copies of held-out images"
    refused(words, setup_of({"a": train}, {"t": str(tmp_path / "t")}))


def test_arrays_are_compared_by_pixels(tmp_path) -> None:
    one, two = noise(tmp_path / "a.npz", 20, 0), noise(tmp_path / "t.npz", 6, 1)
    images = np.load(one)["images"].copy()
    images[[3, 7]] = np.load(two)["images"][[5, 0]]
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(20) % 2)
    data = make_data({"a": one}, {"t": two})
    assert "2 of 20 images" in said(data)[0]
    assert data.train_sets["a"].rows.tolist() == [n for n in range(20) if n not in (3, 7)]
    assert data.train_sets["a"].labels.tolist() == [n % 2 for n in range(20) if n not in (3, 7)]


@pytest.mark.parametrize("form", ["image", "bytes", "paths"])
def test_rows_of_data_sets_are_compared_with_files(tmp_path, form) -> None:
    import datasets

    write_folder(tmp_path / "t", start=100)
    files = sorted((tmp_path / "t").glob("*/*.png"))
    encoded = []
    for number in (1, 2):
        with BytesIO() as buffer:
            Image.fromarray(pixels(number)).save(buffer, "PNG")
            encoded.append(buffer.getvalue())
    encoded.insert(1, files[4].read_bytes())
    feature = datasets.Value("binary") if form == "bytes" else datasets.Image()
    values: list = encoded
    if form == "paths":
        for number, content in enumerate(encoded):
            (tmp_path / f"{number}.png").write_bytes(content)
        values = [{"path": str(tmp_path / f"{n}.png"), "bytes": None} for n in range(3)]
    rows = datasets.Dataset.from_dict(
        {"image": values, "label": ["cat", "dog", "dog"]},
        features=datasets.Features({"image": feature, "label": datasets.Value("string")}),
    )
    rows.save_to_disk(str(tmp_path / "a"))
    data = make_data({"a": {"dataset": str(tmp_path / "a")}}, {"t": str(tmp_path / "t")})
    (message,) = said(data)
    assert message.endswith(f"row 2 is a copy of {files[4]}")
    assert contents(data.train_sets["a"]) == [(1, 0), (2, 1)]


def test_equal_sizes_and_ends_are_no_copies(tmp_path) -> None:
    """Pictures without compression that differ at their first pixels alone."""
    for place, value in (("a", 1), ("t", 2)):
        (tmp_path / place / "cat").mkdir(parents=True)
        image = np.zeros((64, 64, 3), np.uint8)
        image[-1, 0] = value  # a BMP begins with the last row
        Image.fromarray(image).save(tmp_path / place / "cat" / "x.bmp")
        np.savez(tmp_path / f"{place}.npz", images=image[None, ::-1], labels=np.zeros(1, int))
    for suffix in ("", ".npz"):
        a, t = (open_source(place, str(tmp_path / f"{place}{suffix}")) for place in "at")
        one = np.zeros(1, np.int64)
        assert find_copies([(t, one)], [(a, one)], 2, tmp_path / "cache") == [[]]
        assert find_copies([(a, one)], [(t, one), (a, one)], 2, tmp_path) == [[], [(0, 0, 0)]]


def test_an_image_that_is_gone_is_no_copy(tmp_path) -> None:
    a, t = (open_source(name, write_folder(tmp_path / name, start=9)) for name in "at")
    for source in (a, t):
        Path(source.place(3)).unlink()
    rows = np.arange(12)
    (copies,) = find_copies([(t, rows)], [(a, rows)], 1, tmp_path / "cache")
    assert [number for number, _, _ in copies] == [n for n in range(12) if n != 3]
