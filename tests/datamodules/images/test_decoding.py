import numpy as np
import pytest
from image_helpers import make_data, refused, setup_of, write_folder, write_table
from PIL import Image

from tandem_pl.datamodules.images.decoding import read_image

# ---- orientation ----

ORIENTED = {1: [[0, 1], [2, 3]], 2: [[1, 0], [3, 2]], 3: [[3, 2], [1, 0]], 4: [[2, 3], [0, 1]]}
ORIENTED |= {5: [[0, 2], [1, 3]], 6: [[2, 0], [3, 1]], 7: [[3, 1], [2, 0]], 8: [[1, 3], [0, 2]]}


def write_turned(place, orientation: int | None) -> None:
    """Write four squares of the values 0, 50, 100, 150, in the order of rows."""
    image = Image.fromarray(np.kron([[0, 50], [100, 150]], np.ones((8, 8))).astype(np.uint8))
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    place.parent.mkdir(parents=True, exist_ok=True)
    options = {"lossless": True} if place.suffix == ".webp" else {}
    image.convert("RGB").save(place, exif=exif, **options)


def corners(image) -> list[list[int]]:
    values = np.asarray(image.convert("L"))[4::8, 4::8]
    return np.round(values / 50).astype(int).tolist()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", [None, *ORIENTED])
def test_images_are_turned_as_their_exif_orientation_says(tmp_path, suffix, orientation) -> None:
    write_turned(tmp_path / f"a.{suffix}", orientation)
    image = read_image(str(tmp_path / f"a.{suffix}"), "a", 3)
    assert corners(image) == ORIENTED[orientation or 1]


@pytest.mark.parametrize("source", ["folder", "table", "parquet", "folder of parquet", "saved"])
def test_every_source_turns_images(tmp_path, source) -> None:
    import datasets

    write_turned(tmp_path / "a" / "cat" / "x.jpg", 6)
    write_turned(tmp_path / "a" / "dog" / "y.jpg", 1)
    files = [str(tmp_path / "a" / name) for name in ("cat/x.jpg", "dog/y.jpg")]
    rows = datasets.Dataset.from_dict({"image": files, "label": ["cat", "dog"]})
    rows = rows.cast_column("image", datasets.Image())
    options: dict = {"train": {"a": str(tmp_path / "a")}}
    if source == "table":
        options = {
            "table": write_table(tmp_path, [f"{file},{n},a" for n, file in enumerate(files)])
        }
    elif "parquet" in source:
        (tmp_path / "web").mkdir()
        rows.to_parquet(str(tmp_path / "web" / "rows.parquet"))
        place = tmp_path / "web" if "folder" in source else tmp_path / "web" / "rows.parquet"
        options = {"train": {"a": str(place)}}
    elif source == "saved":
        rows.save_to_disk(str(tmp_path / "saved"))
        options = {"train": {"a": {"dataset": str(tmp_path / "saved")}}}
    data = make_data(**options)
    data.setup("fit")
    found = [corners(data.train_sets["a"].image(number)) for number in range(2)]
    assert found == [ORIENTED[6], ORIENTED[1]]


# ---- channels ----


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "CMYK", "LA", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_modes_are_converted_or_refused(tmp_path, mode, channels) -> None:
    path = str(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"))
    if mode == "I;16":
        Image.fromarray(np.full((8, 8), 255 * 257, dtype=np.uint16)).save(path)
    else:
        Image.new("RGB", (8, 8), "white").convert(mode).save(path)
    image = read_image(path, path, channels)
    assert image.mode == {1: "L", 3: "RGB"}[channels]
    assert np.asarray(image).min() == 255
    same = (mode in ("L", "I;16") and channels == 1) or (mode, channels) == ("RGB", 3)
    if same:
        assert read_image(path, path, channels, convert=False).mode == image.mode
    else:
        refused(f"and channels={channels} needs", read_image, path, path, channels, convert=False)


def test_sixteen_bits_are_scaled_and_32_refused(tmp_path) -> None:
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    Image.fromarray(values).save(tmp_path / "a.png")
    found = np.asarray(read_image(str(tmp_path / "a.png"), "a.png", 1))
    assert np.array_equal(found, values // 256)
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "b.tif")
    refused("pixels of 32 bits", read_image, str(tmp_path / "b.tif"), "b.tif", 1)


def test_wrong_channels_are_met_before_the_start(tmp_path) -> None:
    folder = write_folder(tmp_path / "a")
    refused("set convert to true", setup_of({"a": folder}, channels=1, convert=False))
