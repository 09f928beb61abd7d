"""Checkpoints by the clock and at SIGTERM."""

import os
import signal
from datetime import timedelta

import pytest
import torch
from helpers import parameters_of, predict_last, quiet_trainer, small_network
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from module_helpers import WIDTH, adamw, make_data, make_reweighting

from tandem_pl import InputError, TandemModule
from tandem_pl.callbacks import TimedCheckpoint
from tandem_pl.callbacks.saving import timed_checkpoint as checkpoints
from tandem_pl.training import mixture_module
from tandem_pl.training.checkpoint_io import AtomicCheckpointIO

EPISODES, EPISODE = 3, 6  # make_reweighting: 2 free batches, 3 of probing, 1 of measuring


class Minutes(Callback):
    """A clock on which a batch takes a minute; records after which batches files were saved."""

    def __init__(self):
        self.now, self.saved = 0.0, []

    def __call__(self):
        return self.now

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.now += 60.0

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        self.saved.append(int(self.now // 60))


class Signal(Callback):
    """SIGTERM in the middle of a batch."""

    def __init__(self, batch):
        self.batch, self.seen = batch, 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen += 1
        if self.seen == self.batch:
            os.kill(os.getpid(), signal.SIGTERM)


def run(folder, *callbacks, ckpt_path=None, **options):
    """Train, and return everything that must be equal between two runs."""
    torch.manual_seed(3)
    module, method = TandemModule(small_network(WIDTH), predict_last, adamw), make_reweighting()
    trainer = quiet_trainer(
        folder,
        callbacks=[*callbacks, method],
        **{"max_epochs": EPISODES, "enable_checkpointing": True, "limit_val_batches": 1.0}
        | options,
    )
    trainer.fit(module, datamodule=make_data(), ckpt_path=ckpt_path)
    trajectory = [weights.tolist() for weights in method.trajectory]
    twins = [parameters_of(module.network).tolist(), parameters_of(module.reference).tolist()]
    return trainer.global_step, trajectory, method.steps, twins


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole"), enable_checkpointing=False)


def last(folder):
    return folder / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize(
    ("minutes", "batches"),
    [
        (1, list(range(1, 19))),
        (4, [4, 8, 12, 16, 18]),  # the end too
        (6, [6, 12, 18]),
        (6.5, [7, 14, 18]),
        (100, [18]),
    ],
)
def test_saves_by_the_clock(minutes, batches, whole, tmp_path, monkeypatch):
    clock = Minutes()
    monkeypatch.setattr(checkpoints, "monotonic", clock)
    assert run(tmp_path, TimedCheckpoint(minutes), clock) == whole
    assert clock.saved == batches
    assert os.listdir(tmp_path / "checkpoints") == ["last.ckpt"]
    assert torch.load(last(tmp_path), weights_only=True)["global_step"] == whole[0]


def test_saves_by_a_real_clock(tmp_path):
    clock = Minutes()
    run(tmp_path, TimedCheckpoint(minutes=1e-9), clock)
    assert clock.saved == list(range(1, 19))


@pytest.mark.parametrize("batch", [1, 2, 5, 6, 7, 11, 12, 17])
def test_sigterm_saves_and_the_resumed_run_is_the_same(batch, whole, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, TimedCheckpoint(), Signal(batch))
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    again = run(tmp_path, TimedCheckpoint(), ckpt_path=last(tmp_path))
    assert again == whole


def test_sigterm_in_the_last_batch_keeps_the_end(whole, tmp_path):
    with pytest.raises(SystemExit):
        run(tmp_path, TimedCheckpoint(), Signal(EPISODES * EPISODE))
    state = torch.load(last(tmp_path), weights_only=True)
    assert state["global_step"] == whole[0]
    again = run(tmp_path, TimedCheckpoint(), ckpt_path=last(tmp_path))
    assert again == whole


def test_is_stopped_twice_in_one_folder(whole, tmp_path):
    for batch in (4, 5):
        path = last(tmp_path) if last(tmp_path).exists() else None
        with pytest.raises(SystemExit):
            run(tmp_path, TimedCheckpoint(), Signal(batch), ckpt_path=path)
    assert run(tmp_path, TimedCheckpoint(), ckpt_path=last(tmp_path)) == whole
    assert os.listdir(tmp_path / "checkpoints") == ["last.ckpt"]


def test_says_how_to_resume(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(checkpoints, "rank_zero_info", said.append)
    with pytest.raises(SystemExit):
        run(tmp_path, TimedCheckpoint(), Signal(8))
    assert said == [
        f"\nstopped by SIGTERM at step 7; resume with --ckpt_path {last(tmp_path)}"
    ]  # the sixth batch was one of measuring


def test_works_after_other_callbacks_whatever_its_position(whole, tmp_path):
    """The checkpoint has the weights that the last batch of an episode changes."""
    with pytest.raises(SystemExit):
        run(tmp_path, TimedCheckpoint(), Signal(EPISODE))  # before the method in the list
    state = torch.load(last(tmp_path), weights_only=True)
    method = next(v for k, v in state["callbacks"].items() if "Reweighting" in k)
    assert method["trajectory"].tolist() == whole[1][:2]


@pytest.mark.parametrize("save_last", [True, "link"])
def test_shares_last_with_model_checkpoint(save_last, whole, tmp_path, monkeypatch):
    clock, folder = Minutes(), tmp_path / "mine"
    monkeypatch.setattr(checkpoints, "monotonic", clock)

    def own():
        settings = {"every_n_epochs": 2, "save_on_train_epoch_end": True}
        return ModelCheckpoint(folder, save_last=save_last, **settings)

    with pytest.raises(SystemExit):
        run(tmp_path, TimedCheckpoint(minutes=4), own(), clock, Signal(13))
    # 4, 8 and 12 by the clock, 12 by Lightning (once or twice), 13 at the signal
    assert sorted(set(clock.saved)) == [4, 8, 12, 13]
    assert sorted(os.listdir(folder)) == ["epoch=1-step=10.ckpt", "last.ckpt"]
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 11
    assert torch.load(folder / "epoch=1-step=10.ckpt", weights_only=True)["global_step"] == 10
    again = run(tmp_path, TimedCheckpoint(minutes=99), own(), ckpt_path=folder / "last.ckpt")
    assert again == whole
    assert sorted(os.listdir(folder)) == ["epoch=1-step=10.ckpt", "last.ckpt"]
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 15


def test_saves_the_end_without_other_checkpoint_callbacks(whole, tmp_path):
    run(tmp_path, TimedCheckpoint())
    assert torch.load(last(tmp_path), weights_only=True)["global_step"] == whole[0]


def test_leaves_the_end_to_model_checkpoint(tmp_path):
    run(tmp_path, TimedCheckpoint(), ModelCheckpoint(tmp_path / "checkpoints"))
    assert not last(tmp_path).exists()


def test_writes_whole_files_without_the_command_line(tmp_path):
    trainer = quiet_trainer(tmp_path, callbacks=[TimedCheckpoint()], enable_checkpointing=True)
    trainer.callbacks[-1].setup(
        trainer, TandemModule(small_network(WIDTH), predict_last, adamw), "fit"
    )
    assert type(trainer.strategy.checkpoint_io) is AtomicCheckpointIO


@pytest.mark.parametrize("minutes", [0, -1.0, float("nan")])
def test_refuses_minutes(minutes):
    with pytest.raises(InputError, match=f"minutes={minutes} must be positive"):
        TimedCheckpoint(minutes)


def test_refuses_a_model_checkpoint_that_would_save_nothing(tmp_path):
    dead = ModelCheckpoint(tmp_path, train_time_interval=timedelta(minutes=10))
    with pytest.raises(InputError, match=r"saves nothing.*TimedCheckpoint\(minutes=10\)"):
        run(tmp_path, TimedCheckpoint(), dead)


def test_lightnings_time_interval_still_saves_nothing(tmp_path, monkeypatch):
    """When this fails, Lightning can do it, and the error can be removed."""
    for place in (checkpoints, mixture_module):
        monkeypatch.setattr(place, "refuse_time_interval", lambda trainer: None)
    dead = ModelCheckpoint(tmp_path / "dead", train_time_interval=timedelta(0))
    run(tmp_path, dead, TimedCheckpoint())
    assert not list((tmp_path / "dead").glob("*"))


def test_without_others_lightning_reads_its_best_path(tmp_path):
    """`trainer.validate` after a fit loads it."""
    module = TandemModule(small_network(WIDTH), predict_last, adamw)
    callback, data = TimedCheckpoint(minutes=1e6), make_data()
    trainer = quiet_trainer(
        tmp_path, callbacks=[callback, make_reweighting()], max_epochs=2, enable_checkpointing=True
    )
    trainer.fit(module, datamodule=data)
    assert callback.best_model_path == str(tmp_path / "checkpoints" / "last.ckpt")
    trainer.limit_val_batches = 1.0
    assert trainer.validate(datamodule=data, ckpt_path="best", verbose=False)
