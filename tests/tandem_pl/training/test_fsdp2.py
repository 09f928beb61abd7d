"""FSDP2 on two processes over gloo, against DDP. This file is also the program of each process."""

import copy
import math
import sys
import warnings
from pathlib import Path

import pytest
import torch
from helpers import Rows, predict_last, quiet_trainer, random_rows
from lightning.pytorch import Callback
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from ranks import keep_result, run_program
from torch import nn

from tandem_pl import InputError, TandemModule
from tandem_pl.callbacks import TandemReweighting
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.training.checkpoint_io import AtomicCheckpointIO, read_sharded
from tandem_pl.training.gradients import domain_gradients, dot, norm
from tandem_pl.training.sharding import blocks, check_strategy_name

WIDTH, POISON = 4, 1e6
SAVED = (1, 6)  # batches done: in free steps before the first sync, and in a probe


RESUMES = (
    ("sharded", 1, {}),
    ("sharded", 6, {}),
    ("single", 6, {}),
    ("sharded", 6, {"frozen": True}),
    ("sharded", 6, {"rate": 0.5}),
)
KINDS = ("single", "sharded")  # one file, or a folder with every rank's part


class Blocks(nn.Module):
    """With a list of layers, a buffer, and sizes that two ranks do not share evenly."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.first = nn.Linear(WIDTH - 1, 5)
        self.layers = nn.ModuleList([nn.Linear(5, 5) for _ in range(2)])
        self.last = nn.Linear(5, 1)
        self.register_buffer("calls", torch.zeros(1, dtype=torch.float64))

    def forward(self, inputs):
        if self.training:
            self.calls += 1
        hidden = self.first(inputs).tanh()
        for layer in self.layers:
            hidden = hidden + nn.functional.dropout(
                layer(hidden).tanh(), self.dropout, self.training
            )
        return self.last(hidden)


def network(dtype=torch.float64, frozen=False) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Blocks(0.1 if frozen else 0.0).to(dtype)
    made.first.requires_grad_(not frozen)
    return made


def poisoned(network, samples):
    marked = samples[:, 0] == POISON
    losses = predict_last(network, samples.where(~marked[:, None], torch.zeros_like(samples)))
    return losses * torch.where(marked, math.nan, 1.0)


def whole(network) -> list[float]:
    """All parameters, gathered."""
    parts = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in network.parameters()]
    return torch.cat([part.detach().flatten().double() for part in parts]).tolist()


class Watch(Callback):
    """Both twins at some batches, their distance, and gradients of domains after the last."""

    def __init__(self, folder=None, saves=()) -> None:
        self.folder, self.saves, self.count = folder, saves, 0
        self.twins, self.distances, self.products = {}, {}, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.count += 1
        if batch.last or (batch.first and batch.phase == "probe"):
            key = trainer.global_step, batch.phase
            self.twins[str(key)] = [whole(pl_module.network), whole(pl_module.reference)]
            self.distances[str(key)] = float(pl_module.twin_distance())
        if batch.last:
            parts = domain_gradients(pl_module, batch.domains, batch.samples, 4, batch.step)
            found = [(copy.copy(g), len(mine), count) for _, g, mine, count in parts]
            self.products.append([dot(a, found[0][0]) for a, *_ in found])
            self.products.append([norm(a) for a, *_ in found])
            self.products.append([count for *_, count in found])
        if self.count in self.saves:
            for kind in KINDS[: 1 + hasattr(trainer.strategy, "_save_distributed_checkpoint")]:
                trainer.strategy._save_distributed_checkpoint = kind == "sharded"
                trainer.save_checkpoint(Path(self.folder, kind, f"{self.count}.ckpt"))


def fsdp2() -> ModelParallelStrategy:
    return ModelParallelStrategy(2, 1)


def train(folder, strategy, devices=2, saves=(), ckpt_path=None, callbacks=(), **options):
    """Two episodes; what a process knows after them."""
    dtype, rate = options.pop("dtype", torch.float64), options.pop("rate", 0.02)
    rows = {name: random_rows(20, WIDTH, seed, dtype) for seed, name in enumerate("abcd")}
    if options.pop("bad", False):
        marked = rows["a"].rows.clone()
        marked[3, 0] = POISON
        rows["a"] = Rows(marked)
    data = MixtureDataModule(
        rows, {"t": random_rows(30, WIDTH, 7, dtype)}, batch_size=options.pop("batch_size", 8),
        validate_target=True,
    )  # fmt: skip
    module = TandemModule(
        network(dtype, options.pop("frozen", False)),
        poisoned,
        lambda parameters: torch.optim.AdamW(parameters, rate),
        lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 1 / (1 + n)),
        penalty=2.0,
        gradient_clip_val=0.5,
        micro_batch_size=options.pop("micro_batch_size", None),
        checkpoint_frozen=options.pop("checkpoint_frozen", True),
        compile=options.pop("compile", False),
    )
    reweighting, watch = TandemReweighting(4, 4, 2, learning_rate=1.0), Watch(folder, saves)
    trainer = quiet_trainer(
        folder,
        callbacks=[reweighting, *callbacks, watch],
        max_epochs=options.pop("max_epochs", 2),
        devices=devices,
        strategy=strategy,
        use_distributed_sampler=False,
        limit_val_batches=1.0,
        **options,
    )
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return {
        "twins": watch.twins,
        "distances": watch.distances,
        "products": watch.products,
        "trajectory": [weights.tolist() for weights in reweighting.trajectory],
        "metrics": {key: value.item() for key, value in trainer.callback_metrics.items()},
        "skipped": module.skipped_updates,
        "rates": [group["lr"] for group in trainer.optimizers[0].param_groups],
        "mine": sum(getattr(p, "_local_tensor", p).numel() for p in module.parameters()),
        "types": sorted({str(p.dtype) for p in module.parameters()}),
    }


class Collectives(Callback):
    """What each batch reduces, and what a sync sends."""

    def __init__(self) -> None:
        self.reduced, self.sync, self.still = [], None, []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        from torch.distributed.tensor.debug import CommDebugMode

        if self.sync is None:
            with CommDebugMode() as mode:
                pl_module.sync()
            self.sync = mode.get_total_counts()
        self.before = [p._local_tensor.clone() for p in pl_module.reference.parameters()]
        self.mode = CommDebugMode()
        self.mode.__enter__()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.mode.__exit__(None, None, None)
        counts = {str(key): count for key, count in self.mode.get_comm_counts().items()}
        reduced = sum(count for key, count in counts.items() if "reduce_scatter" in key)
        self.reduced.append([batch.phase, reduced])
        after = [p._local_tensor for p in pl_module.reference.parameters()]
        self.still.append(all(map(torch.equal, self.before, after)))


def refusal(folder, strategy, **options) -> str:
    try:
        train(folder, strategy, **options)
    except InputError as error:
        return str(error)
    return "none"


def main(folder: str, alone: str) -> None:
    """One rank."""
    warnings.simplefilter("ignore")
    collectives = Collectives()
    frozen = Path(folder, "frozen")
    results = {
        "plain": train(folder, fsdp2(), saves=SAVED),
        "plain, ddp": train(folder, "ddp"),
        "frozen": train(frozen, fsdp2(), saves=[6], frozen=True),
        "frozen, ddp": train(folder, "ddp", frozen=True),
        "from one": train(folder, fsdp2(), ckpt_path=alone, max_epochs=1),
        "micro": train(folder, fsdp2(), callbacks=[collectives], micro_batch_size=2, max_epochs=1),
        "reduced": collectives.reduced,
        "still": collectives.still,
        "sync": collectives.sync,
    }
    for name, options in {
        "bad": {"bad": True},
        "compiled": {"compile": {"backend": "aot_eager", "fallback": False}, "max_epochs": 1},
        "bf16-mixed": {"dtype": torch.float32, "precision": "bf16-mixed", "max_epochs": 1},
        "bf16-true": {"dtype": torch.float32, "precision": "bf16-true", "max_epochs": 1},
    }.items():
        results[f"{name}, ddp"] = train(folder, "ddp", **options)
        results[name] = train(folder, fsdp2(), **options)
    for kind, count, options in RESUMES:
        path = (frozen if "frozen" in options else Path(folder)) / kind / f"{count}.ckpt"
        found = train(folder, fsdp2(), ckpt_path=path, max_epochs=1, **options)
        results[f"{kind} {count} {options}"] = found
    results["other batch"] = refusal(
        folder, fsdp2(), ckpt_path=Path(folder, "single/6.ckpt"), batch_size=4
    )
    results["auto"] = refusal(folder, ModelParallelStrategy())
    results["left out"] = refusal(folder, fsdp2(), frozen=True, checkpoint_frozen=False)
    results["static"] = refusal(folder, DDPStrategy(static_graph=True))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(folder, "ddp_find_unused_parameters_true", max_epochs=1)
    results["unused"] = [str(w.message) for w in caught if "use plain" in str(w.message)]
    keep_result(folder, results)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> tuple[Path, dict]:
    """One process that shards nothing, with a checkpoint in its first probe."""
    folder = tmp_path_factory.mktemp("one")
    return folder / "single/6.ckpt", train(folder, "auto", devices=1, saves=[6])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def ranks(alone, folder) -> list[dict]:
    return run_program(__file__, folder, str(alone[0]))


def close(mine: dict, other: dict, atol: float) -> None:
    """The same, where both were looked at: a resumed run has the other's end, or a part of it."""
    common = mine["twins"].keys() & other["twins"].keys()
    assert common
    for key in common:
        for kind in ("twins", "distances"):
            a, b = (torch.tensor(run[kind][key], dtype=torch.float64) for run in (mine, other))
            torch.testing.assert_close(a, b, rtol=0, atol=atol)
    for kind, size in (("trajectory", len(mine["trajectory"])), ("products", 3)):
        a, b = (torch.tensor(run[kind][:size], dtype=torch.float64) for run in (mine, other))
        torch.testing.assert_close(a, b, rtol=atol, atol=atol)


