"""What TensorBoard shows reaches Weights & Biases and MLflow too.

Neither is installed everywhere: here the loggers are Lightning's own classes on clients that record
their calls, with the signatures of wandb.Run and mlflow.MlflowClient. Two tests use the libraries.
"""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import QuadraticNetwork, half_squared_distance, quiet_trainer
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy import samples, toy_module

from tandem_pl import InputError, Mixture, TandemModule
from tandem_pl.callbacks import (
    ClassificationMetrics,
    ImageSheet,
    MixtureMonitor,
    TandemReweighting,
)
from tandem_pl.callbacks.monitoring.logger_outputs import log_figure, log_histograms
from tandem_pl.datamodules import MixtureDataModule

WIDTH = 4
FILES = ["mixture.yaml", "mixture.png", "trajectory.csv", "hyper_gradient.csv"]
HEADER = ["domain", "start", "average", "last"]


class Recording(WandbLogger):
    """Lightning's logger on a run that records its calls."""

    def __init__(self, folder):
        self.logged, self.saved = [], []
        self._prefix, self._save_dir, self._project, self._id = "", str(folder), "p", "id"
        self._checkpoint_callbacks, self._log_model, self._sync_tensorboard = {}, False, False
        self._wandb_init, self._experiment = {}, None

    @property
    def experiment(self):
        def log(data, step=None, commit=None):
            self.logged.append(data)

        def save(glob_str=None, base_path=None, policy="live"):
            self.saved.append((glob_str, base_path, policy))

        return SimpleNamespace(log=log, save=save, config=SimpleNamespace(update=lambda *a, **k: 0))

    def of(self, tag):
        """The values of a tag, by step."""
        return {d["trainer/global_step"]: d[tag] for d in self.logged if tag in d}

    def finalize(self, status):
        pass


class Client:
    """The part of mlflow.MlflowClient that we use."""

    def __init__(self):
        self.images, self.texts, self.artifacts = {}, {}, []

    def log_image(
        self,
        run_id,
        image,
        artifact_file=None,
        key=None,
        step=None,
        timestamp=None,
        synchronous=None,
    ):
        assert run_id == "run"
        assert artifact_file is None  # either this, or key and step
        assert image.dtype == np.uint8
        assert image.ndim == 3
        self.images.setdefault(key, {})[step] = image

    def log_text(self, run_id, text, artifact_file):
        assert run_id == "run"
        self.texts[artifact_file] = text

    def log_artifact(self, run_id, local_path, artifact_path=None):
        assert run_id == "run"
        self.artifacts.append(local_path)


class RecordingMLFlow(MLFlowLogger):
    """Lightning's logger on a client that records its calls."""

    def __init__(self, folder):
        self.client, self._prefix = Client(), ""
        self._tracking_uri = f"sqlite:///{folder}/mlflow.db"

    name, version, run_id = "experiment", "run", "run"

    @property
    def experiment(self):
        return self.client

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params):
        pass

    def finalize(self, status):
        pass

    def after_save_checkpoint(self, checkpoint_callback):
        pass


@pytest.fixture
def wandb(monkeypatch):
    kinds = {name: staticmethod(lambda *a, name=name, **k: (name, a, k)) for name in ("Table",)}
    kinds |= {name: staticmethod(lambda v, name=name: (name, v)) for name in ("Image", "Histogram")}
    module = type("wandb", (), kinds)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def rows(size, seed):
    return torch.randn(size, WIDTH, dtype=torch.float64, generator=torch.manual_seed(seed))


def run(folder, loggers, callbacks=(), sets=2, **options):
    train = {f"d{m}": rows(10, m) for m in range(sets)}
    data = MixtureDataModule(train, {"t": rows(8, 99)}, batch_size=8)
    method = TandemReweighting(2, 2, 1, learning_rate=0.1)
    options = {"max_epochs": 3, "log_every_n_steps": 1} | options
    trainer = quiet_trainer(
        folder, callbacks=[*callbacks, MixtureMonitor(1, 2), method], logger=loggers, **options
    )
    sgd = lambda parameters: torch.optim.SGD(parameters, 0.1)  # noqa: E731
    trainer.fit(TandemModule(QuadraticNetwork(WIDTH), half_squared_distance, sgd), data)
    return method


def test_pictures_the_table_and_the_mixture_reach_all_three(tmp_path, wandb):
    board = TensorBoardLogger(tmp_path, name="", version="", default_hp_metric=False)
    weights, flow = Recording(tmp_path), RecordingMLFlow(tmp_path)
    method = run(tmp_path, [board, weights, flow, CSVLogger(tmp_path / "csv")])
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0, "images": 0}).Reload()
    steps = [event.step for event in events.Images("mixture/weights")]
    assert steps == [8, 12]
    assert list(weights.of("mixture/weights")) == list(flow.client.images["mixture/weights"])
    assert list(weights.of("mixture/weights")) == steps
    for step in steps:
        [(kind, pixels)] = weights.of("mixture/weights")[step]
        assert kind == "Image"
        assert pixels.shape == (400, 800, 3)
        assert pixels.std() > 10  # not blank
        assert np.array_equal(pixels, flow.client.images["mixture/weights"][step])

    expected = [
        [name, 0.5, float(average), float(last)]
        for name, average, last in zip(
            method.domains, method.averaged(), method.weights, strict=True
        )
    ]
    kind, _, options = weights.of("mixture/table")[12]
    assert (kind, options["columns"], options["data"]) == ("Table", HEADER, expected)
    lines = flow.client.texts["mixture/table.csv"].splitlines()
    assert lines[0] == ",".join(HEADER)
    assert [line.split(",") for line in lines[1:]] == [[r[0], *map(repr, r[1:])] for r in expected]
    [text] = events.Tensors("mixture/table/text_summary")
    assert f"{expected[0][2]:.4f}" in text.tensor_proto.string_val[0].decode()

    paths = [str(tmp_path / name) for name in FILES]
    assert weights.saved == [(path, str(tmp_path), "now") for path in paths]
    assert flow.client.artifacts == paths
    assert Mixture.load(tmp_path / "mixture.yaml")["d0"] == pytest.approx(method.weights[0])
    assert any("train/loss" in logged for logged in weights.logged)


