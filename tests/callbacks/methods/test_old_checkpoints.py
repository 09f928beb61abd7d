"""Checkpoints of older code resume to the weights of that code; see old_checkpoints/README.md.

Run as a program with a folder as argument, this file writes such checkpoints there.
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from helpers import parameters_of, quiet_trainer
from lightning.pytorch import Callback
from torch import nn
from toy import CLASSES, WIDTH, toy_data, toy_module, train_reference

from tandem_pl import callbacks

FOLDER = Path(__file__).parent / "old_checkpoints"


class Case(NamedTuple):
    """A run: the callback and its settings, batches before the checkpoint, episodes in all."""

    callback: str
    settings: dict[str, Any]
    batches: int
    episodes: int = 3


SCHEDULE = [
    {"step": 0, "weights": {"twin": 1, "other": 2, "noise": 3}},
    {"step": 7, "weights": {"twin": 3, "other": 1, "noise": 0}},
]
ADO = {"period": 5, "start_step": 30, "fit_every": 20, "ignore_steps": 0}
ADO["prior"] = {"twin": 1, "other": 2, "noise": 1}
CASES = {
    "tandem": Case(
        "TandemReweighting",
        {"free_steps": 2, "probe_steps": 2, "measure_batches": 3, "learning_rate": 3.0},
        13,
    ),
    "dga": Case("DGAReweighting", {"period": 2, "measure_batches": 3, "learning_rate": 1.0}, 9),
    "dga_basis": Case(
        "DGAReweighting",
        {"period": 2, "measure_batches": 2, "distributions": [[1, 1, 0], [0, 1, 1]]}
        | {"learning_rate": 1.0},
        7,
    ),
    "doge": Case("DoGEReweighting", {"episode_steps": 4}, 6),
    "doremi": Case(
        "DoReMiReweighting", {"episode_steps": 4, "reference": str(FOLDER / "reference.ckpt")}, 6
    ),
    "odm": Case("ODMReweighting", {"period": 4}, 6),
    "ado_unfitted": Case("ADOReweighting", ADO, 63, 22),
    "ado_fitted": Case("ADOReweighting", ADO, 93, 22),
    "aioli": Case(  # inside a visit
        "AioliReweighting", {"update_steps": 7, "lp_rounds": 1, "lp_steps": 2, "ema": 0.3}, 12
    ),
    "skill_it_learning": Case("SkillItReweighting", {"update_steps": 2, "graph_steps": 4}, 7, 9),
    "skill_it_learned": Case("SkillItReweighting", {"update_steps": 2, "graph_steps": 4}, 15, 9),
    "skill_it_given": Case(
        "SkillItReweighting", {"update_steps": 3, "graph": [[0.9], [0.5], [0.1]]}, 5, 4
    ),
    "tikmix": Case("TiKMiXReweighting", {"update_steps": 2, "measure_batches": 3}, 9),
    "fixed": Case("FixedMixture", {"schedule": SCHEDULE, "episode_steps": 5}, 6),
}


class SaveAfter(Callback):
    def __init__(self, batches: int, path: Path) -> None:
        self.batches, self.path = batches, path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if batch.step == self.batches - 1:
            trainer.save_checkpoint(self.path)


def linear() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(WIDTH, CLASSES).double()


def falling(optimizer):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + 0.02 * step))


def make_method(name: str) -> callbacks.ReweightingCallback:
    return getattr(callbacks, CASES[name].callback)(**CASES[name].settings)


def run(name: str, folder: Path, *saves: Callback, ckpt_path: Path | None = None) -> dict[str, Any]:
    method = make_method(name)
    kind = "TandemModule" if name == "tandem" else "MixtureModule"
    module = toy_module(kind, network=linear(), lr_scheduler=falling)
    trainer = quiet_trainer(folder, callbacks=[method, *saves], max_epochs=CASES[name].episodes)
    trainer.fit(module, datamodule=toy_data(), ckpt_path=ckpt_path)
    return {
        "weights": [weight.hex() for weight in method.weights.tolist()],
        "average": [weight.hex() for weight in method.mixture.average.values()],
        "network": [value.hex() for value in parameters_of(module.network).tolist()],
    }


def machine() -> list[str]:
    """What decides the last bits of sums and matrix products."""
    return [torch.__version__.split("+")[0], torch.backends.cpu.get_cpu_capability()]


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    return json.loads((FOLDER / "expected.json").read_text())


def close(values: list[str]) -> Any:
    return pytest.approx([float.fromhex(value) for value in values], rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_resumes_to_the_same_bits(name, expected, tmp_path) -> None:
    path = FOLDER / f"{name}.ckpt"
    torch.load(path, weights_only=True)
    found = run(name, tmp_path, ckpt_path=path)
    if machine() == expected["machine"] and name != "tikmix":  # a solver's last bit may differ
        assert found == expected[name]
    for key, values in found.items():
        assert [float.fromhex(value) for value in values] == close(expected[name][key])


@pytest.mark.parametrize("name", [name for name in CASES if name != "fixed"])
def test_old_counters_of_skipped_updates_are_read(name) -> None:
    content = torch.load(FOLDER / f"{name}.ckpt", weights_only=True)
    state = content["callbacks"][CASES[name].callback]
    for key in ("skipped_episodes", "skipped_updates"):
        if key in state:
            state[key] = 3
    if "counts" in state and "steps_rows" in state:  # of `LossWeighting`
        state["counts"][2] = 3
    method = make_method(name)
    method.load_state_dict(state)
    assert method.skipped_updates == 3


def write(folder: Path) -> None:
    """Write the checkpoints, and what the code comes to when it resumes from them."""
    expected: dict[str, Any] = {"machine": machine()}
    train_reference(folder / "reference.ckpt", steps=30, network=linear())
    for name, case in CASES.items():
        path = folder / f"{name}.ckpt"
        run(name, folder / "run", SaveAfter(case.batches, path))
        expected[name] = run(name, folder / "run", ckpt_path=path)
    (folder / "expected.json").write_text(json.dumps(expected, indent=1))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
