"""Two processes over gloo against one. This file is also the program that each process runs."""

import math
import sys

import pytest
import torch
from helpers import (
    Recorder,
    Rows,
    parameters_of,
    predict_last,
    quiet_trainer,
    random_rows,
    small_network,
)
from lightning.pytorch import Callback
from lightning.pytorch.plugins import MixedPrecision
from ranks import keep_result, run_program

from tandem_pl import InputError, TandemModule
from tandem_pl.callbacks import TandemReweighting
from tandem_pl.datamodules import MixtureDataModule

WIDTH, POISON = 4, 1e6
RUNS = ("", "frozen", "train", "target", "counted", "half")


class Bytes(Callback):
    """Bytes that each batch reduces over ranks: by DDP's reducer, and by whoever else."""

    def __init__(self) -> None:
        self.now, self.rows = {}, []

    def on_train_start(self, trainer, pl_module) -> None:
        self.all_reduce = torch.distributed.all_reduce

        def counting(tensor, *arguments, **options):
            self.now["others"].append(tensor.nbytes)
            return self.all_reduce(tensor, *arguments, **options)

        def hook(state, bucket):
            mean = bucket.buffer() / trainer.world_size
            self.now["reducer"].append(mean.nbytes)
            future = self.all_reduce(mean, async_op=True).get_future()
            return future.then(lambda done: done.value()[0])

        if trainer.world_size > 1:
            torch.distributed.all_reduce = counting
            trainer.strategy.model.register_comm_hook(None, hook)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.now = {"reducer": [], "others": []}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.rows.append([batch.phase, sum(self.now["reducer"]), max(self.now["others"] or [0])])

    def on_train_end(self, trainer, pl_module) -> None:
        torch.distributed.all_reduce = self.all_reduce


def poisoned(network, samples):
    """NaN for marked samples only."""
    marked = samples[:, 0] == POISON
    losses = predict_last(network, samples.where(~marked[:, None], torch.zeros_like(samples)))
    return losses * torch.where(marked, math.nan, 1.0)


def overflowing(network, samples):
    """A finite loss for marked samples, whose gradient is not finite once it is scaled."""
    marked = samples[:, 0] == POISON
    losses = predict_last(network, samples.where(~marked[:, None], torch.ones_like(samples)))
    return losses.float() * torch.where(marked, 1e37, 1.0)


def mark(rows: Rows, index: int) -> Rows:
    rows.rows[index, 0] = POISON
    return rows


def train(folder: str, poison: str, devices: int, distributed_sampler: bool = False) -> dict:
    """Three episodes; what a process knows after them."""
    options, scaler = {}, torch.amp.GradScaler("cpu", init_scale=2.0**10)
    if poison == "counted":  # no poison, but counted
        options = {"precision": "64-true"}
    elif poison == "half":
        options = {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}
    dtype = torch.float32 if options else torch.float64
    rows = {name: random_rows(20, WIDTH, seed, dtype) for seed, name in enumerate("abc")}
    target = {"t": random_rows(30, WIDTH, 7, dtype)}
    network = small_network(WIDTH, dtype=dtype)
    if poison == "frozen":  # no poison, but twins that share a layer
        network[0].requires_grad_(False)
    elif poison in ("train", "target", "half"):
        mark((target if poison == "target" else rows)["t" if poison == "target" else "a"], 3)
    data = MixtureDataModule(rows, target, batch_size=8, validate_target=True)
    module = TandemModule(
        network,
        overflowing if poison == "half" else poisoned,
        lambda parameters: torch.optim.AdamW(parameters, 0.02),
        lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 1 / (1 + n)),
        penalty=2.0,
        gradient_clip_val=0.5,
        micro_batch_size=2,
    )
    reweighting = TandemReweighting(4, 4, 2, learning_rate=1.0)
    recorder, counted = Recorder(), Bytes()
    trainer = quiet_trainer(
        folder,
        callbacks=[counted, reweighting, recorder],
        max_epochs=3,
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        use_distributed_sampler=distributed_sampler,
        limit_val_batches=1.0,
        **options,
    )
    trainer.fit(module, datamodule=data)
    bad = [
        any(part is not None and bool((part[:, 0] == POISON).any()) for part in parts)
        for parts in ((b.samples, b.target_samples) for b in recorder.batches)
    ]
    return {
        "bytes": counted.rows,
        "phases": [batch.phase for batch in recorder.batches],
        "bad": bad,
        "still": [
            torch.equal(a[0], b[0]) for a, b in zip(recorder.before, recorder.after, strict=True)
        ],
        "twins": [[twin.tolist() for twin in state] for state in recorder.after],
        "trajectory": [[float(w).hex() for w in weights] for weights in reweighting.trajectory],
        "delta": None if reweighting.signal is None else reweighting.signal.delta.tolist(),
        "samples": [batch.samples.tolist() for batch in recorder.batches],
        "domains": [batch.domains.tolist() for batch in recorder.batches],
        "skipped": module.skipped_updates,
        "scale": scaler.get_scale(),
        "skipped_updates": reweighting.skipped_updates,
        "global_step": trainer.global_step,
        "network": parameters_of(module.network).tolist(),
        "metrics": {key: value.item() for key, value in trainer.callback_metrics.items()},
        "seen": {name: row["samples"] for name, row in data.seen().items()},
    }


