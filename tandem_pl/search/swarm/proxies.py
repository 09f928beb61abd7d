"""Training the proxies of a cell: together in a stack if they can be, else one after the other."""

from __future__ import annotations

import gc
import math
import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.datamodules.planning.sizes import tokens_per_sample
from tandem_pl.errors import InputError
from tandem_pl.mixture import check_domains
from tandem_pl.modes import evaluating
from tandem_pl.networks.checks import check_images, check_vocabulary
from tandem_pl.simplex import Array
from tandem_pl.training.mixture_module import MixtureModule
from tandem_pl.training.updates import ManualUpdates

from .batches import StackedBatches
from .rows import Row, failed_row, row_of
from .settings import Swarm
from .stack import Stack, why_not_stacked

Weights = Mapping[str, float]
NOT_FINITE = "the loss was not finite in"
SHORT_OF_MEMORY = re.compile("out ?of ?memory|ALLOC_FAILED", re.IGNORECASE)  # as CUDA says it


class Parts(NamedTuple):
    """What a configuration stands for."""

    trainer: Trainer
    module: LightningModule
    data: MixtureDataModule


#: Returns the parts of a configuration; the data is built, and set up for training.
Build = Callable[[dict[str, Any]], Parts]


def train_proxies(
    swarm: Swarm, mixtures: Mapping[int, Weights], build: Build, tell: Callable[[str], None] = print
) -> Iterator[Row]:
    """Yield the row of each proxy, when it is known.

    A stack that does not fit into the device's memory is halved; proxies that cannot be stacked are
    trained one after the other.

    Args:
        swarm: its settings.
        mixtures: number of the proxy -> its mixture.
        build: of a configuration, see `Build`.
        tell: is called with a sentence if proxies are not trained together as asked.

    Raises:
        InputError: the configuration cannot be used for any proxy.
    """
    left, size = list(mixtures.items()), len(mixtures)
    while len(left) > 1 and size > 1:
        parts = build(swarm.config())
        try:
            reason = yield from _together(swarm, dict(left[:size]), parts)
        except InputError:
            raise
        except Exception as error:  # of torch.func, or of memory: there is another way
            reason = " ".join(str(error).split())[:200] or type(error).__name__
        if reason is None:
            left = left[size:]
        elif SHORT_OF_MEMORY.search(reason):
            del parts
            gc.collect()  # a failed step may leave its tensors in a cycle
            torch.cuda.empty_cache()
            number, size = size, math.ceil(size / 2)
            tell(f"{number} proxies do not fit into the memory together; {size} are tried")
        else:
            tell(f"proxies are trained one after the other: {reason}")
            break
    for number, weights in left:
        try:
            yield _alone(number, weights, build(swarm.config(number, weights)))
        except Exception as error:
            text = " ".join(str(error).split()) or type(error).__name__
            yield failed_row(number, weights, text)


def check_target(data: MixtureDataModule) -> None:
    """Raise an error for data without target data, whose losses are the metrics."""
    if not data.target_sets:
        raise InputError(
            "a swarm needs target data, whose losses are its metrics: set the data's target (its "
            "test data would then have been seen)."
        )


def _together(
    swarm: Swarm, mixtures: Mapping[int, Weights], parts: Parts
) -> Generator[Row, None, str | None]:
    """Yield the rows, or return why proxies of these parts cannot be stacked."""
    trainer, module, data = parts
    check_domains(
        next(iter(mixtures.values())), data.domain_sizes(), f"{swarm.folder}/mixtures.csv"
    )
    check_target(data)
    reason = why_not_stacked(module, str(trainer.precision), swarm.callbacks)
    if reason is not None:
        return reason
    assert isinstance(module, MixtureModule)  # by `why_not_stacked`
    check_vocabulary(module.network, getattr(data, "vocab_size", None))
    sizes = [getattr(data, key, None) for key in ("num_classes", "channels")]
    check_images(module.network, *sizes)
    data.pools.announce()
    start = time.perf_counter()
    device = trainer.strategy.root_device
    names = data.domain_sizes()
    shares = np.array([[weights[name] for name in names] for weights in mixtures.values()])
    batches = StackedBatches(data, shares, swarm.steps, device)
    stack = Stack(module, len(mixtures), device)
    for step, samples in enumerate(batches):
        stack.train_step(samples, data.batch_size, step)
    losses = _target_losses(data, device, stack.measure)
    stopped = stack.stopped.tolist()
    seconds = (time.perf_counter() - start) / len(mixtures)
    rows = zip(mixtures.items(), stopped, losses, batches.drawn, strict=True)
    for (number, weights), bad, values, drawn in rows:
        if bad >= 0:
            yield failed_row(number, weights, f"{NOT_FINITE} step {bad}")
        else:
            yield _row(number, weights, values, drawn, seconds, parts)
    return None


def _alone(number: int, weights: Weights, parts: Parts) -> Row:
    trainer, module, data = parts
    if not isinstance(module, ManualUpdates):
        raise InputError(f"{type(module).__name__} is not MixtureModule, whose losses are read.")
    start = time.perf_counter()
    trainer.fit(module, datamodule=data)
    if module.skipped_updates:
        return failed_row(number, weights, f"{NOT_FINITE} {module.skipped_updates} steps")
    device = trainer.strategy.root_device
    network = module.network.to(device)

    def measure(samples: Any, size: int) -> Tensor:
        with evaluating(network), torch.no_grad():
            return module.sample_losses(network, samples, size)[None]

    losses = _target_losses(data, device, measure)[0]
    seconds = time.perf_counter() - start
    if trainer.global_step < trainer.max_steps:
        raise InputError(f"training stopped after {trainer.global_step} steps")
    return _row(number, weights, losses, data.seen_arrays()["samples"], seconds, parts)


def _target_losses(
    data: MixtureDataModule, device: torch.device, measure: Callable[[Any, int], Tensor]
) -> Array:
    """Return the mean losses [R, M'] on each target domain; `measure` gives [R, B]."""
    counts = np.zeros(len(data.target_sets))
    sums: Array = np.zeros(0)
    for batch in data.evaluation_loader(data.target_sets):
        domains = batch.domains.numpy()
        batch = data.transform_on_device(move_data_to_device(batch, device))
        losses = measure(batch.samples, len(domains)).double().cpu().numpy()
        belongs = np.eye(len(counts))[domains]  # [B, M']
        sums = losses @ belongs + (sums if sums.size else 0.0)
        counts += belongs.sum(axis=0)
    return sums / counts


def _row(
    number: int, weights: Weights, losses: Array, drawn: Any, seconds: float, parts: Parts
) -> Row:
    _, module, data = parts
    if not np.isfinite(losses).all():
        return failed_row(number, weights, "a loss on the target data is not finite")
    shares = data.target_shares
    assert shares is not None
    columns: dict[str, float] = {"size": sum(p.numel() for p in module.parameters())}
    per_sample = tokens_per_sample(data.train_sets)
    if per_sample is not None and np.isfinite(per_sample).all():
        columns["tokens"] = int((drawn * per_sample).sum())
    else:
        columns["steps"] = int(drawn.sum()) // data.batch_size
    columns["seconds"] = round(seconds, 3)
    names = list(data.target_sets)
    by_name = dict(zip(names, losses.tolist(), strict=True))
    return row_of(number, weights, by_name, dict(zip(names, shares.tolist(), strict=True)), columns)
