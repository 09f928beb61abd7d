"""Small modules, data and runs that several test files of the modules share."""

import math

import torch
from helpers import Rows, predict_last, quiet_trainer, random_rows
from torch import nn

from tandem_pl.callbacks import TandemReweighting
from tandem_pl.datamodules import MixtureDataModule

WIDTH = 4


def adamw(parameters) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, 0.05, weight_decay=0.1)


def sgd(parameters) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, 0.05, momentum=0.9)


def falling(optimizer):
    """Return a schedule: rate / (1 + batches done)."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))


def make_data(dtype=torch.float64, **options) -> MixtureDataModule:
    train = {name: random_rows(20, WIDTH, seed, dtype) for seed, name in enumerate("ab")}
    target = {"t": random_rows(30, WIDTH, 7, dtype)}
    return MixtureDataModule(
        train, **{"target": target, "batch_size": 8, "validate_target": True, **options}
    )


def make_reweighting(free=2, probe=3, measure=1) -> TandemReweighting:
    return TandemReweighting(free, probe, measure, learning_rate=1.0)


def fit(folder, module, data, *callbacks, **options):
    trainer = quiet_trainer(folder, callbacks=list(callbacks), **options)
    trainer.fit(module, datamodule=data)
    return trainer


def batch_norm_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(WIDTH - 1, 5, bias=False), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 1)
    ).double()  # a bias before BatchNorm has gradient 0: Adam would blow up its rounding error


POISON = 1e6


def poisoned(network, samples):
    """Return losses that are NaN for samples with the marker in their first column."""
    marked = samples[:, 0] == POISON
    losses = predict_last(network, samples.where(~marked[:, None], torch.zeros_like(samples)))
    return losses * torch.where(marked, math.nan, 1.0)


def with_marker(rows: Rows, index: int) -> Rows:
    marked = rows.rows.clone()
    marked[index, 0] = POISON
    return Rows(marked)


def has_marker(samples) -> bool:
    return samples is not None and bool((samples[:, 0] == POISON).any())