@pytest.mark.parametrize("name", ["plain", "frozen", "bad"])
def test_sharded_twins_train_as_whole_ones_do(ranks, name) -> None:
    """Weights, twins, metrics, domain gradients: FSDP2 against DDP, and the same on all ranks."""
    first, second = (rank[name] for rank in ranks)
    assert first["trajectory"] == second["trajectory"]
    assert first["twins"] == second["twins"]
    whole = ranks[0][f"{name}, ddp"]
    close(first, whole, 1e-9)
    assert len(first["twins"]) == len(whole["twins"]) == 4
    assert first["metrics"] == pytest.approx(whole["metrics"], rel=1e-6)
    assert first["skipped"] == whole["skipped"]
    assert (first["skipped"] > 0) == (name == "bad")
    assert all(gap > 1e-4 for gap in first["distances"].values())


def test_compiled_shards_train_as_others_do(ranks) -> None:
    first, second = (rank["compiled"] for rank in ranks)
    assert first["twins"] == second["twins"]
    close(first, ranks[0]["plain"], 1e-9)
    close(ranks[0]["compiled, ddp"], ranks[0]["plain"], 1e-9)


def test_each_rank_holds_its_part(ranks) -> None:
    """Rows are shared out: three and two of five, one and none of one. Both twins."""
    rows = [(p.shape[0], p.numel()) for p in network().parameters()]
    expected = [sum(n // r * k for r, n in rows for k in [(r + 1 - i) // 2]) for i in (0, 1)]
    assert [rank["plain"]["mine"] for rank in ranks] == [2 * part for part in expected]
    assert ranks[0]["plain, ddp"]["mine"] == 2 * sum(expected)


def test_gradients_are_reduced_once_a_batch_and_a_sync_sends_nothing(ranks) -> None:
    """Three groups of parameters a network, two layers and the rest; two micro-batches a rank."""
    expected = {"train": 3, "probe": 6, "measure": 0}
    assert ranks[0]["sync"] == 0
    for (phase, reduced), still in zip(ranks[0]["reduced"], ranks[0]["still"], strict=True):
        assert reduced == expected[phase]
        assert still == (phase != "probe")


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_half_precision(ranks, precision) -> None:
    mine, other = ranks[0][precision], ranks[0][f"{precision}, ddp"]
    mixed = precision == "bf16-mixed"
    assert mine["types"] == other["types"] == ["torch.float32" if mixed else "torch.bfloat16"]
    close(mine, other, 1e-5 if mixed else 2e-2)


def test_resumes_exactly(ranks, folder) -> None:
    """From every rank's part and from one file, which both hold tensors and plain Python only."""
    for kind, count, options in RESUMES[:-1]:
        mine = ranks[0][f"{kind} {count} {options}"]
        run = ranks[0]["frozen" if options else "plain"]
        assert mine["twins"].items() <= run["twins"].items(), (kind, count)
        assert mine["trajectory"] == run["trajectory"][:2], (kind, count)
    place = folder / "sharded" / "6.ckpt"
    names = {"__0_0.distcp", "__1_0.distcp", "meta.pt", ".metadata"}
    assert {path.name for path in place.iterdir()} == names
    for path in (place / "meta.pt", folder / "single" / "6.ckpt"):
        torch.load(path, weights_only=True)


def test_a_resumed_run_takes_the_new_rate(ranks) -> None:
    new = ranks[0]["sharded 6 {'rate': 0.5}"]["rates"]
    assert new == [pytest.approx(0.5 / 9)] * 2


def test_resumes_on_another_number_of_ranks(alone, ranks, folder, tmp_path) -> None:
    """From one whole process to two shards, and back from one file and from a folder of parts."""
    close(ranks[0]["from one"], alone[1], 1e-9)
    for kind in KINDS:
        path, options = folder / kind / "6.ckpt", {"plugins": [AtomicCheckpointIO()]}
        mine = train(tmp_path, "auto", devices=1, ckpt_path=path, **options)
        close(mine, ranks[0]["plain"], 1e-9)
        path, options["frozen"] = folder / "frozen" / kind / "6.ckpt", True
        train(tmp_path, "auto", devices=1, ckpt_path=path, **options)
    with pytest.raises(InputError, match=r"without meta\.pt"):
        read_sharded(tmp_path)


def test_refusals_name_the_mend(ranks) -> None:
    first = ranks[0]
    assert "batch_size=8 and this run has batch_size=4" in first["other batch"]
    assert "data_parallel_size=1 and tensor_parallel_size=2" in first["auto"]
    assert "set data_parallel_size=2 and tensor_parallel_size=1" in first["auto"]
    assert "checkpoint_frozen=False" in first["left out"]
    assert "static_graph=True" in first["static"]
    assert len(first["unused"]) == 1
    for name in ("fsdp", "deepspeed_stage_2", "lightning.pytorch.strategies.FSDPStrategy"):
        with pytest.raises(InputError, match=r"strategy=.*ModelParallelStrategy"):
            check_strategy_name(name)


def test_layers_that_share_parameters_are_not_sharded_by_themselves() -> None:
    made = network()
    assert blocks(made) == list(made.layers)
    made.last.weight = nn.Parameter(made.layers[1].weight[:1])
    assert blocks(made) == list(made.layers)
    made.first.weight = made.layers[0].weight
    assert blocks(made) == []
    made = network()
    made.layers.append(made.layers[0])
    assert blocks(made) == []
    assert blocks(nn.Linear(2, 2)) == []


if __name__ == "__main__":
    main(*sys.argv[1:])
