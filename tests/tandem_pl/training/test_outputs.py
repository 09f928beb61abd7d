"""`outputs["loss"]` is there in every phase, whoever handles it."""

import pytest
import torch
from helpers import predict_last, quiet_trainer, random_rows
from lightning.pytorch import Callback
from torch import nn
from toy import toy_data, toy_module

from tandem_pl import TandemModule
from tandem_pl.callbacks import (
    AioliReweighting,
    DGAReweighting,
    DoGEReweighting,
    FixedMixture,
    SkillItReweighting,
    TandemReweighting,
    TiKMiXReweighting,
)
from tandem_pl.datamodules import MixtureDataModule


class Losses(Callback):
    """What another project's callback does with each batch."""

    def __init__(self) -> None:
        self.phases, self.losses = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        loss = outputs["loss"]
        assert loss.shape == ()
        assert not loss.requires_grad
        if "losses" in outputs:
            torch.testing.assert_close(loss, outputs["losses"].mean())
        self.phases.append(batch.phase)
        self.losses.append(loss.item())


METHODS = {
    "measure": TandemReweighting(1, 1, 1),
    "trial": SkillItReweighting(update_steps=2, evaluation_samples=4),
    "train": FixedMixture(),
    "probe": TandemReweighting(0, 2, 1),
    "trial of Aioli": AioliReweighting(update_steps=8, lp_rounds=1, lp_steps=2),
    "measure of DGA": DGAReweighting(period=2, measure_batches=1),
    "measure of TiKMiX": TiKMiXReweighting(update_steps=2, measure_batches=1),
    "train of DoGE": DoGEReweighting(episode_steps=2),
}


@pytest.mark.parametrize("case", METHODS)
def test_every_phase_has_a_loss(case, tmp_path) -> None:
    method, losses = METHODS[case], Losses()
    kind = "TandemModule" if method.method == "tandem" else "MixtureModule"
    trainer = quiet_trainer(tmp_path, callbacks=[method, losses], max_epochs=2)
    trainer.fit(toy_module(kind), datamodule=toy_data())
    assert case.split()[0] in losses.phases
    assert all(loss > 0 for loss in losses.losses)


def test_statistics_batches_have_the_loss_of_the_proxy(tmp_path) -> None:
    torch.manual_seed(0)
    layers = nn.Linear(3, 5, bias=False), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 1)
    network = nn.Sequential(*layers).double()
    expected = []

    class Expect(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            if batch.phase == "statistics":  # in training mode: by the statistics of its batch
                before = [buffer.clone() for buffer in network.buffers()]
                expected.append(predict_last(network.train(), batch.samples).mean().item())
                for buffer, value in zip(network.buffers(), before, strict=True):
                    buffer.copy_(value)

    rows = {name: random_rows(20, 4, seed) for seed, name in enumerate("ab")}
    data = MixtureDataModule(rows, {"t": random_rows(20, 4, 7)}, batch_size=8)
    module = TandemModule(network, predict_last, lambda p: torch.optim.SGD(p, 0.01))
    losses = Losses()
    method = TandemReweighting(1, 1, 1, statistics_batches=2)
    trainer = quiet_trainer(tmp_path, callbacks=[method, Expect(), losses], max_epochs=2)
    trainer.fit(module, datamodule=data)
    assert losses.phases == 2 * ["train", "probe", "statistics", "statistics", "measure"]
    got = [x for x, phase in zip(losses.losses, losses.phases, strict=True) if phase[0] == "s"]
    assert got == pytest.approx(expected, abs=1e-12)
    assert len(got) == 4
