import pickle

import numpy as np
import pytest
import torch
from image_helpers import (
    PETS,
    contents,
    make_data,
    pixels,
    refused,
    setup_of,
    write_arrays,
    write_dataset,
    write_folder,
    write_table,
)
from PIL import Image

from tandem_pl.datamodules import ImageMixtureDataModule
from tandem_pl.datamodules.images.sources import DatasetImages

# ---- sources ----


def test_a_folder_a_subfolder_for_each_class(tmp_path) -> None:
    write_folder(tmp_path / "pets")
    (tmp_path / "pets" / "cat" / "deep").mkdir()
    Image.fromarray(pixels(50)).save(tmp_path / "pets" / "cat" / "deep" / "x.jpg")
    for name in (".hidden.png", "notes.txt", "thumbs.db"):
        (tmp_path / "pets" / "cat" / name).write_bytes(b"no image")
    (tmp_path / "pets" / ".cache").mkdir()
    (tmp_path / "pets" / "readme.txt").touch()
    data = make_data({"pets": str(tmp_path / "pets")})
    data.setup("fit")
    assert data.classes == ["cat", "dog"]
    assert data.num_classes == 2
    found = contents(data.train_sets["pets"])
    assert found == [*((n, 0) for n in range(6)), (50, 0), *((n, 1) for n in range(6, 12))]
    sample = data.train_sets["pets"][0]
    assert sample["image"].shape == (3, 8, 8)
    assert sample["image"].dtype == torch.float32


def test_links_in_a_folder_are_followed_and_loops_broken(tmp_path) -> None:
    write_folder(tmp_path / "pets")
    write_folder(tmp_path / "more", classes=["tabby"], start=20)
    (tmp_path / "pets" / "cat" / "more").symlink_to(tmp_path / "more" / "tabby")
    (tmp_path / "pets" / "cat" / "loop").symlink_to(tmp_path / "pets" / "cat")
    (tmp_path / "more" / "tabby" / "up").symlink_to(tmp_path / "pets" / "cat")
    data = make_data({"pets": str(tmp_path / "pets")})
    data.setup("fit")
    values = [(n, 0) for n in [*range(6), *range(20, 26)]]
    assert contents(data.train_sets["pets"]) == [*values, *((n, 1) for n in range(6, 12))]


def test_folders_named_by_numbers_are_in_their_order(tmp_path) -> None:
    data = make_data({"a": write_folder(tmp_path / "a", map(str, range(11)), each=1)})
    assert data.classes == [str(n) for n in range(11)]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("shape", ["grey", "colour", "fortran"])
def test_arrays(tmp_path, save, shape) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    images = images[..., 0] if shape == "grey" else images
    images = np.asfortranarray(images) if shape == "fortran" else images
    save(tmp_path / "a.npz", images=images, labels=np.array([1, 0, 1, 0, 1], dtype=np.uint8))
    data = make_data({"a": str(tmp_path / "a.npz")}, channels=1 if shape == "grey" else 3)
    data.setup("fit")
    rows = data.train_sets["a"]
    for number, label in enumerate((1, 0, 1, 0, 1)):
        found = torch.round(rows[number]["image"] * 255).to(torch.uint8).numpy()
        expected = images[number][..., None] if shape == "grey" else images[number]
        assert np.array_equal(found, np.moveaxis(expected, -1, 0))
        assert rows[number]["label"] == label
    mapped = isinstance(rows.source.images, np.memmap)
    assert mapped == (save is np.savez)
    copy = pickle.loads(pickle.dumps(rows))  # noqa: S301
    assert torch.equal(copy[3]["image"], rows[3]["image"])
    if mapped:  # a worker's copy maps the file again
        images = np.zeros((100, 64, 64, 3), np.uint8)
        np.savez(tmp_path / "b.npz", images=images, labels=np.arange(100) % 2)
        big = make_data({"b": str(tmp_path / "b.npz")})
        big.setup("fit")
        assert len(pickle.dumps(big.train_sets["b"].source)) < 20_000


def test_class_names_of_arrays_may_be_bytes(tmp_path) -> None:
    named = write_arrays(tmp_path / "a.npz", [0, 1], classes=np.array([b"dog", b"cat"]))
    assert make_data({"a": named}).classes == ["dog", "cat"]


