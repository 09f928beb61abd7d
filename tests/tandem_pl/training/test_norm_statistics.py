"""BatchNorm in twins: of training batches only, equal in both, on all ranks, or computed again.

This file is also the program that each of two processes runs.
"""

import copy
import math
import sys

import pytest
import torch
from helpers import Recorder, predict_last, quiet_trainer, random_rows
from ranks import keep_result, run_program
from torch import nn

from tandem_pl import InputError, MixtureModule, TandemModule
from tandem_pl.callbacks import TandemReweighting
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.episode import MEASURE, PROBE, STATISTICS
from tandem_pl.training.norm_statistics import accumulating_statistics, tracking_norms

WIDTH = 5


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layers = nn.Linear(WIDTH - 1, 6, bias=False), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 1)
        return nn.Sequential(*layers).double()


class Probed(TandemModule):
    """Keeps both twins' buffers after each batch."""

    def phase_step(self, batch):
        outputs = super().phase_step(batch)
        self.kept = getattr(self, "kept", [])
        states = [copy.deepcopy(dict(twin.named_buffers())) for twin in self.networks()]
        self.kept.append((batch.phase, *states))
        return outputs


def train(folder, rate=0.0, micro=None, devices=1, episodes=2, **settings):
    """Targets are far from training data; with a rate of 0 the twins' parameters never part."""
    rows = {name: random_rows(30, WIDTH, seed) for seed, name in enumerate("ab")}
    target = random_rows(30, WIDTH, 7)
    target.rows = 10 + 3 * target.rows
    data = MixtureDataModule(rows, {"t": target}, batch_size=8)
    module = Probed(
        network(), predict_last, lambda p: torch.optim.SGD(p, rate), micro_batch_size=micro
    )
    method, recorder = TandemReweighting(2, 3, 2, **settings), Recorder()
    more = {"strategy": "ddp", "use_distributed_sampler": False} if devices > 1 else {}
    trainer = quiet_trainer(
        folder, callbacks=[method, recorder], max_epochs=episodes, devices=devices, **more
    )
    trainer.fit(module, datamodule=data)
    return module, method, recorder.batches


@pytest.mark.parametrize("micro", [None, 4])
@pytest.mark.parametrize("statistics", [0, 2])
def test_twins_with_equal_parameters_have_equal_losses(micro, statistics, tmp_path):
    """Were target batches counted in the reference's statistics, it would seem to do much worse."""
    module, method, _ = train(tmp_path, micro=micro, statistics_batches=statistics)
    assert method.signal.delta.tolist() == [0.0, 0.0]
    probed = [kept for kept in module.kept if kept[0] == PROBE]
    for _, proxy, reference in probed:
        assert all(torch.equal(proxy[name], reference[name]) for name in proxy)
    assert not torch.equal(probed[0][1]["1.running_mean"], probed[1][1]["1.running_mean"])


def test_statistics_computed_again_are_the_mean_of_their_batches(tmp_path):
    module, _, batches = train(tmp_path, rate=0.05, statistics_batches=3)
    of_batches = [batch.samples for batch in batches if batch.phase == STATISTICS][-3:]
    measured = [kept for kept in module.kept if kept[0] == MEASURE][-1]
    for twin, buffers in zip(module.networks(), measured[1:], strict=True):
        with torch.no_grad():  # nothing trained since
            inputs = [twin[0](samples[:, :-1]) for samples in of_batches]
        mean = torch.stack([x.mean(dim=0) for x in inputs]).mean(dim=0)
        variance = torch.stack([x.var(dim=0) for x in inputs]).mean(dim=0)
        torch.testing.assert_close(buffers["1.running_mean"], mean, rtol=0, atol=1e-12)
        torch.testing.assert_close(buffers["1.running_var"], variance, rtol=0, atol=1e-12)
        assert twin[1].momentum == 0.1
    assert not torch.equal(measured[1]["1.running_mean"], measured[2]["1.running_mean"])


def test_statistics_batches_are_drawn_beside_the_training_data(tmp_path):
    """They are no exposure: passes over the training data are as without them."""
    _, _, with_them = train(tmp_path, statistics_batches=3)
    _, _, without = train(tmp_path)
    kept = [batch.samples for batch in with_them if batch.phase != STATISTICS]
    assert len(kept) == len(without)
    assert all(torch.equal(a, b.samples) for a, b in zip(kept, without, strict=True))


