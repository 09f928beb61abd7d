"""Flags of the trainer: what each does in a run on a mixture, and the table of them."""

import inspect
import re
import warnings
from pathlib import Path

import pytest
import torch
from helpers import predict_last, quiet_trainer, random_rows, small_network
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from module_helpers import WIDTH, adamw, make_data, make_reweighting
from toy import toy_data, toy_module

import tandem_pl.training
from tandem_pl import InputError, MixtureModule, TandemModule
from tandem_pl.callbacks import (
    ClassificationMetrics,
    EvaluationTable,
    MixtureMonitor,
    SampleScores,
    TimedCheckpoint,
)
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.training.trainer_flags import check_optimization

EPISODE = 10  # 4 free batches, 5 of probing, 1 of measuring


def fit(folder, *callbacks, module=None, data=None, ckpt_path=None, reweighting=True, **options):
    """Train twins for 4 episodes; return trainer, method and data."""
    method = make_reweighting(4, 5, 1)
    torch.manual_seed(3)
    options = {"max_epochs": 4, "limit_val_batches": 1.0} | options
    callbacks = [*callbacks, method] if reweighting else list(callbacks)
    trainer = quiet_trainer(folder, callbacks=callbacks, **options)
    data = data or make_data()
    module = module or TandemModule(small_network(WIDTH), predict_last, adamw)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return trainer, method, data


