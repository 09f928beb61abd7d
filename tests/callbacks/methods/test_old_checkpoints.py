"""Checkpoints that the code of August 2026 wrote in the middle of an episode resume exactly.

See old_checkpoints/README.md.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from helpers import parameters_of, quiet_trainer
from lightning.pytorch import Callback
from torch import nn
from toy import CLASSES, WIDTH, toy_data, toy_module

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
        "TandemReweighting", {"free_steps": 2, "probe_steps": 2, "measure_batches": 3}, 13
    ),
    "dga": Case("DGAReweighting", {"period": 2, "measure_batches": 3}, 9),
    "dga_basis": Case(
        "DGAReweighting",
        {"period": 2, "measure_batches": 2, "distributions": [[1, 1, 0], [0, 1, 1]]},
        7,
    ),
    "doge": Case("DoGEReweighting", {"episode_steps": 4}, 6),
    "doremi": Case(
        "DoReMiReweighting", {"episode_steps": 4, "reference": str(FOLDER / "reference.ckpt")}, 6
    ),
    "odm": Case("ODMReweighting", {"period": 4}, 6),
    "ado_unfitted": Case("ADOReweighting", ADO, 63, 22),
    "ado_fitted": Case("ADOReweighting", ADO, 93, 22),
    "aioli": Case(
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


def run(name: str, folder: Path, *saves: Callback, ckpt_path: Path | None = None) -> dict[str, Any]:
    case = CASES[name]
    method = getattr(callbacks, case.callback)(**case.settings)
    kind = "TandemModule" if name == "tandem" else "MixtureModule"
    module = toy_module(kind, network=linear(), lr_scheduler=falling)
    trainer = quiet_trainer(folder, callbacks=[method, *saves], max_epochs=case.episodes)
    trainer.fit(module, datamodule=toy_data(), ckpt_path=ckpt_path)
    return {
        "weights": [weight.hex() for weight in method.weights.tolist()],
        "average": [weight.hex() for weight in method.mixture.average.values()],
        "network": [value.hex() for value in parameters_of(module.network).tolist()],
    }


EXPECTED = (
    json.loads((FOLDER / "expected.json").read_text())
    if (FOLDER / "expected.json").exists()
    else {}
)


@pytest.mark.parametrize("name", CASES)
def test_resumes_to_the_same_bits(name, tmp_path) -> None:
    path = FOLDER / f"{name}.ckpt"
    torch.load(path, weights_only=True)
    assert run(name, tmp_path, ckpt_path=path) == EXPECTED[name]
