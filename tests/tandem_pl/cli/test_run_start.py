"""What a run says before its first step, and how many threads it uses."""

import logging
import os
import warnings

import pytest
import torch
from helpers import quiet_trainer
from toy import toy_data, toy_module

from tandem_pl.callbacks import DoGEReweighting, FixedMixture, TandemReweighting
from tandem_pl.cli import run_summary
from tandem_pl.cli.lightning_cli import is_no_advert
from tandem_pl.cli.run_start import Start, read_start, start_lines
from tandem_pl.cli.run_summary import RunSummary

QUICKSTART = Start(
    method="tandem",
    learned=True,
    domains=7,
    batch_size=16,
    step=0,
    steps=3000,
    episode=20,
    measured=32.0,
    cost=1.917,
    passes={"python": 0.29, "licences": 29.3},
)
HEAD = "learning the weights of 7 domains by tandem: "
PASSES = "passes over each domain at these weights: python 0.29, licences 29"
COST = "the run costs 1.9 times as much as plain training (forward and backward passes)"


def test_a_run_says_what_it_does_and_costs():
    assert start_lines(QUICKSTART) == [
        HEAD + "3000 steps of 16 samples; 150 episodes of 20 steps, 150 updates",
        "an update measures 32 samples of each domain; " + COST,
        PASSES,
    ]


@pytest.mark.parametrize(
    ("steps", "updates"), [(10, "0 updates in 10 steps are"), (25, "1 update in 25 steps is")]
)
def test_too_few_updates_are_a_sentence(steps, updates):
    lines = start_lines(QUICKSTART._replace(steps=steps))
    assert lines[3:] == [
        f"{updates} too few to learn weights from: raise max_steps to 600 (30 updates) or more."
    ]


def test_too_few_measured_samples_are_a_sentence():
    lines = start_lines(QUICKSTART._replace(measured=2.3))
    assert lines[1].startswith("an update measures 2.3 samples of each domain; ")
    assert lines[3:] == [
        "2.3 measured samples of each domain make noisy updates: raise measure_batches for 32 or "
        "more."
    ]


def test_one_of_a_thing_is_in_the_singular():
    one = QUICKSTART._replace(steps=30, episode=1, batch_size=1, measured=1.0, cost=1.0)
    lines = start_lines(one)
    assert lines[0] == HEAD + "30 steps of 1 sample; 30 episodes of 1 step, 30 updates"
    assert lines[1].startswith("an update measures 1 sample of each domain; the run costs as much ")
    assert lines[3].startswith("1 measured sample of each domain makes noisy updates: ")


def test_a_resumed_run_and_one_without_a_limit():
    assert start_lines(QUICKSTART._replace(step=1000))[0] == (
        HEAD + "3000 steps of 16 samples, from step 1000 on; 150 episodes of 20 steps, 150 updates"
    )
    lines = start_lines(QUICKSTART._replace(steps=None))
    assert lines[0] == HEAD + "no limit of steps of 16 samples"
    assert len(lines) == 2


def test_given_weights_have_no_episodes_and_no_cost():
    start = QUICKSTART._replace(method="fixed", learned=False, measured=None, cost=None, steps=40)
    assert start_lines(start) == ["training at given weights: 40 steps of 16 samples", PASSES]


def test_of_many_domains_the_fewest_and_the_most_passes_are_named():
    passes = {f"d{m}": m / 10 for m in range(30)}
    assert start_lines(QUICKSTART._replace(passes=passes))[2] == (
        "passes over each domain at these weights: 0 (d0) to 2.9 (d29)"
    )


def started(tmp_path, method, module, data=None, **options):
    """Fit with a summary; return the start that it read."""
    starts = []

    class Reads(RunSummary):
        def on_train_start(self, trainer, pl_module):
            starts.append(read_start(trainer))

    callbacks = [method, Reads()] if method else [Reads()]
    trainer = quiet_trainer(tmp_path, callbacks=callbacks, **options)
    trainer.fit(module, datamodule=data or toy_data())
    return starts[0]