def main(folder: str, *poisons: str) -> None:
    """One rank: one training for each poison, then a setting of the sampler that is refused."""
    results: dict = {poison: train(folder, poison, devices=2) for poison in poisons}
    try:
        train(folder, "", devices=2, distributed_sampler=True)
    except InputError as error:
        results["refused"] = str(error)
    keep_result(folder, results)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    """Both ranks' runs: all trainable, a frozen layer, bad samples, and float64 by precision.

    In new interpreters: their hashes differ, and what they agree on may not depend on that.
    """
    return run_program(__file__, tmp_path_factory.mktemp("two"), *RUNS, fresh=True)


@pytest.fixture(scope="module")
def clean(ranks, tmp_path_factory) -> tuple[dict, dict, dict]:
    """Rank 0, rank 1, and one process alone."""
    first, second = ranks
    alone = train(str(tmp_path_factory.mktemp("one")), "", devices=1)
    return (first[""] | {"refused": first["refused"]}, second[""], alone)


def weights(result: dict) -> torch.Tensor:
    return torch.tensor([[float.fromhex(w) for w in row] for row in result["trajectory"]]).double()


def test_all_ranks_hold_the_same_weights_to_the_bit(clean) -> None:
    first, second, _ = clean
    assert len(first["trajectory"]) == 4
    assert first["trajectory"] == second["trajectory"]
    assert len({tuple(row) for row in first["trajectory"]}) == 4  # they did move


def test_all_ranks_hold_the_same_twins_to_the_bit(clean) -> None:
    """After every training batch, also the reference, which DDP does not look after."""
    first, second, _ = clean
    for phase, mine, other in zip(first["phases"], first["twins"], second["twins"], strict=True):
        assert mine[0] == other[0]
        if phase != "train":
            assert mine[1] == other[1]


def test_two_ranks_train_as_one_process_does(clean) -> None:
    first, _, alone = clean
    assert first["global_step"] == alone["global_step"] == 24
    for phase, mine, other in zip(first["phases"], first["twins"], alone["twins"], strict=True):
        for twin, expected in list(zip(mine, other, strict=True))[: 1 + (phase != "train")]:
            assert twin == pytest.approx(expected, rel=0, abs=1e-9)
    assert first["delta"] == pytest.approx(alone["delta"], rel=0, abs=1e-9)
    assert (weights(first) - weights(alone)).abs().max() < 1e-9


def test_ranks_share_out_the_batches_of_one_process(clean) -> None:
    first, second, alone = clean
    for even, odd, whole in zip(first["samples"], second["samples"], alone["samples"], strict=True):
        assert even == whole[0::2]
        assert odd == whole[1::2]
    assert first["seen"] == second["seen"] == alone["seen"]