def test_the_stamp_of_a_data_set_is_of_its_column(tmp_path) -> None:
    import datasets

    image = Image.fromarray(pixels(1))
    columns = {"one": [image], "two": [image], "label": ["cat"]}
    data = datasets.Dataset.from_dict(columns)
    one, two, again = (
        DatasetImages("a", data, "name", "stamp", column, "label")
        for column in ("one", "two", "one")
    )
    assert one.stamp() == again.stamp() != two.stamp()


@pytest.mark.parametrize("form", ["parquet", "folder of parquet", "saved"])
def test_data_sets_have_their_classes_in_another_order(tmp_path, monkeypatch, form) -> None:
    import datasets

    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "web").mkdir()
    if form == "saved":
        web = write_dataset(tmp_path / "saved", form=form)
    else:
        web = write_dataset(tmp_path / "web" / "rows.parquet")
        web["path"] = str(tmp_path / "web") if form.startswith("folder") else web["path"]
    data = make_data({"pets": write_folder(tmp_path / "pets"), "web": web})
    data.setup("fit")
    assert data.classes == ["cat", "dog"]
    assert contents(data.train_sets["web"]) == [(200, 1), (201, 0), (202, 0)]


# ---- folders of Parquet ----


def write_parquet(place, labels=(0, 1), start: int = 0) -> None:
    import datasets

    place.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "image": [Image.fromarray(pixels(start + n)) for n in range(len(labels))],
        "label": list(labels),
    }
    names = datasets.ClassLabel(names=["cat", "dog"])
    features = datasets.Features({"image": datasets.Image(), "label": names})
    datasets.Dataset.from_dict(columns, features=features).to_parquet(str(place))


def test_a_folder_of_parquet_is_read_with_all_files_and_levels(tmp_path, monkeypatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    web = tmp_path / "web [2024]"
    for start, name in ((0, "a.parquet"), (2, "b.pq"), (4, "deep/c.PARQUET"), (6, "deep/er/d.pq")):
        write_parquet(web / name, start=start)
    (web / "README.md").write_text("rows")
    (web / ".old").mkdir()
    write_parquet(web / ".old" / "x.parquet", start=90)
    (web / "loop").symlink_to(web)
    data = make_data({"web": str(web)})
    data.setup("fit")
    assert contents(data.train_sets["web"]) == [(n, n % 2) for n in range(8)]
    one = setup_of({"web": str(web)}, {"t": str(web / "deep" / "er" / "d.pq")})
    refused("target['t'] and train['web'] share images", one)
    for key in ("config", "split"):
        spec = {"path": str(web), key: "train"}
        words = f"train['web'] is a folder of Parquet files: leave {key} out"
        refused(words, setup_of({"web": spec}))


def test_a_folder_of_parquet_and_images_or_of_several_splits_is_refused(tmp_path) -> None:
    write_parquet(tmp_path / "a" / "data" / "train-00000-of-00001.parquet")
    write_parquet(tmp_path / "a" / "data" / "more-test.parquet")
    make_data({"a": str(tmp_path / "a")}).setup("fit")
    write_parquet(tmp_path / "a" / "data" / "validation-00000-of-00001.parquet")
    words = (
        "whose Parquet files are of several splits (data/train-00000-of-00001.parquet, "
        "data/validation-00000-of-00001.parquet): give those of one"
    )
    message = refused(words, setup_of({"a": str(tmp_path / "a")}))
    pattern = str(tmp_path / "a" / "**" / "train*.parquet")
    assert repr(pattern) in message
    data = make_data({"a": pattern})
    data.setup("fit")
    assert len(data.train_sets["a"]) == 2
    write_folder(tmp_path / "b")
    write_parquet(tmp_path / "b" / "dog" / "rows.parquet")
    words = "with Parquet files (dog/rows.parquet) and images ("
    refused(words, setup_of({"b": str(tmp_path / "b")}))


# ---- data sets by name, tables ----


def test_a_hub_name_alone_reaches_for_the_hub(tmp_path, monkeypatch) -> None:
    import datasets

    def load(name, config, split):
        assert (name, config, split) == ("someone/pets", None, "train")
        rows = {"image": [Image.fromarray(pixels(n)) for n in (1, 2)], "label": ["cat", "dog"]}
        return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())

    monkeypatch.setattr(datasets, "load_dataset", load)
    data = make_data({"web": {"dataset": "someone/pets", "split": "train"}})
    data.setup("fit")
    assert contents(data.train_sets["web"]) == [(1, 0), (2, 1)]
    refused("which is no folder", setup_of({"web": "someone/pets"}))


