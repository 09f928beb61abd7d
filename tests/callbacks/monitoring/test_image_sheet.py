import io
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import Recorder, Rows, predict_last, quiet_trainer, random_rows, small_network
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import Dataset

from tandem_pl import InputError, MixtureModule, TandemModule
from tandem_pl.callbacks import ImageSheet, TandemReweighting
from tandem_pl.callbacks.monitoring import image_sheet
from tandem_pl.callbacks.monitoring.image_sheet import SIDE, Tile, draw_sheet, thumbnail
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.objectives import Classification


class Flat(Dataset):
    """Images of one value, their index; augmentation draws from every global generator."""

    def __init__(self, size, augment=False):
        self.size, self.augment, self.asked = size, augment, []

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        self.asked.append(index)
        noise = 0.0
        if self.augment:
            noise = random.random() + np.random.rand() + float(torch.rand(()))  # noqa: NPY002
        return {"image": torch.full((3, 8, 8), index / 100 + noise / 10), "label": index % 3}


def data_of(sizes, augment=False, **options):
    sets = {name: Flat(size, augment) for name, size in sizes.items()}
    return MixtureDataModule(sets, {"t": Flat(6, augment)}, batch_size=4, **options)


def fit(folder, data, sheet, **options):
    """Return the arguments of `draw_sheet` for each sheet, the recorder and the method."""
    sheets, recorder, draw = [], Recorder(), image_sheet.draw_sheet

    def drawing(*arguments):
        sheets.append(arguments)
        return draw(*arguments)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    module = TandemModule(network, Classification(), lambda p: torch.optim.SGD(p, 0.01))
    logger = TensorBoardLogger(folder, name="", version="", default_hp_metric=False)
    callbacks = [
        TandemReweighting(1, 1, 1, learning_rate=5.0),
        recorder,
        *([sheet] if sheet else []),
    ]
    options = {"max_epochs": 4, "logger": logger, **options}
    image_sheet.draw_sheet = drawing
    try:
        quiet_trainer(folder, callbacks=callbacks, **options).fit(module, data)
    finally:
        image_sheet.draw_sheet = draw
    return sheets, recorder, callbacks[0]


def test_sheets_have_domains_by_weight_and_the_same_images(tmp_path):
    data = data_of({"small": 3, "large": 40, "other": 20})
    data.weights = {"small": 0.2, "large": 0.5, "other": 0.3}
    sheets, _, method = fit(tmp_path, data, ImageSheet(images=4, every_n_episodes=2))
    assert len(sheets) == 3  # start, after 2 and after 4, which is the end
    rows, weights, domains = sheets[0]
    assert list(rows) == ["large", "other", "small"]
    assert weights.tolist() == [0.5, 0.3, 0.2]
    assert domains == 3
    shown = {name: [int(tile.pixels[0, 0, 0]) for tile in tiles] for name, tiles in rows.items()}
    assert len(set(shown["large"])) == 4
    assert shown["large"] == sorted(shown["large"])  # in the order of the data set
    assert max(shown["large"]) > 2.55 * 10  # not the first images
    assert shown["small"] == [round(2.55 * n) for n in (0, 1, 2)]
    rows, weights, _ = sheets[-1]
    assert weights.tolist() == sorted(method.weights, reverse=True)
    assert list(rows) == [method.domains[m] for m in np.argsort(-method.weights)]
    images = EventAccumulator(str(tmp_path)).Reload().Images("mixture/images")
    assert [image.step for image in images] == [0, 4, 8]


def test_training_is_the_same_with_sheets(tmp_path):
    states, samples = [], []
    for name, sheet in (("with", ImageSheet(2, 1)), ("without", None)):
        random.seed(1), np.random.seed(2), torch.manual_seed(3)  # noqa: NPY002
        data = data_of({"a": 9, "b": 30}, augment=True)
        sheets, recorder, method = fit(tmp_path / name, data, sheet)
        drawn = [batch.samples["image"] for batch in recorder.batches]
        samples.append(torch.cat([image.flatten() for image in drawn]))
        states.append((random.random(), np.random.rand(), float(torch.rand(())), *method.weights))  # noqa: NPY002
        if sheet:
            tiles = [tile.pixels for rows, *_ in sheets for tile in rows["a"]]
            assert all(np.array_equal(tile, tiles[0]) for tile in tiles[::2])
    assert torch.equal(*samples)
    assert states[0] == states[1]


