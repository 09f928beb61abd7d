import os
import warnings

import pytest
import torch
from helpers import quiet_trainer
from image_helpers import (
    PLAIN,
    contents,
    make_data,
    noise,
    refused,
    setup_of,
    write_folder,
    write_noise,
)
from torch import nn

from tandem_pl import InputError, MixtureModule
from tandem_pl.datamodules import ImageMixtureDataModule
from tandem_pl.datamodules.images.decoding import UnreadableImageError
from tandem_pl.objectives import Classification

# ---- corrupt images ----


def broken_folder(tmp_path) -> str:
    folder = write_folder(tmp_path / "a", suffix="jpg")
    whole = (tmp_path / "a" / "dog" / "003.jpg").read_bytes()
    (tmp_path / "a" / "dog" / "003.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "a" / "dog" / "001.jpg").write_bytes(b"")
    (tmp_path / "a" / "cat" / "002.jpg").write_text("not an image at all")
    return folder


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_is_one_sentence_also_from_a_worker(tmp_path, workers) -> None:
    data = make_data({"a": broken_folder(tmp_path)}, num_workers=workers)
    data.setup("fit")
    with pytest.raises(UnreadableImageError) as caught:
        list(data.train_dataloader())
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "a"))
    assert "cannot be decoded" in message
    assert "\n" not in message


@pytest.mark.parametrize("split", ["train", "target", "test"])
def test_broken_images_are_reported_before_training(tmp_path, split) -> None:
    broken = broken_folder(tmp_path)
    others = {
        name: {name: write_folder(tmp_path / name, start=40 * n)}
        for n, name in enumerate(("train", "target", "test"), 1)
    }
    data = make_data(**{**others, split: {"x": broken}}, cache_dir=str(tmp_path / "cache"))
    for _ in range(2):
        message = refused(
            f"{split}['x']: 3 of 12 images cannot be used; the first: ", data.prepare_data
        )
        assert f"{tmp_path}/a/cat/002.jpg cannot be decoded (it is no image" in message
    for name in ("cat/002", "dog/001"):
        (tmp_path / "a" / f"{name}.jpg").unlink()
    data = make_data(**{**others, split: {"x": broken}}, cache_dir=str(tmp_path / "cache"))
    message = refused("cannot be decoded", data.prepare_data)
    assert message.startswith(f"{tmp_path}/a/dog/003.jpg cannot")
    (tmp_path / "a" / "dog" / "003.jpg").unlink()
    make_data(**{**others, split: {"x": broken}}).prepare_data()


def test_skipping_looks_once_and_remembers(tmp_path, monkeypatch) -> None:
    folder = broken_folder(tmp_path)
    options = {"corrupt": "skip", "cache_dir": str(tmp_path / "cache"), "num_workers": 2}

    def run() -> list:
        data = make_data({"a": folder}, **options)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            data.prepare_data()
            data.setup("fit")
        return [len(data.train_sets["a"]), *(str(warning.message) for warning in caught)]

    first = run()
    assert first[0] == 9
    (warning,) = first[1:]
    assert "train['a']: 3 of 12 images were left out" in warning
    assert f"{tmp_path / 'a' / 'cat' / '002.jpg'} cannot be decoded (it is no image" in warning
    looks = []
    monkeypatch.setattr(
        "tandem_pl.datamodules.images.readable._decode_all", lambda *_: looks.append(1) or []
    )
    assert run() == first
    assert not looks
    os.utime(tmp_path / "a" / "cat" / "000.jpg", ns=(1, 1))
    run()
    assert looks == [1]


@pytest.mark.filterwarnings("ignore:train")
def test_what_is_left_after_skipping_has_its_own_label(tmp_path) -> None:
    folder = write_folder(tmp_path / "a", each=10)
    for name in ("cat/002", "cat/003", "cat/004", "dog/001"):
        (tmp_path / "a" / f"{name}.png").write_text("no image")
    options = {"corrupt": "skip", "cache_dir": str(tmp_path / "cache")}
    whole = [(value, int(value >= 10)) for value in range(20) if value not in (2, 3, 4, 11)]
    data = make_data({"a": folder}, **options)
    data.setup("fit")
    assert contents(data.train_sets["a"]) == whole
    data = make_data({"a": folder}, hold_out=["a"], test_fraction=0.4, **options)
    data.setup("fit")
    parts = [data.train_sets["a"], data.target_sets["a"], data.test_sets["a"]]
    found = [contents(part) for part in parts]
    assert sorted(pair for pairs in found for pair in pairs) == whole
    for pairs, each in zip(found, ([3, 4], [1, 1], [3, 4]), strict=True):
        assert [[label for _, label in pairs].count(label) for label in (0, 1)] == each


