import numpy as np
import pytest
import torch
from helpers import QuadraticNetwork, half_squared_distance, quiet_trainer, random_rows

from tandem_pl import Mixture, TandemModule
from tandem_pl.callbacks import TandemReweighting
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.errors import InputError
from tandem_pl.run_files import (
    Signal,
    read_signal,
    read_trajectory,
    write_run_files,
    write_signal,
    write_trajectory,
)

NAMES = ["code", 'a, "quoted" name', "Bücher"]
FILES = {"mixture.yaml", "mixture.png", "trajectory.csv"}


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def test_trajectory_reads_back_bit_for_bit(tmp_path):
    weights = np.random.default_rng(0).dirichlet(np.ones(3), size=50)
    weights[0] = [1e-300, 0.1 + 0.2, 5e-324]
    steps = list(range(0, 500, 10))
    write_trajectory(tmp_path / "trajectory.csv", NAMES, steps, weights)
    names, back, read = read_trajectory(tmp_path / "trajectory.csv")
    assert (names, back) == (NAMES, steps)
    assert read.tobytes() == weights.tobytes()


@pytest.mark.parametrize(
    "content",
    ["", "step,a\n", "episode,a\n0,1\n", "step,a,b\n0,1\n", "step,a\n0,x\n", "step,a\n0,1\n1\n"],
)
def test_refuses_what_is_not_a_trajectory(tmp_path, content):
    path = tmp_path / "trajectory.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=r"trajectory\.csv"):
        read_trajectory(path)


def test_a_signal_reads_back_bit_for_bit(tmp_path):
    values = np.random.default_rng(0).normal(size=(7, 2, 3))
    values[0, 0] = [-1e-300, 0.1 + 0.2, 5e-324]
    path = tmp_path / "slope.csv"
    steps = [5, 9, 10, 11, 20, 21, 30]
    write_signal(path, NAMES, Signal("slope", ("delta", "error"), steps, values))
    assert path.read_text().startswith("step,domain,delta,error\n5,code,-1e-300,")
    domains, signal = read_signal(path)
    assert (domains, signal.name, signal.columns) == (NAMES, "slope", ("delta", "error"))
    assert signal.steps == steps
    assert signal.values.tobytes() == values.tobytes()


def test_a_signal_without_rows_reads_back(tmp_path):
    write_signal(tmp_path / "a.csv", NAMES, Signal("a", ("delta",), [], np.zeros((0, 1, 3))))
    domains, signal = read_signal(tmp_path / "a.csv")
    assert (domains, list(signal.steps), len(signal.values)) == ([], [], 0)


@pytest.mark.parametrize(
    "content",
    ["", "step,a\n0,1\n", "step,domain,x\n0,a,1\n0,b,1\n1,a,1\n", "step,domain,x\n0,a,y\n"],
)
def test_refuses_what_is_not_a_signal(tmp_path, content):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(InputError, match=r"a\.csv is not a signal"):
        read_signal(tmp_path / "a.csv")


def test_names_the_file_that_is_missing(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.csv"):
        read_trajectory(tmp_path / "nowhere.csv")


def test_writes_three_whole_files(tmp_path):
    mixture = Mixture(dict.fromkeys(NAMES, 1.0), about={"method": "fixed"})
    folder = tmp_path / "new" / "folder"
    for last in (10, 20):  # written again and again in a run
        write_run_files(folder, mixture, [0, last], np.stack([mixture.array] * 2))
    assert {path.name for path in folder.iterdir()} == FILES
    assert Mixture.load(folder / "mixture.yaml") == mixture
    assert (folder / "mixture.png").read_bytes().startswith(b"\x89PNG")
    assert read_trajectory(folder / "trajectory.csv")[1] == [0, 20]


def test_a_run_leaves_its_mixture_behind(tmp_path):
    train = {name: random_rows(12, 4, seed) for seed, name in enumerate(NAMES)}
    data = MixtureDataModule(train, {"target": random_rows(8, 4, 9)}, batch_size=6)
    reweighting = TandemReweighting(2, 2, 1, learning_rate=0.3)
    module = TandemModule(QuadraticNetwork(4), half_squared_distance, sgd)
    quiet_trainer(tmp_path, callbacks=[reweighting], max_epochs=4).fit(module, data)

    found = {path.name for path in tmp_path.iterdir()}
    assert found == FILES | {"hyper_gradient.csv"}  # and nothing temporary
    saved = Mixture.load(tmp_path / "mixture.yaml")
    assert saved.weights == reweighting.mixture.weights
    assert saved.average == reweighting.mixture.average
    assert saved.about == reweighting.mixture.about
    assert saved.about["steps"] == 16
    names, steps, weights = read_trajectory(tmp_path / "trajectory.csv")
    assert names == NAMES
    assert steps == [0, 4, 8, 12, 16]
    assert weights.tobytes() == np.stack(reweighting.trajectory).tobytes()
    assert weights[-1].tolist() == list(saved.weights.values())
    np.testing.assert_allclose(weights[2:].mean(axis=0), list(saved.average.values()), rtol=1e-12)