def test_other_loggers_and_dry_runs_get_nothing(tmp_path, wandb):
    weights, flow = Recording(tmp_path), RecordingMLFlow(tmp_path)
    run(tmp_path, [weights, flow], fast_dev_run=5)
    assert (weights.logged, weights.saved, vars(flow.client)) == ([], [], vars(Client()))
    run(tmp_path, CSVLogger(tmp_path))
    assert not any("image" in str(path) for path in tmp_path.rglob("*"))


def test_mlflow_as_plain_files_is_refused(tmp_path):
    flow = RecordingMLFlow(tmp_path)
    flow._tracking_uri = f"file:{tmp_path}"
    with pytest.raises(InputError, match="give it tracking_uri: sqlite"):
        run(tmp_path, flow)
    assert vars(flow.client) == vars(Client())


def test_runs_of_these_loggers_have_folders_of_their_own(tmp_path, wandb):
    run(tmp_path, Recording(tmp_path))  # of project "p" and id "id", as ModelCheckpoint saves
    assert {path.name for path in (tmp_path / "p" / "id").iterdir()} >= set(FILES)
    assert not (tmp_path / "mixture.yaml").exists()


def test_other_ranks_log_nothing(tmp_path, wandb):
    logger = Recording(tmp_path)
    trainer = SimpleNamespace(is_global_zero=False, loggers=[logger], global_step=3)
    log_figure(trainer, "x", lambda: pytest.fail("nothing is drawn"))
    trainer.is_global_zero = True
    log_figure(trainer, "x", Figure)
    assert list(logger.of("x")) == [3]


def test_histograms_of_many_domains(tmp_path, wandb):
    logger = Recording(tmp_path)
    method = run(tmp_path, [logger, RecordingMLFlow(tmp_path)], sets=31)
    kind, values = logger.of("histogram/weight_over_uniform")[12]
    assert kind == "Histogram"
    assert np.allclose(values, 31 * method.weights)
    trainer = SimpleNamespace(is_global_zero=True, loggers=[CSVLogger(tmp_path)], global_step=3)
    log_histograms(trainer, {"x": np.zeros(3)})


class Pictures(torch.utils.data.Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return {"image": torch.full((3, 4, 4), index / 6), "label": index % 2}


def test_images_and_confusion_reach_them_too(tmp_path, wandb):
    weights, flow = Recording(tmp_path), RecordingMLFlow(tmp_path)
    rows = {"twin": samples("twin", 24, 0)}
    data = MixtureDataModule(rows, rows, rows, batch_size=12, validate_target=True)
    metrics = ClassificationMetrics(confusion_every_n_validations=1)
    options = {"max_steps": 2, "limit_val_batches": 1.0, "logger": [weights, flow]}
    quiet_trainer(tmp_path, callbacks=[metrics], **options).fit(toy_module(), data)
    assert list(weights.of("validation/confusion")) == [2]
    assert list(flow.client.images["validation/confusion"]) == [2]

    data = MixtureDataModule({"x": Pictures(), "y": Pictures()}, batch_size=4)
    sheet = ImageSheet(images=2)
    trainer = SimpleNamespace(
        is_global_zero=True,
        loggers=[weights, flow],
        global_step=7,
        callbacks=[],
        datamodule=data,
    )
    data.setup("fit")
    sheet._draw(trainer)
    [(kind, pixels)] = weights.of("mixture/images")[7]
    assert kind == "Image"
    assert np.array_equal(pixels, flow.client.images["mixture/images"][7])


# ---- with the libraries ----


def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(project="tandem", save_dir=str(tmp_path), offline=True)
    run(tmp_path, logger)
    logger.experiment.finish()
    [folder] = tmp_path.glob("wandb/offline-run-*/files")
    assert len(list(folder.rglob("media/images/mixture/weights*.png"))) == 2
    assert len(list(folder.rglob("media/table/mixture/table*.json"))) == 1
    assert {path.name for path in folder.iterdir()} >= set(FILES)


def test_mlflow_offline(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("alembic", reason="mlflow-skinny has no SQL store")
    logger = MLFlowLogger(
        "tandem",
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db",
        artifact_location=(tmp_path / "artifacts").as_uri(),
    )
    run(tmp_path, logger)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    paths = {item.path for item in client.list_artifacts(logger.run_id)}
    assert paths >= {*FILES, "mixture", "images"}
    found = list((tmp_path / "artifacts").rglob("images/mixture*weights*.png"))
    assert len(found) >= 2
    history = client.get_metric_history(logger.run_id, "train/loss/d0")
    assert [metric.step for metric in history] == [4, 8, 12]
