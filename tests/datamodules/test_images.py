import os
import warnings

import numpy as np
import pytest
import torch
from helpers import quiet_trainer
from image_helpers import (
    PLAIN,
    make_data,
    refused,
    write_folder,
)
from torch import nn

from tandem_pl import InputError, TandemModule
from tandem_pl.callbacks import TandemReweighting
from tandem_pl.datamodules import ImageMixtureDataModule
from tandem_pl.datamodules.image_decoding import UnreadableImageError
from tandem_pl.episode import EVALUATE, MEASURE, PROBE, TRAIN, Segment
from tandem_pl.objectives import Classification
from tandem_pl.timm_networks import timm_network

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
        "tandem_pl.datamodules.image_decoding._decode_all", lambda *_: looks.append(1) or []
    )
    assert run() == first
    assert not looks
    os.utime(tmp_path / "a" / "cat" / "000.jpg", ns=(1, 1))
    run()
    assert looks == [1]


# ---- batches ----

PLAN = [
    Segment(TRAIN, 3, (0.5, 0.5)),
    Segment(PROBE, 2, (0.5, 0.5), target=True),
    Segment(MEASURE, 1, (0.5, 0.5)),
]
AUGMENTED = {"random_crop": "resized", "hflip": 0.5, "random_erasing": 0.5}
AUGMENTED |= {"mixup": 0.5, "cutmix": 1.0}


def noise(path, size: int, seed: int) -> str:
    images = np.random.default_rng(seed).integers(0, 256, (size, 12, 12, 3), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(size) % 2)
    return str(path)


@pytest.fixture
def sources(tmp_path):
    return {
        "train": {"a": noise(tmp_path / "a.npz", 20, 0), "b": noise(tmp_path / "b.npz", 12, 1)},
        "target": {"t": noise(tmp_path / "t.npz", 8, 2)},
        "test": {"u": noise(tmp_path / "u.npz", 8, 3)},
    }


def stream(data, episodes: int = 2) -> list:
    loader, batches = data.train_dataloader(), []
    for _ in range(episodes):
        data.begin_episode(PLAN)
        batches += [data.on_after_batch_transfer(batch, 0) for batch in loader]
    return batches


def test_mixing_is_for_training_and_probing(sources) -> None:
    data = make_data(**sources, **AUGMENTED)
    data.setup()
    for batch in stream(data):
        mixed = batch.phase in (TRAIN, PROBE)
        for samples in (batch.samples, batch.target_samples):
            if samples is not None:
                label = samples["label"]
                assert label.dtype == (torch.float32 if mixed else torch.int64)
                assert label.shape == ((4, 2) if mixed else (4,))
                assert samples["image"].shape == (4, 3, 8, 8)
    for loader in (data.val_dataloader(), data.test_dataloader()):
        for batch in (data.on_after_batch_transfer(batch, 0) for batch in loader):
            assert batch.phase == EVALUATE
            assert batch.samples["label"].dtype == torch.int64


def test_evaluation_is_not_augmented(sources) -> None:
    data, plain = make_data(**sources, **AUGMENTED), make_data(**sources, crop_pct=0.875)
    for each in (data, plain):
        each.setup()
    for name in ("val_dataloader", "test_dataloader"):
        pairs = zip(getattr(data, name)(), getattr(plain, name)(), strict=True)
        assert all(torch.equal(a.samples["image"], b.samples["image"]) for a, b in pairs)


def test_batches_are_a_function_of_the_step(sources) -> None:
    """Whatever was drawn before, the number of workers, and where a run was stopped."""

    def tensors(batches) -> list:
        parts = [(b.samples, b.target_samples or {}) for b in batches]
        return [value for pair in parts for part in pair for value in part.values()]

    def start(**options) -> ImageMixtureDataModule:
        data = make_data(**sources, **AUGMENTED, **options)
        data.setup("fit")
        return data

    whole = tensors(stream(start()))
    torch.manual_seed(17)
    with_workers = tensors(stream(start(num_workers=1)))
    assert all(map(torch.equal, whole, with_workers))
    stopped = start()
    stopped.begin_episode(PLAN)
    loader = iter(stopped.train_dataloader())
    head = [stopped.on_after_batch_transfer(next(loader), 0) for _ in range(4)]
    resumed = start()
    resumed.load_state_dict(stopped.state_dict())
    tail = [resumed.on_after_batch_transfer(batch, 0) for batch in resumed.train_dataloader()]
    assert all(map(torch.equal, whole, tensors(head + tail)))
    other = tensors(stream(start(seed=1)))
    assert not torch.equal(whole[0], other[0])


def test_another_rank_mixes_in_its_own_way(sources) -> None:
    data = make_data(**sources, mixup=1.0)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    mine = data.on_after_batch_transfer(batch, 0)
    other = make_data(**sources, mixup=1.0)
    other.setup("fit")
    next(iter(other.train_dataloader()))
    other.trainer.distributed_sampler_kwargs = {"rank": 1, "num_replicas": 2}
    theirs = other.on_after_batch_transfer(batch, 0)
    assert not torch.equal(mine.samples["label"], theirs.samples["label"])


def test_a_checkpoint_of_other_images_is_refused(tmp_path, sources) -> None:
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


def test_tandem_learns_on_images_and_both_twins_see_the_same(tmp_path, sources) -> None:
    seen = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2))

        def forward(self, images):
            seen.append(images)
            return self.layers(images)

    data = ImageMixtureDataModule(**sources, **{**PLAIN, **AUGMENTED}, batch_size=8)
    module = TandemModule(
        Watched(),
        objective=Classification(label_smoothing=0.1),
        optimizer=lambda parameters: torch.optim.SGD(parameters, 0.1),
    )
    reweighting = TandemReweighting(
        free_steps=1, probe_steps=2, measure_batches=1, learning_rate=0.5
    )
    quiet_trainer(tmp_path, max_epochs=2, callbacks=[reweighting]).fit(module, datamodule=data)
    assert len(seen) == 2 * (1 + (2 + 3) + 2)  # in the first probe step the twins are one network
    second_probe = seen[3:6]
    assert torch.equal(second_probe[0], second_probe[1])
    assert not torch.equal(second_probe[1], second_probe[2])  # the target's
    assert abs(sum(reweighting.mixture.weights.values()) - 1) < 1e-9


def test_a_network_with_fewer_classes_than_the_data_is_refused(tmp_path) -> None:
    data = ImageMixtureDataModule(
        {"a": write_folder(tmp_path / "a", ("cat", "dog", "owl"))}, batch_size=4, **PLAIN
    )
    module = TandemModule(
        timm_network("wrn_10_1_silu", 2), Classification(), lambda p: torch.optim.SGD(p, 0.1)
    )
    message = r"3 classes and the network 2 outputs: set the network's num_classes to 3\."
    with pytest.raises(InputError, match=message):
        quiet_trainer(tmp_path, max_steps=1).fit(module, datamodule=data)