def test_frozen_statistics_stay(tmp_path):
    """A layer in eval mode has statistics that somebody chose: they are not computed again."""
    norm = nn.BatchNorm1d(3).eval()
    norm.running_mean.fill_(5.0)
    with accumulating_statistics(norm, True):
        norm(torch.randn(4, 3))
    assert norm.running_mean.tolist() == [5.0] * 3
    assert norm.momentum == 0.1


def nan_for_some(network, samples):
    """The samples spoil the network's inputs, so that BatchNorm sees what is not finite."""
    marked = samples[:, :1] > 2.2
    return predict_last(network, torch.where(marked, math.nan, samples))


@pytest.mark.parametrize("kind", [MixtureModule, TandemModule])
def test_a_skipped_batch_leaves_no_trace_in_the_statistics(kind, tmp_path):
    rows = {name: random_rows(60, WIDTH, seed) for seed, name in enumerate("ab")}
    data = MixtureDataModule(rows, {"t": random_rows(30, WIDTH, 7)}, batch_size=8, epoch_batches=20)
    module = kind(network(), nan_for_some, lambda p: torch.optim.SGD(p, 0.01))
    method = [TandemReweighting(2, 3, 1)] if kind is TandemModule else []
    trainer = quiet_trainer(tmp_path, callbacks=method, max_steps=20)
    trainer.fit(module, datamodule=data)
    assert 0 < module.skipped_updates < 20
    for twin in module.networks():
        assert all(buffer.isfinite().all() for buffer in twin.buffers())
        assert twin[1].running_mean.abs().max() > 0


def test_refuses_statistics_of_a_network_without_any(tmp_path):
    data = MixtureDataModule(
        {"a": random_rows(9, WIDTH, 0)}, {"t": random_rows(9, WIDTH, 1)}, batch_size=4
    )
    module = TandemModule(nn.Linear(WIDTH - 1, 1), predict_last, lambda p: torch.optim.SGD(p, 0.1))
    trainer = quiet_trainer(tmp_path, callbacks=[TandemReweighting(statistics_batches=2)])
    with pytest.raises(InputError, match="statistics_batches=2, and the network has no BatchNorm"):
        trainer.fit(module, data)
    with pytest.raises(InputError, match="statistics_batches=-1 must be at least 0"):
        TandemReweighting(statistics_batches=-1)


def test_sync_batchnorm_of_lightning_reaches_both_twins():
    from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm

    module = TandemModule(network(), predict_last, lambda p: torch.optim.SGD(p, 0.1))
    TorchSyncBatchNorm().apply(module)
    for twin in module.networks():
        assert [type(norm) for norm in tracking_norms(twin)] == [nn.SyncBatchNorm]


def test_ranks_measure_both_twins_with_the_same_statistics(tmp_path):
    """Parameters are equal, so losses are: on each rank, and though each saw other samples."""
    first, second = run_program(__file__, tmp_path)
    assert first["delta"] == second["delta"] == [0.0, 0.0]
    assert first["probe"] != second["probe"]  # each of its own batches
    assert first["measure"] == second["measure"]
    assert first["measure"][0] == first["measure"][1]
    one, _, _ = train(tmp_path, statistics_batches=2)  # computed again: of all ranks' samples
    (mean,) = (kept[1]["1.running_mean"] for kept in module_measures(one)[-1:])
    for result in (first, second):
        torch.testing.assert_close(torch.tensor(result["again"], dtype=mean.dtype), mean)


def module_measures(module):
    return [kept for kept in module.kept if kept[0] == MEASURE]


def main(folder: str) -> None:
    """One rank."""
    module, method, _ = train(folder, devices=2)
    means = {}
    for phase in (PROBE, MEASURE):
        twins = next(kept for kept in reversed(module.kept) if kept[0] == phase)[1:]
        means[phase] = [twin["1.running_mean"].tolist() for twin in twins]
    again, _, _ = train(folder, devices=2, statistics_batches=2)
    means["again"] = module_measures(again)[-1][1]["1.running_mean"].tolist()
    keep_result(folder, {"delta": method.signal.delta.tolist(), **means})


if __name__ == "__main__":
    main(*sys.argv[1:])