def test_of_many_domains_the_largest_are_shown(tmp_path):
    data = data_of({f"d{m}": 5 for m in range(40)})
    data.weights = {f"d{m}": 1 + m for m in range(40)}
    sheets, *_ = fit(tmp_path, data, ImageSheet(images=1), max_epochs=1)
    rows, weights, domains = sheets[0]
    assert list(rows) == [f"d{m}" for m in range(39, 9, -1)]
    assert weights[0] == pytest.approx(40 / 820)
    assert domains == 40
    assert sum(bool(data.train_sets[f"d{m}"].asked) for m in range(40)) >= 30


def test_without_tensorboard_nothing_is_drawn(tmp_path):
    sheets, *_ = fit(tmp_path, data_of({"a": 5}), ImageSheet(), logger=False)
    assert sheets == []


def test_other_samples_are_refused_at_setup(tmp_path):
    rows = random_rows(8, 4, 0)
    data = MixtureDataModule({"poems": rows}, batch_size=4)
    module = MixtureModule(small_network(4), predict_last, lambda p: torch.optim.SGD(p, 0.1))
    trainer = quiet_trainer(tmp_path, callbacks=[ImageSheet()], max_epochs=1)
    with pytest.raises(InputError, match=r"\[C, H, W\] .* 'poems' are of shape \(4,\)"):
        trainer.fit(module, data)
    assert trainer.global_step == 0
    with pytest.raises(InputError, match="images=0 must be at least 1"):
        ImageSheet(0)


def test_samples_without_labels_are_accepted(tmp_path):
    data = MixtureDataModule({"a": Rows(torch.rand(5, 1, 6, 4))}, batch_size=4)
    data.setup("fit")
    callback = ImageSheet(images=3)
    callback.setup(SimpleNamespace(datamodule=data), None, "fit")


# ---- pixels ----


def test_normalisation_is_undone():
    image = torch.rand(3, 4, 6)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.1)
    columns = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)
    shown = thumbnail((image - columns[0]) / columns[1], mean, std)
    factor = SIDE // 6
    assert shown.shape == (4 * factor, 6 * factor, 3)
    expected = (255 * image).round().permute(1, 2, 0).numpy()
    assert np.abs(shown[::factor, ::factor].astype(int) - expected).max() <= 1


def test_pixels_of_all_kinds():
    whole = torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8)
    assert np.array_equal(thumbnail(whole), whole.permute(1, 2, 0).numpy())
    inside = torch.full((3, 8, 8), 0.5)
    assert set(thumbnail(inside).ravel()) == {128}  # not stretched
    beyond = torch.linspace(-3, 5, SIDE).expand(1, SIDE, SIDE)
    shown = thumbnail(beyond)
    assert shown[0, 0].tolist() == [0, 0, 0]
    assert shown[0, -1].tolist() == [255, 255, 255]
    assert thumbnail(torch.rand(4, 200, 50)).shape == (SIDE, SIDE // 4, 3)
    assert thumbnail(torch.rand(2, 300, 1)).shape == (SIDE, 1, 3)
    assert thumbnail(torch.full((3, 4, 4), float("nan"))).max() == 0


def test_the_picture_has_every_tile_at_its_pixel():
    tiles = [Tile(np.full((SIDE, SIDE, 3), value, np.uint8), "") for value in (10, 20, 30)]
    figure = draw_sheet({"a $x$": tiles[:2], "b": tiles[2:]}, np.array([0.75, 0.25]), 2)
    file = io.BytesIO()
    figure.savefig(file, format="raw")
    width, height = (figure.get_size_inches() * 100).round().astype(int)
    pixels = np.frombuffer(file.getvalue(), np.uint8).reshape(height, width, 4)[..., 0]
    for value in (10, 20, 30):
        assert abs((pixels == value).sum() - SIDE * SIDE) <= 2 * SIDE
    texts = [text.get_text() for text in figure.axes[0].texts if text.get_text()]
    assert texts == ["a $x$\n75.00 %", "b\n25.00 %"]
    box = figure.axes[0].texts[0].get_window_extent()
    assert box.x0 >= 0


def test_class_names_are_captions_if_they_are_known():
    from tandem_pl.callbacks.monitoring.image_sheet import _caption

    names = ["cat", "a dog of some kind and colour"]
    assert _caption(torch.tensor(0), names) == "cat"
    assert _caption(np.int64(0), names) == "cat"
    assert _caption(1, names) == "a dog of some …"
    for label, known in ((2, names), (-1, names), (0, None), (torch.rand(2), names), (0.5, names)):
        assert _caption(label, known) == ""
