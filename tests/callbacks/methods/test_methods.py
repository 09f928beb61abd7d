"""What every method must pass. This file is also the program that each of two processes runs.

A row of METHODS needs a row in `method_cases.CASES`, which says what is quick and what to expect.
"""

import csv
import inspect
import pkgutil
import sys
from importlib import import_module
from pathlib import Path

import method_cases
import numpy as np
import pytest
import torch
import toy
from helpers import parameters_of
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from method_cases import CASES, ROWS, fit, make
from ranks import keep_result, run_program
from toy import DOMAINS, train_reference

import tandem_pl.callbacks
from tandem_pl import Mixture, run_files
from tandem_pl.callbacks import ReweightingCallback, methods
from tandem_pl.callbacks.loss_weighting import LossWeighting
from tandem_pl.callbacks.methods.table import METHODS
from tandem_pl.callbacks.training_losses import TrainingLossReweighting


class SaveAtPhases(Callback):
    """A checkpoint after each segment's first batch, and after each episode's last."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.paths, self.phases, self.ends = folder, [], [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if not (batch.first or batch.last):
            return
        self.paths.append(self.folder / f"{len(self.paths)}.ckpt")
        self.phases.append(batch.phase)
        if batch.last:
            self.ends.append(len(self.paths) - 1)
        trainer.save_checkpoint(self.paths[-1])


class NoPicture:
    """In place of a figure where a test looks at the numbers alone: drawing takes longer."""

    def __init__(self, *drawn) -> None:
        pass

    def savefig(self, *where, **options) -> None:
        pass


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> str:
    return str(train_reference(tmp_path_factory.mktemp("reference") / "reference.ckpt"))


@pytest.fixture(scope="module")
def learned(reference, tmp_path_factory):
    """name -> (method, folder) of the run that must learn, made when first asked for."""
    made: dict[str, tuple[ReweightingCallback, Path]] = {}

    def learn(name: str):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            method, logger = make(name, reference), CSVLogger(folder, name="", version="")
            fit(name, folder, method, max_steps=CASES[name].steps, max_epochs=-1, logger=logger)
            made[name] = method, folder
        return made[name]

    return learn


# ---- the tables are whole ----


def test_every_reweighting_callback_has_a_row() -> None:
    files = [file.name for file in pkgutil.iter_modules(methods.__path__)]
    modules = [tandem_pl.callbacks, *(import_module(f"{methods.__name__}.{f}") for f in files)]
    found = [getattr(module, name) for module in modules for name in dir(module)]
    callbacks = {v for v in found if isinstance(v, type) and issubclass(v, ReweightingCallback)}
    bases = {ReweightingCallback, LossWeighting, TrainingLossReweighting}
    assert callbacks - bases == {row.load() for row in METHODS.values()}


@pytest.mark.parametrize("name", METHODS)
def test_the_class_path_is_that_of_the_callback(name) -> None:
    module, _, callback = METHODS[name].class_path.rpartition(".")
    assert getattr(import_module(module), callback) is METHODS[name].load()


@pytest.mark.parametrize("name", METHODS)
def test_every_row_has_a_case(name) -> None:
    assert name in CASES, (
        f"add {name!r}: Case({{settings that make episodes short}}) to CASES in "
        f"{method_cases.__file__}, and the domains that it must prefer on the toy problem, unless "
        "that is twin to noise."
    )


@pytest.mark.parametrize("name", ROWS)
def test_the_row_says_what_the_callback_is(name, reference) -> None:
    method = make(name, reference)
    assert method.method in {name, "fixed"}
    assert METHODS[name].about
    assert METHODS[name].result in {"average", "last"}
    takes = inspect.signature(type(method).__init__).parameters
    assert set(METHODS[name].settings) <= set(takes)
    assert set(method.settings()) >= set(takes) - {"self", "weights"}, "settings() leaves some out"


# ---- learns, saves, logs, exports ----


@pytest.mark.parametrize("name", ROWS)
def test_learns_what_is_expected(name, learned) -> None:
    method, _ = learned(name)
    average = method.mixture.average
    for high, low in CASES[name].above:
        assert average[high] > average[low] + CASES[name].margin, average
    trajectory = np.stack(method.trajectory)
    assert np.isfinite(trajectory).all()
    assert (trajectory >= 0).all()
    np.testing.assert_allclose(trajectory.sum(axis=1), 1.0, rtol=0, atol=1e-12)
    if not CASES[name].above:
        np.testing.assert_array_equal(trajectory, trajectory[:1].repeat(len(trajectory), axis=0))


@pytest.mark.parametrize("name", ROWS)
def test_saves_and_exports(name, learned) -> None:
    method, folder = learned(name)
    saved = Mixture.load(folder / "mixture.yaml")
    assert saved.weights == method.mixture.weights
    assert saved.average == method.mixture.average
    assert tuple(saved.domains) == DOMAINS
    assert saved.about["method"] == method.method
    assert saved.about["settings"] == method.settings()  # plain YAML, nothing lost
    assert (folder / "trajectory.csv").exists()
    if method.signal_name is not None:
        rows = list(csv.reader((folder / f"{method.signal_name}.csv").open()))
        assert rows[0] == ["step", "domain", *method.signal_columns]
        assert len(rows) > len(DOMAINS)


@pytest.mark.parametrize("name", ROWS)
def test_logs_its_weights(name, learned) -> None:
    method, folder = learned(name)
    with (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get(f"mixture/weight/{DOMAINS[0]}")]
    logged = [[float(row[f"mixture/weight/{domain}"]) for domain in DOMAINS] for row in rows]
    assert len(logged) == len(method.trajectory) - 1 > 0
    np.testing.assert_allclose(logged, np.stack(method.trajectory[1:]), rtol=1e-6)
    assert [int(row["step"]) for row in rows] == method.steps[1:]


PRECISIONS = {"bf16-true": torch.bfloat16, "bf16-mixed": torch.float32}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ROWS)
def test_runs_in_half_precision(name, precision, reference, tmp_path, monkeypatch) -> None:
    """Forwards in bfloat16; the weights stay in float64."""
    monkeypatch.setattr(run_files, "draw_mixture", NoPicture)
    monkeypatch.setattr(toy, "DTYPE", torch.float32)
    method = make(name, reference)
    epochs = CASES[name].epochs
    module, _ = fit(name, tmp_path, method, max_epochs=epochs, precision=precision)
    kept = {value.dtype for value in method.declared_values().values() if torch.is_tensor(value)}
    assert kept <= {torch.float32, torch.float64, torch.int64}
    assert {parameter.dtype for parameter in module.network.parameters()} == {PRECISIONS[precision]}
    assert len(method.trajectory) == epochs + 1
    assert method.weights.dtype == np.float64
    assert method.weights.sum() == pytest.approx(1.0, abs=1e-12)
    assert (
        CASES[name].above == () or name == "ado" or (method.weights != method.trajectory[0]).any()
    )


# ---- resumes ----


def ends(name: str, folder: Path, reference: str, *callbacks: Callback, **options):
    """All that a run comes to, as bits."""
    method = make(name, reference)
    module, trainer = fit(name, folder, method, *callbacks, max_epochs=3, **options)
    mixture = method.mixture
    return {
        "trajectory": [[float(w).hex() for w in weights] for weights in method.trajectory],
        "average": [value.hex() for value in mixture.average.values()],
        "signals": [[float(x).hex() for x in s.flatten()] for s in method.signals],
        "steps": [*method.steps, *method.signal_steps, trainer.global_step],
        "network": [value.hex() for value in parameters_of(module.network).tolist()],
        "metrics": {key: float(value).hex() for key, value in method.metrics.items()},
    }


@pytest.mark.parametrize("name", ROWS)
def test_resumes_exactly(name, reference, tmp_path, monkeypatch) -> None:
    """From after the first batch of each phase of the second episode, and from its end."""
    monkeypatch.setattr(run_files, "draw_mixture", NoPicture)
    saves = SaveAtPhases(tmp_path)
    whole = ends(name, tmp_path, reference, saves)
    second = range(saves.ends[0] + 1, saves.ends[1] + 1)
    first_of_phase = {saves.phases[i]: i for i in reversed(second)}
    for place in {*first_of_phase.values(), second[-1]}:
        torch.load(saves.paths[place], weights_only=True)  # tensors and plain Python only
        again = ends(name, tmp_path / "again", reference, ckpt_path=saves.paths[place])
        assert again == whole, f"after batch {place}, {saves.phases[place]!r}"


# ---- two processes ----


def short_run(name: str, folder: str, reference: str, devices: int, *saves, **options) -> dict:
    method = make(name, reference)
    if devices > 1:
        options |= {"strategy": "ddp", "use_distributed_sampler": False}
    epochs = CASES[name].epochs
    module, _ = fit(name, folder, method, *saves, max_epochs=epochs, devices=devices, **options)
    return {
        "trajectory": [[float(w).hex() for w in weights] for weights in method.trajectory],
        "average": list(method.mixture.average.values()),
        "network": parameters_of(module.network).tolist(),
    }


def main(folder: str, reference: str, names: str) -> None:
    """One rank: a short run of each method, and its end again from inside the last episode."""
    run_files.draw_mixture = NoPicture
    results = {}
    for name in names.split(","):
        saves = SaveAtPhases(Path(folder) / name)
        results[name] = short_run(name, folder, reference, 2, saves)
        inside = max(set(range(len(saves.paths))) - set(saves.ends))
        results[name]["resumed"] = short_run(
            name, f"{folder}/again", reference, 2, ckpt_path=saves.paths[inside]
        )
    keep_result(folder, results)


@pytest.fixture(scope="module")
def ranks(reference, tmp_path_factory) -> list[dict]:
    """What both processes came to, method by method, from one start for all methods."""
    return run_program(__file__, tmp_path_factory.mktemp("two"), reference, ",".join(ROWS))


@pytest.mark.parametrize("name", ROWS)
def test_two_processes_come_to_the_same_weights(name, ranks, reference, tmp_path) -> None:
    first, second = (rank[name] for rank in ranks)
    assert first == second  # to the bit
    alone = short_run(name, str(tmp_path), reference, 1)
    rows = [np.array([[float.fromhex(w) for w in row] for row in run["trajectory"]])
            for run in (first, alone)]  # fmt: skip
    np.testing.assert_allclose(rows[0], rows[1], rtol=0, atol=1e-9)
    np.testing.assert_allclose(first["average"], alone["average"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(first["network"], alone["network"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ROWS)
def test_two_processes_resume_exactly(name, ranks) -> None:
    """From inside the last episode, where each rank has measured samples of its own."""
    for rank in ranks:
        whole = {key: value for key, value in rank[name].items() if key != "resumed"}
        assert rank[name]["resumed"] == whole


if __name__ == "__main__":
    main(*sys.argv[1:])
