"""A run that goes on with the average, or stops because its weights are settled."""

import math
import warnings

import numpy as np
import pytest
import torch
from helpers import (
    QuadraticNetwork,
    Recorder,
    Rows,
    half_squared_distance,
    quiet_trainer,
    random_rows,
)
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from tandem_pl import InputError, Mixture, TandemModule
from tandem_pl.callbacks import TandemReweighting
from tandem_pl.callbacks.methods.method import Length
from tandem_pl.callbacks.methods.tandem import tandem_work
from tandem_pl.cli.run_start import Start, start_lines
from tandem_pl.datamodules import MixtureDataModule

FREE, PROBE, MEASURE, STEPS = 2, 1, 2, 24
FROZEN_AT = 12  # half of the steps: 4 updates, and 20 batches with those without a step
BATCHES = 20 + 12


class Watch(Recorder):
    """Also the weights after each batch, and checkpoints after the batches asked for."""

    def __init__(self, folder, method, save=()):
        super().__init__()
        self.folder, self.method, self.save = folder, method, save
        self.mixtures = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        mixture = self.method.mixture
        self.mixtures.append((mixture.weights, mixture.average))
        if len(self.batches) in self.save:
            trainer.save_checkpoint(self.folder / f"{len(self.batches)}.ckpt")


def run(folder, save=(), ckpt_path=None, max_steps=STEPS, max_epochs=None, **options):
    torch.manual_seed(0)
    data = MixtureDataModule(
        {name: random_rows(15, 3, seed) for seed, name in enumerate("abc")},
        {"t": random_rows(9, 3, 7)},
        batch_size=12,
    )
    module = TandemModule(
        QuadraticNetwork(3), half_squared_distance, lambda params: torch.optim.AdamW(params, 0.05)
    )
    method = TandemReweighting(FREE, PROBE, MEASURE, learning_rate=15.0, **options)
    watch = Watch(folder, method, save)
    trainer = quiet_trainer(
        folder, callbacks=[watch, method][::-1], max_steps=max_steps, max_epochs=max_epochs
    )
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return watch, method, trainer


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frozen")
    return folder, *run(folder, save=(18, 20, 27), freeze_after=0.5)


def test_after_the_freeze_there_are_training_batches_only(frozen):
    _, watch, method, trainer = frozen
    phases = [batch.phase for batch in watch.batches]
    episode = ["train"] * FREE + ["probe"] * PROBE + ["measure"] * MEASURE
    assert phases == episode * 4 + ["train"] * (STEPS - FROZEN_AT)
    assert all(batch.target_samples is None for batch in watch.batches[20:])
    assert trainer.global_step == STEPS
    assert method.episodes == 4
    assert method.steps == [0, 3, 6, 9, 12]


def test_the_mixture_stays_what_it_was_at_the_freeze(frozen):
    folder, watch, method, _ = frozen
    rows = np.stack(method.trajectory)
    assert watch.mixtures[19] == watch.mixtures[-1]
    assert watch.mixtures[18] != watch.mixtures[19]
    np.testing.assert_array_equal(method.averaged(), rows[2:].mean(axis=0))
    saved = Mixture.load(folder / "mixture.yaml")
    assert (saved.weights, saved.average) == watch.mixtures[-1]
    assert saved.about["frozen_at"] == FROZEN_AT
    assert saved.about["settings"]["freeze_after"] == 0.5


def test_samples_are_drawn_with_the_average(frozen):
    _, watch, method, _ = frozen
    drawn = torch.cat([batch.domains for batch in watch.batches[20:]])
    counts = np.bincount(drawn.numpy(), minlength=3)
    assert np.abs(method.averaged() - method.weights).max() * len(drawn) > 3  # the last differ
    np.testing.assert_allclose(counts, method.averaged() * len(drawn), atol=2)


def test_the_proxy_trains_on_to_the_end(frozen):
    _, watch, _, _ = frozen
    steps = [after[0] - before[0] for before, after in zip(watch.before, watch.after, strict=True)]
    assert all(bool(step.abs().max() > 0) for step in steps[20:])
    assert all(torch.equal(after[1], watch.after[19][1]) for after in watch.after[20:])


@pytest.mark.parametrize("batch", [18, 20, 27])
def test_a_run_resumes_to_the_bit_before_at_and_after_the_freeze(frozen, tmp_path, batch):
    folder, watch, method, _ = frozen
    again, resumed, trainer = run(tmp_path, ckpt_path=folder / f"{batch}.ckpt", freeze_after=0.5)
    assert trainer.global_step == STEPS
    assert len(again.batches) == BATCHES - batch
    for one, other in zip(watch.after[batch:], again.after, strict=True):
        assert torch.equal(one[0], other[0])
    for one, other in zip(watch.batches[batch:], again.batches, strict=True):
        assert one.phase == other.phase
        assert torch.equal(one.samples, other.samples)
    assert again.mixtures == watch.mixtures[batch:]
    assert resumed.frozen_at == method.frozen_at == FROZEN_AT
    names = ("mixture.yaml", "trajectory.csv", "hyper_gradient.csv")
    assert all((tmp_path / n).read_bytes() == (folder / n).read_bytes() for n in names)


