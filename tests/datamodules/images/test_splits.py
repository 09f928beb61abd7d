import numpy as np
import pytest
from image_helpers import contents, make_data, refused, setup_of, write_dataset, write_folder

from tandem_pl.datamodules.images.splits import open_splits, split_by_class


def test_held_out_images_are_no_training_images(tmp_path) -> None:
    real = write_folder(tmp_path / "real", each=20)
    fake = write_folder(tmp_path / "fake", each=5, start=100)
    options = {"hold_out": ["real"], "target_fraction": 0.1, "test_fraction": 0.25}
    data = make_data({"real": real, "fake": fake}, **options)
    data.setup("fit")
    assert list(data.target_sets) == list(data.test_sets) == ["real"]
    parts = [data.train_sets["real"], data.target_sets["real"], data.test_sets["real"]]
    values = [[value for value, _ in contents(part)] for part in parts]
    assert sorted(value for part in values for value in part) == list(range(40))
    assert [len(part) for part in values] == [26, 4, 10]
    for part, each in zip(parts, (13, 2, 5), strict=True):
        assert [label for _, label in contents(part)] == [0] * each + [1] * each
    assert len(data.train_sets["fake"]) == 10
    again = make_data({"fake": fake, "real": real}, **options)
    again.setup("fit")
    assert contents(again.test_sets["real"]) == contents(parts[2])
    other = make_data({"real": real}, split_seed=1, **options)
    other.setup("fit")
    assert contents(other.test_sets["real"]) != contents(parts[2])
    with_target = make_data({"real": real}, {"fake": fake}, **options)
    with_target.setup("fit")
    assert list(with_target.target_sets) == ["fake"]
    assert len(with_target.train_sets["real"]) == 30
    assert data.summary()[0] == {
        "domain": "real", "train": 26, "target": 4, "test": 10, "share": 26 / 36,
        "classes": 2, "fewest": 13, "most": 13,
    }  # fmt: skip


@pytest.mark.parametrize("sizes", [(3, 50, 7), (10, 10, 10), (4, 4, 100)])
def test_every_class_is_in_every_part(sizes) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(3), sizes))
    parts = split_by_class(labels, {"target": 0.05, "test": 0.2}, 0, "train['a']", "abc")
    joined = np.concatenate(list(parts.values()))
    assert sorted(joined.tolist()) == list(range(len(labels)))
    for part in parts.values():
        assert set(labels[part].tolist()) == {0, 1, 2}
    assert np.bincount(labels[parts["test"]]).tolist() == [max(round(0.2 * n), 1) for n in sizes]


def test_too_few_to_hold_out(tmp_path) -> None:
    folder = write_folder(tmp_path / "a", each=2)
    refused("2 images of the class 'cat', too few", setup_of({"a": folder}, hold_out=["a"]))


def test_the_same_images_twice_are_refused(tmp_path) -> None:
    folder = write_folder(tmp_path / "a")
    twice = setup_of({"a": folder}, {"b": {"path": folder + "/"}})
    message = refused("target['b'] and train['a'] share images", twice)
    assert "hold_out: [a]" in message
    refused("test['b'] and train['a'] share", setup_of({"a": folder}, test={"b": folder}))
    other = write_folder(tmp_path / "b", start=20)
    (tmp_path / "link").symlink_to(other)
    both = setup_of({"a": folder}, {"t": other}, test={"u": str(tmp_path / "link")})
    message = refused("test['u'] and target['t'] share images", both)
    assert "hold_out" not in message


def test_what_is_held_out_of_one_domain_is_trained_on_in_no_other(tmp_path) -> None:
    folder = write_folder(tmp_path / "a", each=20)
    twice = {"a": folder, "b": f"{tmp_path}/./a"}
    make_data(twice).setup("fit")  # nothing is held out
    for name in twice:
        words = "train['b'] and train['a'] share images"
        refused(words, setup_of(twice, hold_out=[name]))


def test_globs_are_compared_by_their_files(tmp_path) -> None:
    write_dataset(tmp_path / "web.parquet")
    one = write_dataset(tmp_path / "web2.parquet")
    target = {**one, "path": str(tmp_path / "web.parquet")}
    for pattern in ("web*.parquet", "w?b.parquet", ""):
        train = {**one, "path": f"{tmp_path}/{pattern}"}
        refused("target['t'] and train['a'] share", setup_of({"a": train}, {"t": target}))
    specs = {"train": {"a": one}, "target": {"t": target}}
    assert list(open_splits(specs)["target"]) == ["t"]


def test_the_held_out_are_drawn_by_the_seed_and_not_in_a_row() -> None:
    labels = np.zeros(60, dtype=np.int64)
    drawn = [split_by_class(labels, {"test": 0.5}, seed, "a", "x")["test"] for seed in range(8)]
    for rows in drawn:
        neighbours = (np.diff(rows) == 1).sum() + (rows[0] == 0 and rows[-1] == 59)
        assert neighbours < 25  # 14 of 30 by chance, and 29 in a roll
    assert len({tuple(rows) for rows in drawn}) == 8
    two = split_by_class(np.repeat([0, 1], 60), {"test": 0.5}, 0, "a", "xy")["test"]
    assert two[:30].tolist() != (two[30:] - 60).tolist()  # classes apart