def files(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The weights that a run without flags learns."""
    return fit(tmp_path_factory.mktemp("plain"))[1].weights


# ---- flags of automatic optimization ----


@pytest.mark.parametrize(
    ("flags", "key", "own"),
    [
        ({"accumulate_grad_batches": 2}, "accumulate_grad_batches=2", "micro_batch_size"),
        ({"gradient_clip_val": 0.5}, "gradient_clip_val=0.5", "gradient_clip_val of the module"),
        (
            {"gradient_clip_val": 0.5, "gradient_clip_algorithm": "norm"},
            "gradient_clip_val=0.5",
            "gradient_clip_val of the module",
        ),
        (
            {"gradient_clip_algorithm": "value"},
            "gradient_clip_algorithm='value'",
            "gradient_clip_val of the module clips by norm",
        ),
        ({"overfit_batches": 1}, "overfit_batches=1 ", "Subset"),
        ({"overfit_batches": 0.2}, "overfit_batches=0.2 ", "Subset"),
        ({"val_check_interval": 11}, "val_check_interval=11 ", "check_val_every_n_epoch to null"),
    ],
)
def test_flags_that_cannot_be_used_are_one_sentence_with_our_option(tmp_path, flags, key, own):
    for reweighting in (True, False):
        with pytest.raises(InputError, match=re.escape(key)) as refused:
            fit(tmp_path, reweighting=reweighting, **flags)
        assert own in str(refused.value)
        assert "automatic" not in str(refused.value)
        assert str(refused.value).count(". ") == 0
    assert files(tmp_path) == []


def test_flags_of_training_do_not_stop_an_evaluation(tmp_path):
    trainer = quiet_trainer(tmp_path, gradient_clip_val=1.0, limit_val_batches=1.0)
    module = MixtureModule(small_network(WIDTH), predict_last, adamw)
    trainer.validate(module, datamodule=make_data(), verbose=False)
    assert "validation/loss" in trainer.callback_metrics


class Other(LightningModule):
    """A module of another project, with automatic optimization."""

    def __init__(self):
        super().__init__()
        self.network = small_network(WIDTH)

    def training_step(self, batch, batch_idx):
        return predict_last(self.network, batch).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_modules_of_others_keep_their_flags_except_those_of_the_data(tmp_path):
    flags = {"accumulate_grad_batches": 2, "gradient_clip_val": 1.0, "limit_val_batches": 0}
    options = {"module": Other(), "reweighting": False, "max_steps": 3, **flags}
    trainer, _, data = fit(tmp_path, **options)
    assert (trainer.global_step, data.consumed) == (3, 5)  # an epoch's last batch steps too
    with pytest.raises(InputError, match="overfit_batches=1"):
        fit(tmp_path, **options, overfit_batches=1)


def test_synchronized_batch_norm_is_refused_or_warned_about(tmp_path, monkeypatch):
    trainer = quiet_trainer(tmp_path, strategy="ddp", devices=1, sync_batchnorm=True)
    with pytest.raises(InputError, match="sync_batchnorm=True needs GPUs"):
        check_optimization(trainer)
    trainer = quiet_trainer(tmp_path)
    trainer.strategy._layer_sync = TorchSyncBatchNorm()  # as a sharding strategy would have it
    with pytest.warns(UserWarning, match="sync_batchnorm=True has no effect with SingleDevice"):
        check_optimization(trainer)


def test_one_rank_of_ddp_needs_the_mixtures_own_sampler_too():
    data = make_data()
    data.trainer = Trainer(
        accelerator="cpu", devices=1, strategy="ddp", logger=False, enable_checkpointing=False
    )
    with pytest.raises(InputError, match=r"set Trainer\(use_distributed_sampler=False\)"):
        data.ranks()


# ---- epochs are episodes ----


@pytest.mark.parametrize(
    ("limit", "kept", "steps", "updates"), [(3, 3, 9, 1), (0.5, 5, 18, 2), (9, 9, 18, 2)]
)
def test_an_episode_that_is_cut_short_is_said_once(tmp_path, limit, kept, steps, updates):
    with pytest.warns(UserWarning, match="of an episode") as warned:
        trainer, method, _ = fit(tmp_path, limit_train_batches=limit)
    said = [str(w.message) for w in warned if "of an episode" in str(w.message)]
    assert len(said) == 1
    assert f"limit_train_batches={limit} ends an epoch after {kept} of the 10 batches" in said[0]
    assert "the arguments of TandemReweighting" in said[0]
    assert (trainer.global_step, method.episodes) == (steps, updates)


def test_a_static_mixture_is_told_of_epoch_batches(tmp_path):
    with pytest.warns(UserWarning, match="set the length of an episode by epoch_batches"):
        trainer, _, _ = fit(
            tmp_path,
            module=MixtureModule(small_network(WIDTH), predict_last, adamw),
            reweighting=False,
            limit_train_batches=3,
        )
    assert trainer.global_step == 3 + 2 + 3 + 2  # of 5 batches an epoch
    module = MixtureModule(small_network(WIDTH), predict_last, adamw)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*limit_train_batches")
        trainer, _, _ = fit(
            tmp_path, module=module, data=make_data(epoch_batches=3), reweighting=False
        )
    assert trainer.global_step == 12


@pytest.mark.parametrize("limit", [EPISODE, 11, 1.0])
def test_whole_episodes_are_not_warned_about(tmp_path, plain, limit):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*limit_train_batches")
        _, method, _ = fit(tmp_path, limit_train_batches=limit)
    assert method.weights.tolist() == plain.tolist()


def test_a_run_without_training_says_so(tmp_path):
    with pytest.warns(UserWarning, match="limit_train_batches=0: nothing is trained"):
        trainer, method, _ = fit(tmp_path, limit_train_batches=0)
    assert (trainer.global_step, method.episodes, files(tmp_path)) == (0, 0, [])


class Validations(Callback):
    """After how many batches the run was validated."""

    def __init__(self):
        self.batches = []

    def on_validation_start(self, trainer, pl_module):
        self.batches.append(trainer.datamodule.consumed)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, [10, 20]),
        ({"val_check_interval": 4}, [4, 8, 14, 18]),
        ({"val_check_interval": 0.5}, [5, 10, 15, 20]),
        ({"val_check_interval": 10}, [10, 20]),
        ({"val_check_interval": 8, "check_val_every_n_epoch": None}, [8, 16]),
        ({"val_check_interval": 11, "check_val_every_n_epoch": None}, [11]),
        ({"val_check_interval": {"microseconds": 1}}, list(range(1, 21))),
        ({"check_val_every_n_epoch": 2}, [20]),
        ({"num_sanity_val_steps": 1}, [0, 10, 20]),
        ({"limit_val_batches": 0}, []),
        ({"limit_val_batches": 0, "val_check_interval": 11}, []),
    ],
)
def test_validation_comes_when_the_flags_say(tmp_path, flags, expected):
    validations = Validations()
    fit(tmp_path, validations, max_epochs=2, **flags)
    assert validations.batches == expected


def test_a_resume_inside_an_episode_validates_at_the_same_batches(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, every_n_train_steps=5, save_top_k=-1)
    flags = {"max_epochs": 2, "val_check_interval": 8}
    fit(tmp_path, checkpoint, enable_checkpointing=True, **flags)
    validations = Validations()
    fit(tmp_path, validations, ckpt_path=tmp_path / "epoch=0-step=5.ckpt", **flags)
    assert validations.batches == [8, 18]


# ---- flags that change nothing that is learned ----


@pytest.mark.parametrize(
    "flags",
    [
        {"detect_anomaly": True},
        {"deterministic": True},
        {"benchmark": False},
        {"inference_mode": False},
        {"use_distributed_sampler": False},
        {"log_every_n_steps": 1},
        {"min_epochs": 2},
        {"min_steps": 5},
        {"profiler": "simple"},
        {"enable_autolog_hparams": False},
        {"sync_batchnorm": True},
    ],
    ids=lambda flags: next(iter(flags)),
)
def test_flags_that_leave_the_mixture_alone(tmp_path, plain, flags):
    was = torch.are_deterministic_algorithms_enabled()
    try:
        _, method, _ = fit(tmp_path, **flags)
    finally:
        torch.use_deterministic_algorithms(was)
    assert method.weights.tolist() == plain.tolist()


def test_reloading_is_not_needed_and_changes_nothing(tmp_path, plain):
    with pytest.warns(UserWarning, match="reload_dataloaders_every_n_epochs=1 is not needed"):
        _, method, _ = fit(tmp_path, reload_dataloaders_every_n_epochs=1)
    assert method.weights.tolist() == plain.tolist()


def test_barebones_keeps_the_mixture_and_its_files(tmp_path, plain):
    method = make_reweighting(4, 5, 1)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        barebones=True,
        max_epochs=4,
        callbacks=[method, MixtureMonitor()],
        default_root_dir=tmp_path,
    )
    torch.manual_seed(3)
    module = TandemModule(small_network(WIDTH), predict_last, adamw)
    with pytest.warns(UserWarning, match=r"You are trying to `self.log\(\)`"):
        trainer.fit(module, datamodule=make_data())
    assert method.weights.tolist() == plain.tolist()
    assert files(tmp_path) == [
        "hyper_gradient.csv",
        "mixture.png",
        "mixture.yaml",
        "trajectory.csv",
    ]


# ---- evaluation ----


def several(size=12, **options):
    rows = {name: random_rows(size, WIDTH, seed) for seed, name in enumerate("abc")}
    return MixtureDataModule(rows, rows, rows, batch_size=6, **options)


@pytest.mark.parametrize(
    ("verb", "flag"),
    [
        ("validate", "limit_val_batches"),
        ("test", "limit_test_batches"),
        ("predict", "limit_predict_batches"),
    ],
)
@pytest.mark.parametrize("limit", [2, 0.5])
def test_an_evaluation_of_the_first_domains_alone_is_said(tmp_path, verb, flag, limit):
    module = MixtureModule(small_network(WIDTH), predict_last, adamw)
    kept = 2 if limit == 2 else 3
    trainer = quiet_trainer(tmp_path, **{flag: limit})
    with pytest.warns(UserWarning, match=f"{flag}={limit} evaluates {kept} of 6 batches"):
        getattr(trainer, verb)(module, datamodule=several())
    trainer = quiet_trainer(tmp_path, **{flag: 6})
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*evaluates")
        getattr(trainer, verb)(module, datamodule=several())


# ---- a dry run ----


@pytest.mark.parametrize("batches", [True, EPISODE])
def test_a_dry_run_writes_nothing(tmp_path, batches, capsys):
    before = tmp_path / "mixture.yaml"
    before.write_text("weights: {a: 1.0}\n")
    module = TandemModule(toy_module().network, toy_module().objective, adamw)
    callbacks = [
        MixtureMonitor(),
        SampleScores(),
        EvaluationTable(),
        ClassificationMetrics(),
        TimedCheckpoint(minutes=1e-9),
        last := ModelCheckpoint(save_last=True, every_n_epochs=50),
        ModelCheckpoint(save_last="link", every_n_train_steps=1),
    ]
    options = {
        "fast_dev_run": batches,
        "logger": CSVLogger(tmp_path),
        "enable_checkpointing": True,
    }
    rows = toy_data().train_sets
    data = MixtureDataModule(rows, {"t": rows["twin"]}, rows, batch_size=12, validate_target=True)
    trainer, method, _ = fit(tmp_path, *callbacks, module=module, data=data, **options)
    assert (trainer.global_step, method.episodes) == ((1, 0) if batches is True else (9, 1))
    for verb in ("validate", "test", "predict"):
        getattr(trainer, verb)(module, datamodule=data)
    assert files(tmp_path) == ["mixture.yaml"]
    assert before.read_text() == "weights: {a: 1.0}\n"
    assert last.save_last is True  # for a real run with the same callbacks
    assert "the run ended" not in capsys.readouterr().err


def test_a_dry_run_that_fails_writes_nothing(tmp_path):
    def broken(network, samples):
        raise RuntimeError("broken")

    module = TandemModule(small_network(WIDTH), broken, adamw)
    with pytest.raises(RuntimeError, match="broken"):
        fit(tmp_path, TimedCheckpoint(), module=module, fast_dev_run=3, enable_checkpointing=True)
    nan = TandemModule(
        small_network(WIDTH),
        lambda network, samples: predict_last(network, samples) * float("nan"),
        adamw,
        max_skipped_updates=2,
    )
    with pytest.raises(InputError, match=r"set gradient_clip_val\.$"):
        fit(tmp_path, module=nan, fast_dev_run=5)
    assert files(tmp_path) == []


# ---- the table ----


def test_the_table_names_every_flag_and_no_other():
    page = Path(tandem_pl.training.__path__[0], "README.md").read_text(encoding="utf-8")
    section = page.split("## Flags of the trainer")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    expected = [name for name in inspect.signature(Trainer.__init__).parameters if name != "self"]
    assert sorted(named) == sorted(expected)
