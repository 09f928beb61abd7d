"""What every method must pass. This file is also the program that each of two processes runs.

A row of METHODS needs a row in CASES, which says what is quick and what to expect of it here.
"""

import csv
import inspect
import math
import pkgutil
import sys
import typing
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from agents import toy_agent
from helpers import parameters_of, quiet_trainer
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from ranks import keep_result, run_program
from torch import nn
from toy import DOMAINS, WIDTH, samples, toy_data, toy_module, train_reference

import tandem_pl.callbacks
from tandem_pl import InputError, Mixture, run_files
from tandem_pl.callbacks import ReweightingCallback, methods
from tandem_pl.callbacks.loss_weighting import LossWeighting
from tandem_pl.callbacks.methods.table import METHODS
from tandem_pl.callbacks.training_losses import TrainingLossReweighting


class Case(NamedTuple):
    """How a method is tried here.

    Args:
        settings: of the callback, beside those of the row; short episodes.
        steps: batches that train, of the run that must learn.
        above, below: domains of which the average weight of the first must be above the other's,
            each time by `margin`; pairs. Empty for weights that are given.
        margin: least difference.
        exempt: numeric arguments that -1 or NaN need not be refused for, and why.
        data: options of the data.
        epochs: of the run on two processes, enough for the weights to change.
    """

    settings: Mapping[str, Any] = {}
    steps: int = 150
    above: tuple[tuple[str, str], ...] = (("twin", "noise"),)
    margin: float = 0.05
    exempt: Mapping[str, str] = {}
    data: Mapping[str, Any] = {}
    epochs: int = 2


GIVEN = Case(steps=20, above=())

CASES: dict[str, Case] = {
    "tandem": Case({"free_steps": 3, "probe_steps": 3, "measure_batches": 4}, margin=0.1),
    "skill_it": Case({"update_steps": 10, "learning_rate": 1.0}, margin=0.1, epochs=4),
    "aioli": Case(
        {"update_steps": 26, "lp_rounds": 2, "lp_steps": 4, "learning_rate": 2.0}, margin=0.1
    ),
    "tikmix": Case({"update_steps": 10}, margin=0.1),
    "doremi": Case({"episode_steps": 5}, above=(("noise", "twin"),)),
    "doge": Case({"episode_steps": 5}, margin=0.02),
    "odm": Case({"period": 5}, above=(("noise", "twin"),)),
    "ado": Case({"period": 5, "start_step": 30, "fit_every": 15, "ignore_steps": 0}),
    "dga": Case({"period": 4, "measure_batches": 2}),
    "quad": Case({"clusters": 1, "period": 4, "measure_batches": 1}, epochs=4),
    "diversify": Case({"clusters": 2, "period": 4}),
    "dynamix": Case({"period": 4, "smoothing": 0.5}),
    "mixing_agent": Case({"agent": toy_agent(), "period": 4}),
    "r_and_b": Case({"period": 5, "shares": {"twin": 1, "other": 1, "noise": 0}}),
}

CASES |= {name: GIVEN for name, row in METHODS.items() if row.callback == "FixedMixture"}

ROWS = [name for name in METHODS if name in CASES]  # `test_every_row_has_a_case` names the others


def make(name: str, reference: str | None = None, **settings: Any) -> ReweightingCallback:
    """A method's callback with its row's settings, its case's, and these."""
    given = {**METHODS[name].settings, **CASES[name].settings, **settings}
    if METHODS[name].needs_reference:
        given.setdefault("reference", reference)
    return METHODS[name].load()(**given)


def fit(name: str, folder: Any, method: Any, *callbacks: Callback, target: bool = True, **options):
    """A run on the toy; (module, trainer)."""
    ckpt_path = options.pop("ckpt_path", None)
    module = toy_module(METHODS[name].module)
    trainer = quiet_trainer(folder, callbacks=[method, *callbacks], **options)
    data = toy_data(target=target, **CASES[name].data)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return module, trainer


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
        f"add {name!r}: Case({{settings that make episodes short}}) to CASES in {__file__}, and "
        "the domains that it must prefer on the toy problem, unless that is twin to noise."
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


@pytest.mark.parametrize("name", ROWS)
def test_runs_in_half_precision(name, reference, tmp_path, monkeypatch) -> None:
    """Parameters and inputs in bfloat16; the weights stay in float64."""
    monkeypatch.setattr(run_files, "draw_mixture", NoPicture)
    method = make(name, reference)
    epochs = CASES[name].epochs
    module, _ = fit(name, tmp_path, method, max_epochs=epochs, precision="bf16-true")
    assert {parameter.dtype for parameter in module.network.parameters()} == {torch.bfloat16}
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


# ---- refuses ----


