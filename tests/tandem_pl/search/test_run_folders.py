"""Runs' folders as rows of the table: the weights so far, and the target losses."""

import numpy as np
import pytest
from toy import DOMAINS, toy_data, toy_module

from tandem_pl import Mixture
from tandem_pl.callbacks import TandemReweighting
from tandem_pl.errors import InputError
from tandem_pl.run_files import read_trajectory, write_trajectory
from tandem_pl.search import read_runs


def write_run(folder, losses="", steps=(0, 10, 20)):
    """Write a run on two domains whose weights change at each step."""
    folder.mkdir(parents=True)
    weights = np.linspace([1.0, 0.0], [0.0, 1.0], len(steps))
    Mixture({"web": 0.5, "code": 0.5}).save(folder / "mixture.yaml")
    write_trajectory(folder / "trajectory.csv", ["web", "code"], list(steps), weights)
    (folder / "metrics.csv").write_text(f"step,validation/loss,validation/loss/a/b,lr\n{losses}")


@pytest.mark.parametrize("logger", ["csv", "tensorboard"])
def test_an_online_runs_validations_are_rows(tmp_path, logger):
    from helpers import quiet_trainer
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    kind = CSVLogger if logger == "csv" else TensorBoardLogger
    trainer = quiet_trainer(
        tmp_path,
        logger=kind(tmp_path, name=None, version="run"),
        callbacks=[TandemReweighting(free_steps=2, probe_steps=1, measure_batches=1)],
        max_epochs=3,
        limit_val_batches=1.0,
        log_every_n_steps=1,
    )
    trainer.fit(toy_module("TandemModule"), toy_data(validate_target=True))
    with pytest.warns(UserWarning, match="validations of 1 run"):
        runs = read_runs(tmp_path / "run")
    domains, steps, weights = read_trajectory(tmp_path / "run" / "trajectory.csv")
    assert runs.domains == DOMAINS == tuple(domains)
    assert runs.length.tolist() == steps[1:]
    expected = [weights[:number].mean(axis=0) for number in (1, 2, 3)]  # episodes are equally long
    assert runs.weights == pytest.approx(np.array(expected))
    last = trainer.callback_metrics["validation/loss/t"].item()
    assert runs.metrics["loss/t"][-1] == pytest.approx(last, abs=1e-6)


def test_weights_are_those_that_batches_were_drawn_by(tmp_path):
    write_run(tmp_path / "a", "5,2.5,2.5,\n7,,,0.1\n15,2.0,2.0,\n40,1.5,1.5,\n")
    runs = read_runs(tmp_path / "a")
    assert runs.length.tolist() == [5, 15, 40]
    # web has 1, then 1/2 from step 10, then 0 from step 20 on
    assert runs.weights[:, 0] == pytest.approx([1.0, 12.5 / 15, 15 / 40])
    assert runs.metrics["loss/mean"].tolist() == [2.5, 2.0, 1.5]
    assert runs.metrics["loss/a/b"].tolist() == [2.5, 2.0, 1.5]
    assert runs.names[0] == "a at step 5"


def test_several_runs_are_one_table(tmp_path):
    write_run(tmp_path / "runs" / "version_0", "20,2.0,2.0,\n")
    write_run(tmp_path / "runs" / "version_1", steps=(0, 10))
    (tmp_path / "runs" / "version_1" / "validation.csv").write_text(
        "domain,loss,samples\na/b,1.75,30\nmean,1.75,30\nexp(mean loss),,30\n"
    )
    runs = read_runs(tmp_path / "runs")
    assert runs.names == ("version_0 at step 20", "version_1 at step 10")
    assert runs.weights == pytest.approx(np.array([[0.75, 0.25], [1.0, 0.0]]))
    assert runs.metrics["loss/mean"].tolist() == [2.0, 1.75]


def test_a_run_without_losses_is_one_sentence(tmp_path):
    write_run(tmp_path / "runs" / "a")
    with pytest.raises(InputError, match=r"has no target losses: train with validate_target"):
        read_runs(tmp_path / "runs" / "a")
    with pytest.raises(InputError, match=r"no mixture.yaml of a run"):
        read_runs(tmp_path)
