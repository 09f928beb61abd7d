import pytest
from image_helpers import contents, make_data, refused, setup_of, write_arrays, write_folder


def test_classes_that_differ_are_refused_with_what_differs(tmp_path) -> None:
    one = write_folder(tmp_path / "one", ("cat", "dog", "fox"))
    two = write_folder(tmp_path / "two", ("cat", "dog", "owl"))
    message = refused("target['two']", setup_of({"one": one}, {"two": two}))
    assert "has the classes 'owl' beyond" in message
    assert "lacks the classes 'fox' of train['one']" in message


def test_given_classes_allow_some_of_them(tmp_path) -> None:
    one = write_folder(tmp_path / "one", ("dog", "cat"))
    two = write_folder(tmp_path / "two", ("fox", "dog"), each=2)
    numbers = write_arrays(tmp_path / "n.npz", [2, 0])
    (tmp_path / "two" / "cat").mkdir()  # empty
    data = make_data({"one": one, "two": two, "n": numbers}, classes=["dog", "fox", "cat"])
    data.setup("fit")
    assert [label for _, label in contents(data.train_sets["one"])] == [2] * 6 + [0] * 6
    assert sorted(label for _, label in contents(data.train_sets["two"])) == [0, 0, 1, 1]
    assert [label for _, label in contents(data.train_sets["n"])] == [2, 0]
    refused(
        "train['two'] has the classes 'fox'",
        setup_of({"one": one, "two": two}, classes=["dog", "cat"]),
    )


def test_numbers_without_names(tmp_path) -> None:
    one = write_arrays(tmp_path / "one.npz", [0, 1, 2])
    two = write_arrays(tmp_path / "two.npz", [0, 2, 0])
    named = write_folder(tmp_path / "named")
    refused("lacks the classes '1'", setup_of({"one": one, "two": two}))
    assert make_data({"one": one, "two": two}, classes=4).num_classes == 4
    refused("has the label 2, outside 0 to 1", setup_of({"one": one}, classes=2))
    refused("are numbers and those of train['named'] names", setup_of({"named": named, "two": two}))
    digits = write_folder(tmp_path / "digits", "102")
    assert make_data({"digits": digits, "one": one}).classes == ["0", "1", "2"]
    with_names = write_arrays(tmp_path / "c.npz", [0, 1], classes=["dog", "cat"])
    assert make_data({"c": with_names, "named": named}).classes == ["dog", "cat"]


@pytest.mark.parametrize(
    ("classes", "words"),
    [(["a", "a"], "'a' twice"), (["a"], "at least 2"), (1, "at least 2")],
)
def test_bad_classes(tmp_path, classes, words) -> None:
    refused(words, setup_of({"a": write_folder(tmp_path / "a")}, classes=classes))


def test_an_npz_names_every_class_once(tmp_path) -> None:
    twice = write_arrays(tmp_path / "a.npz", [0, 1, 2], classes=["cat", "dog", "cat"])
    for classes in (None, ["dog", "cat"]):
        refused("train['a'] has the class 'cat' twice", setup_of({"a": twice}, classes=classes))