def numbers_of(name: str) -> list[tuple[str, float]]:
    """Every numeric argument with a value that cannot be meant."""
    callback = METHODS[name].load()
    hints = typing.get_type_hints(callback.__init__)
    found = []
    for key, hint in hints.items():
        kinds = typing.get_args(hint) or (hint,)
        if key == "return" or bool in kinds or key in CASES[name].exempt:
            continue
        if int in kinds or float in kinds:
            found.append((key, -1))
        if float in kinds:
            found.append((key, math.nan))
    return found


BAD = [(name, *bad) for name in ROWS for bad in numbers_of(name)]


@pytest.mark.parametrize(("name", "key", "value"), BAD)
def test_refuses_bad_numbers_by_name(name, key, value, reference, tmp_path) -> None:
    """In the constructor, or when the run starts, where it takes the number of domains to know."""
    with pytest.raises(InputError, match=rf"\b{key}=(-1|nan)") as caught:
        fit(name, tmp_path, make(name, reference, **{key: value}), max_epochs=1)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("mixture.yaml"))


def choices_of(name: str) -> list[tuple[str, str]]:
    hints = typing.get_type_hints(METHODS[name].load().__init__)
    return [(name, key) for key, hint in hints.items() if typing.get_origin(hint) is typing.Literal]


@pytest.mark.parametrize(("name", "key"), [pair for name in ROWS for pair in choices_of(name)])
def test_refuses_unknown_choices_by_name(name, key, reference) -> None:
    with pytest.raises(InputError, match=f"{key}='nonsense'"):
        make(name, reference, **{key: "nonsense"})


@pytest.mark.parametrize("name", [name for name in ROWS if METHODS[name].needs_target])
def test_says_that_it_needs_target_data(name, reference, tmp_path) -> None:
    with pytest.raises(InputError, match="target data"):
        fit(name, tmp_path, make(name, reference), target=False, max_epochs=1)
    assert not list(tmp_path.glob("mixture.yaml"))


@pytest.mark.parametrize("name", [name for name in ROWS if METHODS[name].needs_target])
def test_a_target_domain_without_weight_changes_nothing(name, tmp_path) -> None:
    trajectories = []
    for others in ({}, {"other": samples("other", 70, 8)}):
        method, data = make(name), toy_data(**CASES[name].data)
        data.target_sets |= others
        data.target_weights = {"t": 2} if others else None
        trainer = quiet_trainer(tmp_path, callbacks=[method], max_epochs=CASES[name].epochs)
        trainer.fit(toy_module(METHODS[name].module), datamodule=data)
        trajectories.append(np.stack(method.trajectory))
    np.testing.assert_allclose(*trajectories, rtol=1e-9, atol=1e-12)
    assert np.ptp(trajectories[0], axis=0).max() > 0


@pytest.mark.parametrize("name", [name for name in ROWS if not METHODS[name].needs_target])
def test_does_not_need_target_data(name, reference, tmp_path) -> None:
    fit(name, tmp_path, make(name, reference), target=False, max_epochs=1)


REFERENCED = [name for name in ROWS if METHODS[name].needs_reference]


@pytest.mark.parametrize("name", REFERENCED)
def test_refuses_a_reference_that_does_not_fit(name, tmp_path) -> None:
    other = nn.Sequential(nn.Linear(WIDTH, 7), nn.Tanh(), nn.Linear(7, 2)).double()
    path = train_reference(tmp_path / "other.ckpt", steps=1, network=other)
    with pytest.raises(InputError, match=r"other\.ckpt.*0\.weight"):
        fit(name, tmp_path, make(name, str(path)), max_epochs=1)
    with pytest.raises(InputError, match=r"reference=.*absent\.ckpt"):
        fit(name, tmp_path, make(name, str(tmp_path / "absent.ckpt")), max_epochs=1)
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(InputError, match=r"reference=.*text\.ckpt"):
        fit(name, tmp_path, make(name, str(tmp_path / "text.ckpt")), max_epochs=1)


# ---- two processes ----


def short_run(name: str, folder: str, reference: str, devices: int) -> dict:
    method = make(name, reference)
    strategy = {"strategy": "ddp", "use_distributed_sampler": False} if devices > 1 else {}
    module, _ = fit(
        name, folder, method, max_epochs=CASES[name].epochs, devices=devices, **strategy
    )
    return {
        "trajectory": [[float(w).hex() for w in weights] for weights in method.trajectory],
        "average": list(method.mixture.average.values()),
        "network": parameters_of(module.network).tolist(),
    }


def main(folder: str, reference: str, names: str) -> None:
    """One rank: a short run of each method."""
    run_files.draw_mixture = NoPicture
    results = {name: short_run(name, folder, reference, 2) for name in names.split(",")}
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


if __name__ == "__main__":
    main(*sys.argv[1:])