def test_metrics_by_domain_are_over_all_ranks(clean) -> None:
    first, second, alone = clean
    assert "validation/loss/t" in alone["metrics"]
    assert first["metrics"] == second["metrics"]
    assert first["metrics"] == pytest.approx(alone["metrics"], rel=1e-6)


def test_lightnings_own_sampler_is_refused(clean) -> None:
    refused = clean[0]["refused"]
    assert "use_distributed_sampler=True would replace the mixture's sampler" in refused
    assert "Trainer(use_distributed_sampler=False)" in refused


@pytest.mark.parametrize("poison", ["train", "target"])
def test_a_bad_loss_on_one_rank_is_skipped_by_both(ranks, poison) -> None:
    first, second = (rank[poison] for rank in ranks)
    steps = [phase != "measure" for phase in first["phases"]]
    rows = list(zip(steps, first["bad"], second["bad"], first["still"], strict=True))
    apart = [mine != other for step, mine, other, _ in rows if step]
    assert any(apart)
    assert [still for step, _, _, still in rows if step] == [
        mine or other for step, mine, other, _ in rows if step
    ]
    assert first["still"] == second["still"]
    assert (
        first["skipped"]
        == second["skipped"]
        == sum(step and (mine or other) for step, mine, other, _ in rows)
    )
    assert first["network"] == second["network"]
    assert all(math.isfinite(value) for value in first["network"])
    assert first["trajectory"] == second["trajectory"]
    assert first["skipped_updates"] == second["skipped_updates"]


def test_an_overflow_on_one_rank_is_skipped_by_both(ranks) -> None:
    """Under 16-bit mixed precision: one decision for both twins and both ranks, and one scale."""
    first, second = (rank["half"] for rank in ranks)
    steps = [phase != "measure" for phase in first["phases"]]
    rows = list(zip(steps, first["bad"], second["bad"], first["still"], strict=True))
    assert any(step and mine != other for step, mine, other, _ in rows)
    assert [still for step, _, _, still in rows if step] == [
        mine or other for step, mine, other, _ in rows if step
    ]
    overflows = sum(step and (mine or other) for step, mine, other, _ in rows)
    assert first["scale"] == second["scale"] == 2.0**10 / 2**overflows
    assert first["twins"] == second["twins"]
    assert first["trajectory"] == second["trajectory"]


def test_twins_that_share_frozen_parameters(ranks, tmp_path) -> None:
    """As above: the same bits on both ranks, and what one process alone comes to."""
    first, second = (rank["frozen"] for rank in ranks)
    assert first["trajectory"] == second["trajectory"]
    assert first["twins"] == second["twins"]
    alone = train(str(tmp_path), "frozen", devices=1)
    torch.testing.assert_close(weights(first), weights(alone), rtol=0, atol=1e-9)
    torch.testing.assert_close(
        torch.tensor(first["network"]), torch.tensor(alone["network"]), rtol=0, atol=1e-9
    )


def test_the_reference_is_reduced_in_probe_steps_only(ranks, tmp_path) -> None:
    """Once a step, whatever the micro-batches. All that measuring sends are a few losses' rows."""
    first, second = (rank["counted"] for rank in ranks)
    size = 8 * parameters_of(small_network(WIDTH)).numel()
    small = 8 * WIDTH  # flags and sums of losses
    for phase, reducer, largest in first["bytes"]:
        assert reducer == (0 if phase == "measure" else size)
        assert largest == size if phase == "probe" else largest <= small
    assert first["twins"] == second["twins"]
    assert first["trajectory"] == second["trajectory"]
    alone = train(str(tmp_path), "counted", devices=1)
    for mine, other in zip(first["twins"], alone["twins"], strict=True):
        assert mine[0] == pytest.approx(other[0], rel=0, abs=1e-9)
    torch.testing.assert_close(weights(first), weights(alone), rtol=0, atol=1e-9)


if __name__ == "__main__":
    main(*sys.argv[1:])
