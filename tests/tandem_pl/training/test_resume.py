"""A resumed run equals the uninterrupted one bit for bit, from wherever it was saved."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from programs import exit_codes, start
from torch import nn
from torch.utils.data import Dataset

from tandem_pl import InputError, MixtureModule, TandemModule
from tandem_pl.callbacks import FixedMixture, TandemReweighting
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.objectives import Classification
from tandem_pl.schedules import WarmupCosine

EPISODES, FREE, PROBE, STATISTICS, MEASURE = 3, 2, 2, 2, 2
BATCHES = EPISODES * (FREE + PROBE + STATISTICS + MEASURE)


class Pairs(Dataset):
    """Augmented by all the global generators that there are."""

    def __init__(self, seed, size=17):
        generator = torch.Generator().manual_seed(seed)
        self.inputs = torch.randn(size, 4, generator=generator) + 0.2 * seed
        self.labels = torch.randint(3, (size,), generator=generator)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        drawn = random.random() + np.random.rand() + torch.rand(4)  # noqa: NPY002
        return self.inputs[index] + 0.1 * drawn, self.labels[index]


class SaveEverywhere(Callback):
    """A checkpoint after every batch, measure batches too."""

    def __init__(self, folder):
        self.folder, self.count = folder, 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.count += 1
        trainer.save_checkpoint(self.folder / f"{self.count:02d}.ckpt")


class Record(Callback):
    def __init__(self):
        self.batches = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches.append((batch.step, batch.phase, batch.samples[0].clone()))


def build(twin=True, workers=0):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3))
    settings = {
        "optimizer": lambda params: torch.optim.AdamW(params, 0.02),
        "lr_scheduler": lambda optimizer: WarmupCosine(optimizer, 30, 3),
        "gradient_clip_val": 1.0,
    }
    module = (TandemModule if twin else MixtureModule)(net, Classification(), **settings)
    data = MixtureDataModule(
        {"a": Pairs(0), "b": Pairs(1), "c": Pairs(2)},
        {"t": Pairs(3), "s": Pairs(4)},
        batch_size=6,
        num_workers=workers,
        epoch_batches=5,
        validate_target=True,
    )
    return module, data


def fit(folder, *extra, twin=True, workers=0, ckpt_path=None, method=None, **settings):
    module, data = build(twin, workers)
    if method is None and twin:
        method = TandemReweighting(
            FREE, PROBE, MEASURE, learning_rate=5.0, statistics_batches=STATISTICS
        )
    record = Record()
    trainer = Trainer(
        callbacks=[*([method] if method else []), record, *extra],
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **({"max_epochs": EPISODES, "enable_checkpointing": False} | settings),
    )
    seed_everything(torch.initial_seed() % 1000 + 1)  # no global seed may matter
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return module, method, record, trainer


def assert_same_end(one, other):
    (module, method, record, trainer), (again, method_again, record_again, trainer_again) = (
        one,
        other,
    )
    for (key, value), other_value in zip(
        module.state_dict().items(), again.state_dict().values(), strict=True
    ):
        assert torch.equal(value, other_value), key
    assert trainer.global_step == trainer_again.global_step
    if method is not None:
        assert method.mixture.weights == method_again.mixture.weights
        assert method.mixture.average == method_again.mixture.average
        assert method.steps == method_again.steps
    tail = record.batches[len(record.batches) - len(record_again.batches) :]
    for (step, phase, inputs), (step_again, phase_again, inputs_again) in zip(
        tail, record_again.batches, strict=True
    ):
        assert (step, phase) == (step_again, phase_again)
        assert torch.equal(inputs, inputs_again)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return fit(folder, SaveEverywhere(folder)), folder


@pytest.mark.parametrize("batch", range(1, BATCHES))
def test_resumes_exactly_from_any_batch(batch, whole, tmp_path):
    result, folder = whole
    again = fit(tmp_path, ckpt_path=folder / f"{batch:02d}.ckpt")
    assert_same_end(result, again)
    assert len(again[2].batches) == BATCHES - batch


@pytest.mark.parametrize("batch", [1, 4, 5, 6, 13])
def test_resumes_exactly_with_workers(batch, whole, tmp_path):
    result, folder = whole
    assert_same_end(result, fit(tmp_path, ckpt_path=folder / f"{batch:02d}.ckpt", workers=2))


def test_every_checkpoint_holds_tensors_and_plain_python_only(whole):
    for path in sorted(whole[1].glob("*.ckpt")):
        torch.load(path, weights_only=True)


@pytest.mark.parametrize(
    "cadence",
    [
        {"every_n_epochs": 1, "save_on_train_epoch_end": True},
        {"every_n_epochs": 1, "save_on_train_epoch_end": False},  # after validation
        {"every_n_train_steps": 3},
    ],
    ids=["epoch end", "validation end", "every 3 steps"],
)
def test_resumes_exactly_from_lightnings_own_checkpoints(cadence, tmp_path):
    checkpoints = ModelCheckpoint(tmp_path / "saved", save_top_k=-1, **cadence)
    result = fit(tmp_path, checkpoints, enable_checkpointing=True)
    saved = sorted((tmp_path / "saved").glob("*.ckpt"))
    assert len(saved) >= 3
    for path in saved[:-1]:
        assert_same_end(result, fit(tmp_path / "again", ckpt_path=path))


def test_resumes_twice_within_one_episode(whole, tmp_path):
    result, folder = whole
    first = SaveEverywhere(tmp_path)
    fit(tmp_path, first, ckpt_path=folder / "07.ckpt")
    assert_same_end(result, fit(tmp_path / "again", ckpt_path=tmp_path / "02.ckpt"))


def test_can_be_extended_from_its_end(tmp_path):
    longer = fit(tmp_path, max_epochs=4)
    fit(tmp_path, SaveEverywhere(tmp_path))
    assert_same_end(longer, fit(tmp_path, ckpt_path=tmp_path / f"{BATCHES}.ckpt", max_epochs=4))


@pytest.mark.parametrize("batch", [3, 5, 8, 10])
def test_a_network_on_a_given_mixture_resumes_exactly(batch, tmp_path):
    result = fit(tmp_path, SaveEverywhere(tmp_path), twin=False)
    again = fit(tmp_path / "again", twin=False, ckpt_path=tmp_path / f"{batch:02d}.ckpt")
    assert_same_end(result, again)


def test_a_schedule_resumes_exactly(tmp_path):
    def schedule():
        early, late = {"a": 1, "b": 0, "c": 0}, {"a": 0, "b": 1, "c": 1}
        pieces = [{"step": 0, "weights": early}, {"step": 7, "weights": late}]
        return FixedMixture(schedule=pieces, episode_steps=5)

    result = fit(tmp_path, SaveEverywhere(tmp_path), twin=False, method=schedule())
    for batch in (3, 5, 6, 9):
        path = tmp_path / f"{batch:02d}.ckpt"
        assert_same_end(
            result, fit(tmp_path / "again", twin=False, method=schedule(), ckpt_path=path)
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 3}, "made with batch_size=6 and this run has batch_size=3"),
        ({"seed": 1}, "made with seed=0 and this run has seed=1"),
        ({"train": {"a": Pairs(0)}}, "made with domains="),
    ],
)
def test_refuses_a_checkpoint_of_other_data(change, message, whole, tmp_path):
    module, _ = build()
    settings = {"train": {"a": Pairs(0), "b": Pairs(1), "c": Pairs(2)}, "batch_size": 6} | change
    data = MixtureDataModule(target={"t": Pairs(3), "s": Pairs(4)}, **settings)
    trainer = Trainer(
        callbacks=[TandemReweighting(FREE, PROBE, MEASURE)],
        default_root_dir=tmp_path,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        max_epochs=9,
    )
    with pytest.raises(InputError, match=message):
        trainer.fit(module, data, ckpt_path=whole[1] / "03.ckpt")


def test_survives_being_killed(tmp_path):
    """A kill of a short run; `tests/benchmarks/kill.py` kills a longer one twenty times."""
    script = str(Path(__file__).parents[2] / "benchmarks" / "kill.py")
    options = ["--kills", "1", "--episodes", "25", "--folder", str(tmp_path / "runs")]
    output = tmp_path / "output.txt"
    codes = exit_codes([start([script, *options], output)])
    assert codes == [0], output.read_text()
    assert "1 kills" in output.read_text()