def test_a_table_fills_many_domains(tmp_path) -> None:
    write_folder(tmp_path / "a")
    rows = []
    for pet in PETS:
        rows += [f"a/{pet}/00{n}.png,{pet},{('even', 'odd')[n % 2]},train" for n in range(4)]
        rows += [f"a/{pet}/004.png,{pet},held,target", f"a/{pet}/005.png,{pet},held,test"]
    table = write_table(tmp_path, rows, "path,label,domain,split")
    data = make_data(table=table)
    data.setup("fit")
    assert list(data.train_sets) == ["even", "odd"]
    assert contents(data.train_sets["odd"]) == [(1, 0), (3, 0), (7, 1), (9, 1)]
    assert contents(data.target_sets["held"]) == [(4, 0), (10, 1)]
    assert contents(data.test_sets["held"]) == [(5, 0), (11, 1)]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    table = write_table(elsewhere, [row[: -len(",train")] for row in rows if row.endswith("train")])
    data = make_data(table=table, root=str(tmp_path))
    data.setup("fit")
    assert contents(data.train_sets["even"]) == [(0, 0), (2, 0), (6, 1), (8, 1)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_names_in_a_table_are_as_in_the_file(encoding, suffix, tmp_path) -> None:
    folder = tmp_path / "photos [2024]"
    write_folder(folder)
    domains = ["007", "7", "NA", "None", '"stray' if suffix == "tsv" else "x"]
    rows = [
        f"photos [2024]/{pet}/00{n}.png,{pet},{name}"
        for n, name in enumerate(domains)
        for pet in PETS
    ]
    table = tmp_path / f"images.{suffix}"
    text = "\n".join(["path,label,domain", *rows]).replace(",", "," if suffix == "csv" else "\t")
    table.write_bytes(text.encode(encoding))
    data = make_data(table=str(table))
    data.setup("fit")
    assert sorted(data.train_sets) == sorted(domains)
    for n, name in enumerate(domains):
        assert contents(data.train_sets[name]) == [(n, 0), (6 + n, 1)]


# ---- bad input ----


def test_bad_settings(tmp_path) -> None:
    folder = write_folder(tmp_path / "a")
    both = {"train": {"a": folder}, "table": "b.csv"}
    for options, words in (
        ({}, "not neither"),
        (both, "not both"),
        ({"table": "a.csv", "target": {"a": folder}}, "column split"),
        ({"train": {"a": folder}, "root": "x"}, "root='x'"),
        ({"train": {"a": folder}, "corrupt": "keep"}, "corrupt='keep'"),
        ({"train": {"a": folder}, "target_fraction": 1.0}, "target_fraction=1.0"),
        ({"train": {"a": folder}, "split_seed": -1}, "split_seed=-1"),
        ({"train": {"a": folder}, "image_size": 2}, "image_size=2"),
        ({"train": {"a": folder}, "auto_augment": "best"}, "auto_augment='best'"),
        ({"train": {"a": folder}, "mixup": -1}, "mixup=-1"),
    ):
        refused(words, ImageMixtureDataModule, **options)
    refused("hold_out names 'b'", setup_of({"a": folder}, hold_out=["b"]))
    all_given = {"target": {"b": folder + "2"}, "test": {"c": folder + "3"}}
    write_folder(tmp_path / "a2")
    write_folder(tmp_path / "a3")
    refused("nothing to do", setup_of({"a": folder}, hold_out=["a"], **all_given))


def test_bad_sources(tmp_path) -> None:
    (tmp_path / "flat").mkdir()
    Image.fromarray(pixels(1)).save(tmp_path / "flat" / "a.png")
    write_folder(tmp_path / "splits" / "train")
    write_folder(tmp_path / "splits" / "val")
    write_folder(tmp_path / "hollow")
    (tmp_path / "hollow" / "fox").mkdir()
    write_folder(tmp_path / "single", ["cat"])
    (tmp_path / "text.npz").write_text("hello")
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    write_arrays(tmp_path / "name.npz", [0, 0], classes="cat")
    np.savez(tmp_path / "no.npz", x=np.zeros(3))
    np.savez(tmp_path / "float.npz", images=np.zeros((2, 8, 8)), labels=np.array([0, 1]))
    np.savez(
        tmp_path / "wide.npz", images=np.zeros((2, 8, 8, 2), np.uint8), labels=np.array([0, 1])
    )
    np.savez(tmp_path / "short.npz", images=np.zeros((2, 8, 8), np.uint8), labels=np.array([0]))
    minus = write_arrays(tmp_path / "minus.npz", [0, -1, 1])
    beyond = write_arrays(tmp_path / "beyond.npz", [0, 2], classes=["a", "b"])
    for source, words in (
        (tmp_path / "flat", "has no subfolder"),
        (tmp_path / "splits", "look like splits and not classes"),
        (tmp_path / "hollow", "no image of the class 'fox'"),
        (tmp_path / "single", "has 1 class ('cat')"),
        (tmp_path / "gone", "which is no folder, .npz or Parquet file"),
        (tmp_path / "gone.npz", "cannot be read (No such file or directory)"),
        (tmp_path / "text.npz", "cannot be read"),
        (tmp_path / "one.npz", "cannot be read (it is one array, as np.save writes it)"),
        (tmp_path / "name.npz", "has 1 class ('cat')"),
        (tmp_path / "no.npz", "has no array 'images' (its arrays are 'x')"),
        (tmp_path / "float.npz", "images are float64 of shape (2, 8, 8)"),
        (tmp_path / "wide.npz", "with 1, 3 or 4 channels"),
        (tmp_path / "short.npz", "for 2 images"),
        (minus, "image 1 has the label -1, outside 0 to 1"),
        (beyond, "image 1 has the label 2, outside 0 to 1"),
    ):
        refused(words, setup_of({"a": str(source)}))
    refused("unknown key 'columns'", setup_of({"a": {"path": "x", "columns": 1}}))
    refused("needs one of path and dataset", setup_of({"a": {"image": "x"}}))
    refused("which takes no image", setup_of({"a": {"path": minus, "image": "x"}}))


def test_bad_data_sets(tmp_path, monkeypatch) -> None:
    import datasets

    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    good = write_dataset(tmp_path / "a", form="saved")
    refused("has no column 'label'", setup_of({"a": {**good, "label": "label"}}))
    refused("column 'kind' has no images", setup_of({"a": {**good, "image": "kind"}}))
    refused("are class numbers or names", setup_of({"a": {**good, "label": "picture"}}))
    unknown = write_dataset(tmp_path / "c", labels=[0, -1, 1], form="saved")
    refused("row 2 has the label -1, outside 0 to 1", setup_of({"a": unknown}))
    bad = write_dataset(tmp_path / "b", labels=[0, 7, 1], numbers=True, form="saved")
    message = refused("row 2 has the label 7, outside 0 to 1", setup_of({"b": bad}, classes=2))
    assert str(tmp_path / "b") in message


def test_bad_tables(tmp_path) -> None:
    write_folder(tmp_path / "a", each=1)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "link.png").symlink_to(tmp_path / "a" / "cat" / "000.png")
    cat, dog = "a/cat/000.png,cat,x", "a/dog/000.png,dog,x"
    header = "path,label,domain,split"
    for rows, words in (
        (([cat, "a/gone.png,dog,x"], "path,label,domain"), "line 3: "),
        (([cat, dog], "file,label,domain"), "has no column 'path'"),
        (([cat, "a/dog/000.png,,x"], "path,label,domain"), "line 3: label is empty"),
        (([cat, dog, cat], "path,label,domain"), f"4: both name '{tmp_path}/a/cat/000.png'"),
        (([cat, dog, "a/../a/cat/000.png,cat,y"], "path,label,domain"), "lines 2 and 4"),
        (([cat, dog, f"{tmp_path}/a/cat/000.png,cat,y"], "path,label,domain"), "lines 2 and 4"),
        (([cat, dog, "link/cat/000.png,cat,y"], "path,label,domain"), "lines 2 and 4"),
        (([cat, dog, "link.png,cat,y"], "path,label,domain"), "lines 2 and 4"),
        (([f"{cat},train", f"{dog},dev"], header), "split 'dev' is unknown"),
        (([], header), "has no row"),
    ):
        refused(words, setup_of(table=write_table(tmp_path, *rows)))
    refused("is no .csv or .tsv file", setup_of(table=str(tmp_path / "gone.csv")))
