"""A small problem whose best mixture is known, for the tests of every method.

Four numbers in, two classes out. "twin" is drawn as the target is, "other" has labels that agree
with the target's in about 70 of 100 samples, and the labels of "noise" are drawn by coin. So the
best mixture for the target has all on "twin" (while it does not repeat too often), and none on
"noise". Everything is in float64, so that one process and two come to the same numbers.
"""

import math

import torch
from helpers import Recorder, quiet_trainer
from lightning.pytorch import Callback
from torch import nn
from torch.utils.data import TensorDataset

from tandem_pl import MixtureModule, TandemModule
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.objectives import Classification

DOMAINS = ("twin", "other", "noise")
WIDTH, CLASSES, BATCH = 4, 2, 12
DTYPE = torch.float64


def samples(kind: str, size: int, seed: int) -> TensorDataset:
    """Pairs of an input [4] and a class; `kind` is a domain's name, or "t" for the target."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(size, WIDTH, generator=generator, dtype=torch.float64).to(DTYPE)
    angle = math.radians(55.0) if kind == "other" else 0.0
    labels = math.cos(angle) * inputs[:, 0] + math.sin(angle) * inputs[:, 1] > 0
    if kind == "noise":
        labels = torch.rand(size, generator=generator) < 0.5
    return TensorDataset(inputs, labels.long())


def toy_network(seed: int = 0) -> nn.Module:
    """114 parameters."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(WIDTH, 16), nn.Tanh(), nn.Linear(16, CLASSES))
        return network.to(DTYPE)


def toy_data(target: bool = True, clusters=None, **options) -> MixtureDataModule:
    """120 samples a domain; 80 of the target, "t"; `clusters` says where targets lie."""
    train = {name: samples(name, 120, seed) for seed, name in enumerate(DOMAINS)}
    extra = {"target": {"t": samples("t", 80, 7)}} if target else {}
    data = MixtureDataModule(train, **{"batch_size": BATCH, "epoch_batches": 5, **extra, **options})
    data.target_clusters = clusters or {}
    return data


def toy_optimizer(parameters) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, 0.02)


def toy_module(name: str = "MixtureModule", network: nn.Module | None = None, **options):
    """Return the module of that name."""
    kind = {"MixtureModule": MixtureModule, "TandemModule": TandemModule}[name]
    return kind(network or toy_network(), Classification(), toy_optimizer, **options)


def train_reference(path, steps: int = 60, network: nn.Module | None = None):
    """Train a network with uniform weights; return `path`, its checkpoint."""
    module = toy_module(network=network)
    trainer = quiet_trainer(path.parent, max_steps=steps)
    trainer.fit(module, datamodule=toy_data())
    trainer.save_checkpoint(path)
    return path


class ChangedLosses(Callback):
    """Changes the losses that the module returns: change(number of the batch, losses)."""

    def __init__(self, change) -> None:
        self.change, self.batches = change, 0

    def on_train_start(self, trainer, pl_module) -> None:
        step = pl_module.training_step

        def changed(batch, batch_idx):
            outputs = step(batch, batch_idx)
            self.batches += 1
            self.change(self.batches, outputs["losses"])
            return outputs

        pl_module.training_step = changed


class Losses(Callback):
    """What every training batch brought: {domain: mean loss}."""

    def __init__(self) -> None:
        self.batches = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.batches.append((batch.domains.numpy(), outputs["losses"].numpy()))


class Steps(Recorder):
    """Each step's batch, parameters before and after, and weights and scores after it."""

    def __init__(self, method) -> None:
        super().__init__()
        self.method, self.alphas, self.scores, self.losses = method, [], [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self.alphas.append(self.method.alpha.copy())
        self.scores.append(self.method.scores.copy())
        self.losses.append(outputs["losses"].numpy())


def with_parameters(vector: torch.Tensor, network: nn.Module | None = None) -> nn.Module:
    """Return a network with these parameters."""
    network = network or toy_network()
    nn.utils.vector_to_parameters(vector.clone(), network.parameters())
    return network


def flat_gradient(loss: torch.Tensor, network: nn.Module) -> torch.Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))])