def test_the_freeze_is_at_the_first_update_after_the_share_and_said_once(tmp_path, caplog):
    with caplog.at_level("INFO", "lightning.pytorch.utilities.rank_zero"):
        _, method, trainer = run(tmp_path, freeze_after=0.2)  # of 24: step 4.8
    assert method.frozen_at == 6
    assert caplog.text.count("the weights are frozen") == 1
    assert "step 6 of 24" in caplog.text
    assert "was not made" not in caplog.text
    assert trainer.global_step == STEPS


def test_the_cost_counts_probes_until_the_freeze():
    settings = {"free_steps": 15, "probe_steps": 5, "measure_batches": 3}
    whole = tandem_work(settings, Length(7, 2000, 16))
    half = tandem_work(settings | {"freeze_after": 0.5}, Length(7, 2000, 16))
    assert half == pytest.approx((whole + 2000) / 2)


def test_the_start_counts_updates_until_the_freeze():
    start = Start("tandem", True, 3, 8, 0, 1000, 20, None, None, {"a": 1.0}, frozen=0.5)
    assert "50 episodes of 20 steps, 25 updates" in start_lines(start)[0]
    assert (
        "25 updates in 1000 steps are too few to learn weights from: raise max_steps to 1200 ("
        in (start_lines(start)[-1])
    )
    assert start._replace(frozen=0.2001).updates == 11  # the first update after step 200
    assert start._replace(frozen=1.0).updates == 50


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, 1.5, math.nan])
def test_a_share_outside_0_to_1_is_refused(share):
    with pytest.raises(InputError, match=r"freeze_after=.* must be above 0 and below 1"):
        TandemReweighting(freeze_after=share)


def test_other_options_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(InputError, match="keep one"):
        TandemReweighting(freeze_after=0.5, stop_when_settled=True)
    with pytest.raises(InputError, match="length is unknown: set max_steps"):
        run(tmp_path, freeze_after=0.5, max_steps=-1, max_epochs=-1)


# ---- settled ----


class Stop(Callback):
    def __init__(self):
        self.steps = 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps = trainer.global_step
        assert trainer.should_stop in (False, batch.last)


def settle(folder, centres=(1.0, -1.0), noise=0.0, ckpt_path=None, **options):
    """One domain is the target's; with noise both are nothing but noise."""
    generator = torch.Generator().manual_seed(1)

    def points(at):
        rows = torch.full((40, 2), at, dtype=torch.float64)
        return Rows(rows + noise * torch.randn(40, 2, generator=generator, dtype=torch.float64))

    data = MixtureDataModule(
        {"good": points(centres[0]), "bad": points(centres[1])},
        {"t": points(centres[0])},
        batch_size=8,
    )
    module = TandemModule(
        QuadraticNetwork(2), half_squared_distance, lambda params: torch.optim.SGD(params, 0.2)
    )
    method = TandemReweighting(
        0, 1, 1, **{"learning_rate": 0.1, "stop_when_settled": True} | options
    )
    stop = Stop()
    trainer = quiet_trainer(
        folder,
        callbacks=[method, stop, ModelCheckpoint(folder / "checkpoints", every_n_epochs=1000)],
        max_steps=90,
        enable_checkpointing=True,
    )
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return method, stop, trainer


def test_a_run_whose_weights_are_settled_stops_and_writes_its_files(tmp_path, caplog):
    with caplog.at_level("INFO", "lightning.pytorch.utilities.rank_zero"):
        method, stop, trainer = settle(tmp_path)
    assert 45 <= stop.steps < 90
    assert caplog.text.count("the run stops because its weights are settled") == 1
    saved = Mixture.load(tmp_path / "mixture.yaml")
    assert saved.about["steps"] == stop.steps == method.episodes
    assert saved.average["good"] > 0.95
    assert saved.about["steadiness"]["verdict"] == "settled"
    assert saved.about["significant"] == {"good": True, "bad": True}
    table = caplog.text[caplog.text.index("domain") :]
    assert "significant" in table.splitlines()[0]
    assert "mixture: settled, 2 of 2 significant" in table
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == stop.steps
    again, _, trainer = settle(tmp_path, ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert again.episodes == method.episodes + 1  # settled still
    assert trainer.global_step == stop.steps + 1


def test_a_run_that_learns_nothing_goes_to_its_end(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        method, stop, _ = settle(tmp_path, centres=(0.0, 0.0), noise=1.0)
    assert stop.steps == 90
    assert not method.steadiness.stays
