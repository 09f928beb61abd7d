"""`last.ckpt` by the clock and at every end of a run."""

import os
import signal
from datetime import timedelta

import pytest
import torch
from helpers import parameters_of, predict_last, quiet_trainer, small_network
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from module_helpers import WIDTH, adamw, make_data, make_reweighting

from tandem_pl import InputError, Mixture, TandemModule
from tandem_pl.callbacks import TimedCheckpoint, episode_end
from tandem_pl.training import last_checkpoint as checkpoints
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


def run(folder, *callbacks, ckpt_path=None, objective=predict_last, **options):
    """Train, and return everything that must be equal between two runs."""
    torch.manual_seed(3)
    module, method = TandemModule(small_network(WIDTH), objective, adamw), make_reweighting()
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


def test_the_end_is_saved_beside_a_model_checkpoint_without_a_last(whole, tmp_path):
    run(tmp_path, ModelCheckpoint(tmp_path / "checkpoints"))
    assert torch.load(last(tmp_path), weights_only=True)["global_step"] == whole[0]


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
    assert os.listdir(tmp_path / "dead") == ["last.ckpt"]  # of the end


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


# ---- every end of a run, also of a Trainer of one's own without any checkpoint callback ----


class Stop(Callback):
    """Ends the run after so many batches, by the way that is asked for."""

    def __init__(self, batch, way):
        self.batch, self.way, self.seen = batch, way, 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen += 1
        if self.seen == self.batch:
            if self.way == "stop":
                trainer.should_stop = True
            elif self.way == "error":
                raise RuntimeError("a callback of one's own")
            else:
                os.kill(os.getpid(), self.way)


@pytest.mark.parametrize("batch", [1, 4, 5, 6, 7, 12, 17])
@pytest.mark.parametrize("way", ["stop", "error", signal.SIGINT, signal.SIGTERM])
def test_every_end_leaves_a_last_checkpoint_to_resume_from(way, batch, whole, tmp_path):
    if way == "stop":
        run(tmp_path, Stop(batch, way))
    else:
        kind = RuntimeError if way == "error" else SystemExit
        with pytest.raises(kind) as stopped:
            run(tmp_path, Stop(batch, way))
        if kind is SystemExit:
            assert stopped.value.code == 128 + way
    state = torch.load(last(tmp_path), weights_only=True)
    steps = (batch // EPISODE) * 5 + min(batch % EPISODE, 5)  # a batch in six is one of measuring
    assert state["global_step"] == steps
    assert Mixture.load(tmp_path / "mixture.yaml").about["episodes"] == batch // EPISODE + (
        way == "stop" and batch % EPISODE == 5  # then only measuring was left
    )
    assert run(tmp_path, ckpt_path=last(tmp_path)) == whole


@pytest.mark.parametrize("batch", [2, 4, 6, 7, 11, 12])
def test_an_error_inside_a_batch_leaves_the_batch_before(batch, whole, tmp_path):
    seen = []

    def faulty(network, samples):
        seen.append(len(samples))
        if len(seen) == CALLS[batch]:
            raise RuntimeError("out of memory")
        return predict_last(network, samples)

    with pytest.raises(RuntimeError):
        run(tmp_path, objective=faulty)
    state = torch.load(last(tmp_path), weights_only=True)
    done = batch - 1
    assert state["global_step"] == (done // EPISODE) * 5 + min(done % EPISODE, 5)
    assert run(tmp_path, ckpt_path=last(tmp_path)) == whole


#: batch -> number of a call in it: of free batches there is one, of probe batches three (of the
#: first two), of measure batches two; after an episode there are eight of validation.
CALLS = {2: 2, 4: 6, 6: 11, 7: 21, 11: 29, 12: 32}


@pytest.mark.parametrize(("options", "episodes"), [({"max_steps": 10}, 2), ({"max_epochs": 2}, 2)])
def test_the_last_episode_is_measured_and_updated(options, episodes, whole, tmp_path):
    """Lightning ends at max_steps before the episode's measure batches."""
    step, trajectory, steps, _ = run(tmp_path, **{"max_epochs": -1} | options)
    assert (step, steps) == (10, [0, 5, 10])
    assert trajectory == whole[1][: episodes + 1]
    assert torch.load(last(tmp_path), weights_only=True)["global_step"] == 10
    assert run(tmp_path, ckpt_path=last(tmp_path)) == whole


def test_a_run_that_ends_inside_an_episode_says_so(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(episode_end, "rank_zero_info", said.append)
    run(tmp_path, max_steps=8, max_epochs=-1)
    assert said == [
        "the run ended 3 of 5 steps into an episode, whose update of the weights was not made: "
        "let max_steps be a multiple of 5."
    ]


def test_a_longer_run_goes_on_where_max_steps_cut_an_episode(whole, tmp_path):
    run(tmp_path, max_steps=8, max_epochs=-1)
    again = run(tmp_path, ckpt_path=last(tmp_path), max_steps=15, max_epochs=-1)
    assert again == whole


def test_a_second_interrupt_ends_at_once(tmp_path):
    class Twice(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 4:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, Twice())
    assert stopped.value.code == 1  # Lightning's, of a KeyboardInterrupt
    assert not last(tmp_path).exists()


def test_a_dry_run_and_a_run_without_checkpoints_save_nothing(tmp_path):
    run(tmp_path, enable_checkpointing=False)
    run(tmp_path, fast_dev_run=True)
    assert not last(tmp_path).exists()