@pytest.mark.filterwarnings("ignore:train")
def test_nothing_is_held_out_of_a_domain_without_a_good_image(tmp_path) -> None:
    folder = write_folder(tmp_path / "a", each=2)
    for path in (tmp_path / "a").glob("*/*.png"):
        path.write_text("no image")
    options = {"corrupt": "skip", "cache_dir": str(tmp_path / "cache"), "hold_out": ["a"]}
    refused("train['a'] has no image that can be used", setup_of({"a": folder}, **options))


# ---- checkpoints ----


def test_a_checkpoint_of_other_images_is_refused(tmp_path) -> None:
    sources = write_noise(tmp_path)
    data = make_data(**sources)
    data.setup("fit")
    state = data.state_dict()
    noise(tmp_path / "a.npz", 20, 5)  # the same labels: as many images, which nobody can tell
    same = make_data(**sources)
    same.setup("fit")
    same.load_state_dict(state)
    named = make_data(**sources, classes=["x", "y"])
    named.setup("fit")
    refused("classes='0, 1' and this run has classes='x, y'", named.load_state_dict, state)
    folder = {"f": write_folder(tmp_path / "f", each=10)}
    data = make_data(folder)
    data.setup("fit")
    state = data.state_dict()
    os.rename(tmp_path / "f" / "cat" / "000.png", tmp_path / "f" / "cat" / "x.png")
    renamed = make_data(folder)
    renamed.setup("fit")
    refused("images=", renamed.load_state_dict, state)
    targets = write_folder(tmp_path / "t", each=2, start=50)
    data = make_data(folder, {"t": targets})
    data.setup("fit")
    state = data.state_dict()
    os.rename(tmp_path / "t" / "dog" / "000.png", tmp_path / "t" / "dog" / "x.png")
    renamed = make_data(folder, {"t": targets})
    renamed.setup("fit")
    refused("images=", renamed.load_state_dict, state)


def test_what_was_trained_on_is_not_tested_on(tmp_path) -> None:
    folder = write_folder(tmp_path / "a", each=10)

    def start(stage, **options):
        settings = {"hold_out": ["a"], "test_fraction": 0.3, **options}
        data = make_data({"a": folder}, **settings)
        data.setup(stage)
        return data

    fitted = start("fit")
    state = fitted.state_dict()
    tested = start("test")
    tested.load_state_dict(state)
    assert not {*contents(tested.test_sets["a"])} & {*contents(fitted.train_sets["a"])}
    words = "the checkpoint was made of other images or another split"
    for options in ({"split_seed": 1}, {"test_fraction": 0.2}, {"target_fraction": 0.2}):
        for stage in ("test", "validate"):
            refused(words, start(stage, **options).load_state_dict, state)
    refused("images=", start("fit", split_seed=1).load_state_dict, state)
    own = write_folder(tmp_path / "own", each=2, start=50)
    start("test", hold_out=None, test={"own": own}).load_state_dict(state)
    write_folder(tmp_path / "more", ["cat"], each=1)
    os.rename(tmp_path / "more" / "cat" / "000.png", tmp_path / "a" / "cat" / "more.png")
    refused(words, start("test").load_state_dict, state)


def test_the_trainer_refuses_to_test_on_another_split(tmp_path) -> None:
    folder = write_folder(tmp_path / "a", each=10)

    def parts(split_seed):
        options = {"hold_out": ["a"], "split_seed": split_seed, "batch_size": 4, **PLAIN}
        module = MixtureModule(
            nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2)),
            Classification(),
            lambda parameters: torch.optim.SGD(parameters, 0.1),
        )
        return module, ImageMixtureDataModule({"a": folder}, **options)

    trainer = quiet_trainer(tmp_path, max_steps=1)
    module, data = parts(0)
    trainer.fit(module, datamodule=data)
    path = str(tmp_path / "a.ckpt")
    trainer.save_checkpoint(path)
    module, data = parts(0)
    quiet_trainer(tmp_path).test(module, datamodule=data, ckpt_path=path, verbose=False)
    module, data = parts(1)
    with pytest.raises(InputError, match="another split"):
        quiet_trainer(tmp_path).test(module, datamodule=data, ckpt_path=path, verbose=False)
