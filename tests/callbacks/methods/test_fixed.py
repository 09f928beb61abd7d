import numpy as np
import pytest
from helpers import QuadraticNetwork, half_squared_distance, quiet_trainer, random_rows
from lightning.pytorch import Callback
from torch.optim import SGD

from tandem_pl import InputError, Mixture, MixtureModule
from tandem_pl.callbacks import FixedMixture, TandemReweighting
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.run_files import write_trajectory


class Drawn(Callback):
    def __init__(self):
        self.domains = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.domains.append(batch.domains.tolist())


def fit(tmp_path, *callbacks, weights=None, **options):
    train = {name: random_rows(size, 3, size) for name, size in (("a", 5), ("b", 20))}
    data = MixtureDataModule(train, batch_size=8, weights=weights)
    module = MixtureModule(
        QuadraticNetwork(3), half_squared_distance, lambda params: SGD(params, 0.1)
    )
    trainer = quiet_trainer(tmp_path, callbacks=list(callbacks), **({"max_epochs": 2} | options))
    trainer.fit(module, datamodule=data)


def share_of_a(batches):
    return float(np.mean([domain == 0 for batch in batches for domain in batch]))


def test_given_weights_are_drawn_and_kept_on_file(tmp_path):
    drawn, method = Drawn(), FixedMixture({"a": 3, "b": 1}, episode_steps=4)
    fit(tmp_path, method, drawn)
    assert len(drawn.domains) == 8
    assert share_of_a(drawn.domains) == 0.75
    saved = Mixture.load(tmp_path / "mixture.yaml")
    assert saved.weights == saved.average == {"a": 0.75, "b": 0.25}
    assert saved.about["samples"] == {"a": 48, "b": 16}
    assert saved.about["epochs"] == {"a": 9.6, "b": 0.8}


def test_without_weights_it_takes_the_datamodules(tmp_path):
    method = FixedMixture()
    fit(tmp_path, method, weights="proportional")
    assert method.mixture.weights == {"a": 0.2, "b": 0.8}


def test_an_epoch_without_a_length_holds_the_data_once(tmp_path):
    drawn = Drawn()
    fit(tmp_path, FixedMixture(), drawn, max_epochs=1)
    assert len(drawn.domains) == 4  # 25 samples in batches of 8


def test_a_schedule_changes_at_its_exact_batch(tmp_path):
    drawn = Drawn()
    pieces = [
        {"step": 0, "weights": {"a": 1, "b": 0}},
        {"step": 3, "weights": {"a": 0, "b": 1}},
        {"step": 9, "weights": "uniform"},
    ]
    fit(tmp_path, FixedMixture(schedule=pieces, episode_steps=5), drawn, max_epochs=3)
    shares = [share_of_a([batch]) for batch in drawn.domains]
    assert shares == [1.0] * 3 + [0.0] * 6 + [0.5] * 6


def test_a_trajectory_is_replayed(tmp_path):
    path = tmp_path / "trajectory.csv"
    write_trajectory(path, ["b", "a"], [0, 2, 4], np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]))
    for given in (str(path), path):
        drawn, method = Drawn(), FixedMixture(schedule=given, episode_steps=6)
        fit(tmp_path / "run", method, drawn, max_epochs=1)
        assert [share_of_a([batch]) for batch in drawn.domains] == [0, 0, 1, 1, 0.5, 0.5]
        assert method.settings()["schedule"] == str(path)


def test_a_schedule_takes_the_number_of_samples_from_the_run(tmp_path):
    """12 batches of 8 see the 5 samples of a 4 times at most."""
    method = FixedMixture(schedule=[{"step": 0, "weights": "unimax:4"}], episode_steps=6)
    fit(tmp_path, method)
    assert method.weights.tolist() == pytest.approx([20 / 96, 76 / 96])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "uniform", "schedule": "x.csv"}, "weights and schedule are both given"),
        ({"episode_steps": 0}, "episode_steps=0 must be at least 1"),
        ({"schedule": "gone.csv"}, "gone.csv is not a trajectory.csv"),
        ({"schedule": [{"step": 2, "weights": None}]}, r"schedule has the steps \[2\]"),
        (
            {"schedule": [{"step": "a", "weights": None}]},
            r"schedule\[0\].step='a' must be at least 0",
        ),
        ({"schedule": [{"step": 0.5, "weights": None}]}, r"step=0.5 must be a whole number"),
        ({"schedule": [{"step": 0}]}, r"schedule\[0\]=.* must be a map with 'step' and 'weights'"),
        ({"weights": {"a": 1, "c": 1}}, "unknown domain 'c'"),
    ],
)
def test_refuses_by_name(options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        fit(tmp_path, FixedMixture(**options))


def test_two_callbacks_that_set_weights_are_refused(tmp_path):
    with pytest.raises(InputError, match="FixedMixture, TandemReweighting, which all set"):
        fit(tmp_path, FixedMixture(), TandemReweighting())
