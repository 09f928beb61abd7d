"""Networks that are trained together become what each becomes alone."""

import numpy as np
import pytest
import torch
from devices import DEVICES
from helpers import quiet_trainer
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import Callback
from torch import nn
from toy import samples, toy_network

from tandem_pl import MixtureModule, TandemModule
from tandem_pl.callbacks import FixedMixture
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.datamodules.text.blocks import BlockWriter
from tandem_pl.datamodules.text.packed_blocks import PackedBlocks
from tandem_pl.episode import TRAIN, Segment
from tandem_pl.networks import causal_language_model
from tandem_pl.objectives import CausalLanguageModeling, Classification
from tandem_pl.schedules import WarmupCosine
from tandem_pl.search.swarm.batches import StackedBatches
from tandem_pl.search.swarm.stack import Stack, why_not_stacked

STEPS = 50
MIXTURES = np.array([[0.5, 0.25, 0.25], [0.1, 0.0, 0.9], [0.7, 0.3, 0.0]])
CPU = torch.device("cpu")


def blocks(folder, **options):
    """Return data of three domains of tokens, each with a habit of its own."""
    generator = np.random.default_rng(0)
    sets = {}
    for number, name in enumerate(("a", "b", "c")):
        length = 16 * (40 + 10 * number)
        tokens = (np.cumsum(generator.integers(0, 2 + number, length)) % 19).astype(np.uint8)
        with BlockWriter(folder / f"{name}.arrow", 19, 16) as writer:
            writer.write(tokens, np.array([length]))
        sets[name] = PackedBlocks(folder / f"{name}.arrow")
    return MixtureDataModule(sets, sets, batch_size=8, **options)


def language_module(dropout=0.1):
    config = {"vocab_size": 19, "hidden_size": 16, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 16}
    config |= {"attention_dropout": 0.0, "hidden_dropout": dropout}
    return MixtureModule(
        causal_language_model(config=config),
        CausalLanguageModeling(),
        lambda parameters: torch.optim.AdamW(parameters, 1e-2, weight_decay=0.1),
        lambda optimizer: WarmupCosine(optimizer, STEPS, 10),
        gradient_clip_val=0.5,
    )


def batch_norm_module(dropout=0.2):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(dropout), nn.Linear(8, 2)
        )
    network[0].bias.requires_grad_(False)
    return MixtureModule(
        network.double(), Classification(), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)
    )


class Kept(Callback):
    def __init__(self) -> None:
        self.losses = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.losses.append(outputs["losses"].clone())


def alone(folder, module, data, weights, device="cpu"):
    """Return the losses [STEPS, B] of a plain run, and its network."""
    kept = Kept()
    callbacks = [FixedMixture(dict(zip(data.train_sets, weights.tolist(), strict=True))), kept]
    accelerator = "gpu" if device == "cuda" else "cpu"
    trainer = quiet_trainer(
        folder, max_steps=STEPS, callbacks=callbacks, accelerator=accelerator, devices=1
    )
    trainer.fit(module, datamodule=data)
    return torch.stack(kept.losses), module.network.to(device).eval()


def together(module, data, steps=STEPS, device=CPU):
    data.setup("fit")
    batches = StackedBatches(data, MIXTURES, steps, device)
    stack = Stack(module, len(MIXTURES), device)
    losses = [stack.train_step(own, data.batch_size, step) for step, own in enumerate(batches)]
    return stack, torch.stack(losses), batches


def classes():
    sets = {name: samples(name, 60, seed) for seed, name in enumerate(("twin", "other", "noise"))}
    return MixtureDataModule(sets, batch_size=12)


@pytest.mark.parametrize(
    ("make_module", "make_data"),
    [(language_module, blocks), (batch_norm_module, lambda folder: classes())],
)
@pytest.mark.parametrize("device", DEVICES)
def test_losses_are_those_of_separate_runs(tmp_path, make_module, make_data, device):
    # A GPU's dropout draws other masks in a stack; and it adds up in another order.
    options, close = ({}, 1e-5) if device == "cpu" else ({"dropout": 0.0}, 1e-4)
    stack, losses, batches = together(
        make_module(**options), make_data(tmp_path), device=torch.device(device)
    )
    assert (batches._table is None) == (make_module is batch_norm_module)
    for number, weights in enumerate(MIXTURES[:2]):
        data = make_data(tmp_path)
        expected, network = alone(tmp_path, make_module(**options), data, weights, device)
        assert torch.allclose(losses[:, number], expected, rtol=0, atol=close)
        for name, buffer in network.named_buffers():
            assert torch.allclose(stack.buffers[name][number], buffer, atol=close)
        assert batches.drawn[number].tolist() == data.seen_arrays()["samples"].tolist()
        one = next(iter(data.evaluation_loader(data.train_sets)))
        rows = move_data_to_device(one.samples, device)
        measured = stack.measure(rows, len(one.domains))[number]
        with torch.no_grad():
            own = stack.module.objective(network, rows)
        assert torch.allclose(measured, own, atol=2 * close)
    assert expected[-1].mean() < expected[0].mean()


def test_repeats_match_those_of_a_longer_run(tmp_path):
    steps = 5
    made = [blocks(tmp_path, final_samples=16 * steps * 8) for _ in range(2)]
    for data in made:
        data.trainer = quiet_trainer(tmp_path, max_steps=steps)
        data.setup("fit")
    assert made[0].pools.sizes() == {"a": 3, "b": 4, "c": 4}
    batches = StackedBatches(made[0], MIXTURES, steps, CPU)
    weights = tuple(MIXTURES[0].tolist())
    made[1].begin_episode([Segment(TRAIN, steps, weights)])
    for own, batch in zip(batches, made[1].rest_of_episode(), strict=True):
        assert torch.equal(own["input_ids"][0], batch.samples["input_ids"])


def test_a_loss_that_is_not_finite_stays_with_its_network(tmp_path):
    module = batch_norm_module()
    stack = Stack(module, 3, CPU)
    data = classes()
    data.setup("fit")
    with torch.no_grad():
        stack.parameters["3.weight"][1] = torch.nan
    for step, own in enumerate(StackedBatches(data, MIXTURES, 3, CPU)):
        losses = stack.train_step(own, 12, step)
    assert stack.stopped.tolist() == [-1, 0, -1]
    assert losses.isfinite().all(dim=1).tolist() == [True, False, True]


def test_what_cannot_be_stacked_is_named():
    network, objective = toy_network(), Classification()

    def why(module, precision="32-true", callbacks=()):
        return why_not_stacked(module, precision, callbacks)

    def plain(optimizer=torch.optim.AdamW, **options):
        return MixtureModule(network, objective, optimizer, **options)

    assert why(plain()) is None
    assert why(plain(micro_batch_size=4)) == "micro_batch_size is set"
    assert why(plain(torch.optim.LBFGS)).startswith("LBFGS is not known")
    assert why(plain(), "bf16-mixed") == "precision is bf16-mixed"
    assert why(plain(), callbacks=["my.Average"]) == "my.Average needs a trainer for each"
    twins = TandemModule(network, objective, torch.optim.AdamW)
    assert why(twins) == "TandemModule is not MixtureModule"
