"""The history of hyper-gradients: it explains the trajectory, and survives a resume."""

import numpy as np
import pytest
import torch
from helpers import QuadraticNetwork, half_squared_distance, quiet_trainer, random_rows
from lightning.pytorch import Callback

from tandem_pl import MixtureModule, TandemModule
from tandem_pl.callbacks import FixedMixture, TandemReweighting
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.run_files import read_signal, read_trajectory
from tandem_pl.simplex import projected_step

PENALTY, RATE, FLOOR = 1.5, 0.4, 0.05
FILES = ("mixture.yaml", "trajectory.csv", "hyper_gradient.csv")


class SaveEverywhere(Callback):
    def __init__(self, folder):
        self.folder, self.count = folder, 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.count += 1
        trainer.save_checkpoint(self.folder / f"{self.count:02d}.ckpt")


def run(folder, *callbacks, ckpt_path=None, loss=half_squared_distance, episodes=4):
    train = {name: random_rows(12, 4, seed) for seed, name in enumerate(("a", "b", "c"))}
    data = MixtureDataModule(train, {"t": random_rows(8, 4, 9)}, batch_size=6)
    method = TandemReweighting(1, 2, 2, learning_rate=RATE, floor=FLOOR)
    module = TandemModule(
        QuadraticNetwork(4), loss, lambda p: torch.optim.SGD(p, lr=0.1), penalty=PENALTY
    )
    trainer = quiet_trainer(folder, callbacks=[method, *callbacks], max_epochs=episodes)
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return method


def test_the_hyper_gradients_give_the_trajectory(tmp_path):
    method = run(tmp_path)
    domains, signal = read_signal(tmp_path / "hyper_gradient.csv")
    names, steps, weights = read_trajectory(tmp_path / "trajectory.csv")
    assert domains == names == ["a", "b", "c"]
    assert signal.steps == steps[1:]
    assert signal.columns == ("delta", "error", "samples")
    assert signal.values.shape == (4, 3, 3)
    assert np.abs(signal.values[:, 0]).min() > 0
    for t, (delta, error, samples) in enumerate(signal.values):
        expected = projected_step(weights[t], PENALTY * delta, RATE, FLOOR)
        assert weights[t + 1].tobytes() == expected.tobytes()
        assert samples.tolist() == [4.0, 4.0, 4.0]  # of 2 batches of 6
        assert (error > 0).all()
    assert method.metrics["hypergradient/b"] == PENALTY * signal.values[-1, 0, 1]


def test_a_resumed_run_ends_with_the_same_files(tmp_path):
    (tmp_path / "saved").mkdir()
    run(tmp_path / "whole", SaveEverywhere(tmp_path / "saved"))
    whole = {name: (tmp_path / "whole" / name).read_bytes() for name in FILES}
    for batch in (2, 4, 5, 9, 10, 13):
        folder = tmp_path / f"again{batch}"
        run(folder, ckpt_path=tmp_path / "saved" / f"{batch:02d}.ckpt")
        assert {name: (folder / name).read_bytes() for name in FILES} == whole
    state = torch.load(tmp_path / "saved" / "20.ckpt", weights_only=True)
    kept = next(iter(state["callbacks"].values()))["signals"]
    assert kept.shape == (4, 3, 3)
    assert kept.dtype == torch.float64


def test_a_checkpoint_without_history_still_loads(tmp_path):
    (tmp_path / "saved").mkdir()
    run(tmp_path / "whole", SaveEverywhere(tmp_path / "saved"))
    path = tmp_path / "saved" / "10.ckpt"  # after two episodes
    checkpoint = torch.load(path, weights_only=True)
    for state in checkpoint["callbacks"].values():
        del state["signals"], state["signal_steps"]
    torch.save(checkpoint, path)
    method = run(tmp_path / "again", ckpt_path=path)
    assert len(method.trajectory) == 5
    whole = read_signal(tmp_path / "whole" / "hyper_gradient.csv")[1]
    signal = read_signal(tmp_path / "again" / "hyper_gradient.csv")[1]
    assert signal.steps == whole.steps[2:]
    assert signal.values.tobytes() == whole.values[2:].tobytes()


def test_an_episode_that_is_skipped_has_no_row(tmp_path):
    calls = []

    def sometimes(network, samples):
        losses = half_squared_distance(network, samples)
        calls.append(torch.is_grad_enabled())
        measured = sum(not train for train in calls)
        return losses * torch.nan if not calls[-1] and measured == 1 else losses

    with pytest.warns(UserWarning, match="not finite"):
        method = run(tmp_path, loss=sometimes, episodes=3)
    assert method.skipped_updates == 1
    assert read_signal(tmp_path / "hyper_gradient.csv")[1].steps == method.steps[2:]
    assert len(method.trajectory) == 4


def test_a_second_fit_starts_anew(tmp_path):
    method = run(tmp_path)
    train = {"x": random_rows(12, 4, 0), "y": random_rows(12, 4, 1)}
    data = MixtureDataModule(train, {"t": random_rows(8, 4, 9)}, batch_size=6)
    module = TandemModule(
        QuadraticNetwork(4), half_squared_distance, lambda p: torch.optim.SGD(p, lr=0.1)
    )
    quiet_trainer(tmp_path / "b", callbacks=[method], max_epochs=2).fit(module, data)
    assert method.history.values.shape == (2, 3, 2)


def test_a_method_without_a_signal_has_no_file(tmp_path):
    data = MixtureDataModule({"a": random_rows(12, 4, 0)}, batch_size=6, epoch_batches=2)
    module = MixtureModule(
        QuadraticNetwork(4), half_squared_distance, lambda p: torch.optim.SGD(p, lr=0.1)
    )
    method = FixedMixture()
    quiet_trainer(tmp_path, callbacks=[method], max_epochs=2).fit(module, data)
    assert method.history is None
    assert not (tmp_path / "hyper_gradient.csv").exists()
    assert (tmp_path / "trajectory.csv").exists()