def test_numbers_are_read_from_the_run(tmp_path):
    method = TandemReweighting(3, 2, 4)
    start = started(tmp_path, method, toy_module("TandemModule"), max_steps=12)
    assert start[:8] == ("tandem", True, 3, 12, 0, 12, 5, 16.0)
    assert start.cost == pytest.approx((3 + 3 * 2 - 1 + 2 * 4 / 3) / 5)
    assert start.passes == pytest.approx(dict.fromkeys(("twin", "other", "noise"), 144 / 3 / 120))


def test_methods_without_measured_batches_and_without_a_method(tmp_path):
    start = started(tmp_path / "doge", DoGEReweighting(), toy_module(), max_steps=4)
    assert (start.measured, start.cost) == (None, 3.0)
    start = started(
        tmp_path / "fixed",
        FixedMixture({"twin": 1, "other": 1, "noise": 2}),
        toy_module(),
        max_epochs=2,
    )
    assert (start.learned, start.steps, start.cost) == (False, 10, None)
    assert start.passes["noise"] == pytest.approx(0.5)
    start = started(tmp_path / "none", None, toy_module(), max_steps=4)
    assert (start.method, start.learned) == ("", False)


@pytest.fixture
def machine(monkeypatch):
    """A machine of 64 cores with a load of 60, and torch with as many threads as cores."""
    state = {"threads": 64}
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(run_summary, "count_cores", lambda: 64)
    monkeypatch.setattr(os, "getloadavg", lambda: (60.0, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(torch, "get_num_threads", lambda: state["threads"])
    monkeypatch.setattr(torch, "set_num_threads", lambda number: state.update(threads=number))
    return state


def test_a_loaded_machine_gets_fewer_threads(machine, tmp_path, caplog):
    trainer = quiet_trainer(tmp_path, callbacks=[RunSummary()], max_steps=1)
    with caplog.at_level("INFO"):
        trainer.fit(toy_module(), datamodule=toy_data())
    assert machine["threads"] == 4
    assert (
        "4 threads in place of 64, because 94% of the machine is busy; set OMP_NUM_THREADS to "
        "choose yourself."
    ) in caplog.messages


@pytest.mark.parametrize("reason", ["idle", "asked for"])
def test_threads_are_left_alone_on_an_idle_machine_and_if_asked_for(
    machine, tmp_path, monkeypatch, reason
):
    if reason == "idle":
        monkeypatch.setattr(os, "getloadavg", lambda: (10.0, 0.0, 0.0))
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", "64")
    trainer = quiet_trainer(tmp_path, callbacks=[RunSummary()], max_steps=1)
    trainer.fit(toy_module(), datamodule=toy_data())
    assert machine["threads"] == 64


def test_a_resumed_run_takes_the_threads_of_the_first(machine, tmp_path, monkeypatch):
    trainer = quiet_trainer(tmp_path, callbacks=[RunSummary()], max_steps=2)
    trainer.fit(toy_module(), datamodule=toy_data())
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    machine["threads"] = 64
    trainer = quiet_trainer(tmp_path, callbacks=[RunSummary()], max_steps=4)
    trainer.fit(toy_module(), datamodule=toy_data(), ckpt_path=tmp_path / "run.ckpt")
    assert machine["threads"] == 4


def test_lightnings_adverts_are_left_out():
    def passes(text):
        return is_no_advert(logging.LogRecord("name", logging.INFO, "", 0, text, None, None))

    assert not passes("💡 Tip: For seamless cloud logging, try installing [litlogger](https://...)")
    assert not passes("💡 Tip: For seamless cloud uploads, try installing [litmodels](https://...)")
    assert passes("GPU available: False, used: False")


def test_a_run_that_does_not_validate_gets_no_warning_of_it(tmp_path):
    trainer = quiet_trainer(tmp_path, limit_val_batches=1.0, max_steps=5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(toy_module(), datamodule=toy_data())
    assert not [warning for warning in caught if "is zero" in str(warning.message)]
