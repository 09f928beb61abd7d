"""What other Lightning projects keep: their modules, schedules, validation, loaders, callbacks."""

import csv

import pytest
import torch
from helpers import predict_last, quiet_trainer, random_rows, small_network
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from tandem_pl import InputError, MixtureModule, TandemModule
from tandem_pl.callbacks import (
    ClassificationMetrics,
    FixedMixture,
    MixtureMonitor,
    TandemReweighting,
)
from tandem_pl.datamodules import MixtureDataModule

WIDTH = 4


def make_data(**options) -> MixtureDataModule:
    rows = {name: random_rows(40, WIDTH, seed) for seed, name in enumerate("ab")}
    return MixtureDataModule(rows, {"t": random_rows(12, WIDTH, 7)}, batch_size=8, **options)


class Theirs(LightningModule):
    """Knows nothing of mixtures: its batches are its data set's."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.batches, self.validated = small_network(WIDTH), [], 0

    def training_step(self, batch, batch_idx):
        self.batches.append(batch)
        return predict_last(self.net, batch).mean()

    def validation_step(self, batch, batch_idx):
        assert isinstance(batch, torch.Tensor)
        self.validated += len(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


@pytest.mark.parametrize("callbacks", [[], [MixtureMonitor()]])
def test_a_module_of_another_project_trains_on_a_mixture(tmp_path, callbacks):
    module, data = Theirs(), make_data(weights={"a": 0.75, "b": 0.25}, validate_target=True)
    trainer = quiet_trainer(
        tmp_path, callbacks=callbacks, max_steps=12, logger=CSVLogger(tmp_path),
        log_every_n_steps=4, limit_val_batches=1.0,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    assert all(isinstance(batch, torch.Tensor) and len(batch) == 8 for batch in module.batches)
    assert [row["samples"] for row in data.seen().values()] == [72, 24]
    seen = torch.cat(module.batches)
    of_a = (seen[:, None] == data.train_sets["a"].rows).all(dim=2).any(dim=1)
    assert int(of_a.sum()) == 72
    assert module.validated % 12 == 0 < module.validated


@pytest.mark.parametrize("callback", [TandemReweighting(), FixedMixture()])
def test_a_callback_that_needs_mixture_batches_says_so(callback, tmp_path):
    trainer = quiet_trainer(tmp_path, callbacks=[callback], max_steps=1)
    with pytest.raises(InputError, match=r"Theirs does not have|Theirs is neither"):
        trainer.fit(Theirs(), datamodule=make_data())


@pytest.mark.parametrize("kind", [MixtureModule, TandemModule])
def test_a_loader_of_their_own_is_refused(kind, tmp_path):
    module = kind(small_network(WIDTH), predict_last, lambda p: torch.optim.SGD(p, 0.1))
    loader = DataLoader(random_rows(16, WIDTH, 0), batch_size=8)
    with pytest.raises(InputError, match="MixtureDataModule, and got a Tensor"):
        quiet_trainer(tmp_path, max_steps=1).fit(module, loader)


class Subclass(TandemModule):
    """Keeps the owner's optimizer, schedule and validation."""

    def __init__(self) -> None:
        super().__init__(small_network(WIDTH), predict_last, lambda p: torch.optim.SGD(p, 0.1))
        self.validated = 0

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameter_groups(), 0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]

    def validation_step(self, batch, batch_idx):
        self.validated += len(batch)
        self.log("val/rows", float(len(batch)), batch_size=len(batch))


class Losses(Callback):
    def __init__(self) -> None:
        self.losses, self.phases = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.phases.append(batch.phase)
        torch.testing.assert_close(outputs["loss"], outputs["losses"].mean())
        self.losses.append(outputs["loss"])


def test_a_subclass_keeps_its_schedule_its_validation_and_its_callbacks(tmp_path):
    module, losses, monitor = Subclass(), Losses(), LearningRateMonitor("step")
    logger = CSVLogger(tmp_path)
    trainer = quiet_trainer(
        tmp_path, callbacks=[TandemReweighting(2, 2, 1), losses, monitor], max_steps=8,
        logger=logger, log_every_n_steps=1, limit_val_batches=1.0,
    )  # fmt: skip
    data = make_data()
    data.val_dataloader = lambda: DataLoader(random_rows(10, WIDTH, 3), batch_size=5)
    trainer.fit(module, datamodule=data)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.1 / 2**8
    episode = 2 * ["train"] + 2 * ["probe"] + ["measure"]
    assert losses.phases == episode + episode[:-1]  # the run ends its last episode by itself
    assert len(losses.losses) == len(losses.phases)
    assert module.validated
    assert trainer.callback_metrics["val/rows"] == 5
    trainer.validate(module, dataloaders=data.val_dataloader(), verbose=False)


@pytest.mark.parametrize("frequency", [1, 3])
def test_a_schedule_of_theirs_keeps_its_frequency(frequency, tmp_path):
    class Slow(Subclass):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameter_groups(), 0.1)
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
            return [optimizer], [{"scheduler": scheduler, "frequency": frequency}]

    trainer = quiet_trainer(tmp_path, callbacks=[TandemReweighting(2, 2, 1)], max_steps=7)
    trainer.fit(Slow(), datamodule=make_data())
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.1 / 2 ** (7 // frequency)


def test_a_schedule_that_waits_for_a_metric_is_refused(tmp_path):
    module = MixtureModule(
        small_network(WIDTH), predict_last, lambda p: torch.optim.SGD(p, 0.1),
        torch.optim.lr_scheduler.ReduceLROnPlateau,
    )  # fmt: skip
    with pytest.raises(InputError, match="ReduceLROnPlateau waits for a metric"):
        quiet_trainer(tmp_path, max_steps=1).fit(module, datamodule=make_data())


def test_metrics_of_classes_leave_a_loader_of_theirs_alone(tmp_path):
    data = make_data()
    data.val_dataloader = lambda: DataLoader(random_rows(10, WIDTH, 3), batch_size=5)
    trainer = quiet_trainer(
        tmp_path, callbacks=[TandemReweighting(2, 2, 1), ClassificationMetrics()], max_steps=5,
        limit_val_batches=1.0,
    )  # fmt: skip
    module = Subclass()
    trainer.fit(module, datamodule=data)
    assert module.validated


def test_the_rate_is_logged_by_the_batch(tmp_path):
    module = TandemModule(
        small_network(WIDTH), predict_last, lambda p: torch.optim.SGD(p, 0.1),
        lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5),
    )  # fmt: skip
    logger = CSVLogger(tmp_path)
    trainer = quiet_trainer(
        tmp_path, callbacks=[TandemReweighting(4, 2, 1), LearningRateMonitor()], max_steps=12,
        logger=logger, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(module, datamodule=make_data())
    with open(f"{trainer.log_dir}/metrics.csv") as file:
        rows = list(csv.DictReader(file))
    (key,) = [key for key in rows[0] if "proxy" in key and key.startswith("lr-")]
    rates = [float(row[key]) for row in rows if row[key]]
    assert len(rates) >= 12
    assert rates[0] == 0.1
    assert min(rates) <= 0.1 / 2**10
