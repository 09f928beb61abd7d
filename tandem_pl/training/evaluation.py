"""Validation, test and prediction by domain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from tandem_pl.curves import domain_tags
from tandem_pl.episode import MixtureBatch
from tandem_pl.errors import InputError

from .compiling import is_compiled, with_fallback
from .connection import mixture_data
from .domain_losses import DomainLosses, mean_over_domains
from .norm_statistics import concatenate, running_statistics, write_statistics


class EvaluationByDomain(LightningModule):
    """Evaluates a `network` with per-sample losses: means by domain, logged under their names."""

    network: nn.Module
    objective: Callable[..., Any]
    compile_options: bool | Mapping[str, Any]

    def __init__(self) -> None:
        super().__init__()
        self._evaluated: dict[str, DomainLosses] = {}

    def networks(self) -> list[nn.Module]:
        """Return the networks that train."""
        return [self.network]

    def sample_losses(self, network: nn.Module, samples: Any, size: int) -> Tensor:
        """Return the objective's losses; raise an error unless there is one a sample."""
        call = partial(self.objective, network, samples)
        if is_compiled(network):
            losses = with_fallback(self.networks(), self.compile_options, call)
        else:
            losses = call()
        if not isinstance(losses, Tensor) or losses.shape != (size,):
            name = getattr(self.objective, "__name__", type(self.objective).__name__)
            raise InputError(f"objective={name} gave {not_one_a_sample(losses, size)}")
        return losses

    def evaluated_networks(self) -> dict[str, nn.Module]:
        """Return label of the metric -> network."""
        return {"loss": self.network}

    def share_buffers(self) -> None:
        """Broadcast the first rank's buffers: BatchNorm's running statistics.

        With manual optimization DDP does not, and each rank would have those of its own batches.
        """
        if self.trainer.world_size > 1 and isinstance(self.trainer.strategy, DDPStrategy):
            for network in self.networks():
                for buffer in network.buffers():
                    torch.distributed.broadcast(buffer, 0)

    def average_statistics(self) -> None:
        """Average BatchNorm's running statistics over ranks."""
        statistics = running_statistics(self.networks())
        if statistics and self.trainer.world_size > 1:
            write_statistics(statistics, self.trainer.strategy.reduce(concatenate(statistics)))

    def on_validation_start(self) -> None:
        """Make all ranks evaluate the same network."""
        self.share_buffers()

    def validation_step(self, batch: MixtureBatch, batch_idx: int) -> None:
        """Add the losses of one batch."""
        for label, network in self.evaluated_networks().items():
            losses = self.sample_losses(network, batch.samples, len(batch.domains))
            self._evaluated.setdefault(label, DomainLosses()).add(batch.domains, losses)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Log `validation/loss/DOMAIN`, their mean, and of tokens the mean of perplexities.

        Both means are by the shares of the target domains.
        """
        self._log_evaluation("validation", "validate")

    def on_test_epoch_end(self) -> None:
        """Log `test/loss/DOMAIN`, their mean, and of tokens the mean of perplexities."""
        self._log_evaluation("test", "test")

    def predict_step(self, batch: MixtureBatch, batch_idx: int) -> dict[str, Tensor]:
        """Return each test sample's domain number and loss."""
        losses = self.sample_losses(self.network, batch.samples, len(batch.domains))
        return {"domains": batch.domains, "losses": losses}

    def _log_evaluation(self, stage: str, verb: str) -> None:
        if not self._evaluated:
            return  # a subclass with a validation_step of its own
        metrics: dict[str, float] = {}
        curves: dict[str, float] = {}  # the same by tags that loggers can show
        data = mixture_data(self.trainer, "losses go by the domains of a MixtureDataModule")
        domains = data.domain_names(verb)
        shares = data.target_shares if stage == "validation" else None
        tags = domain_tags(domains)
        for label, store in self._evaluated.items():
            mean, count = store.reduce(len(domains), self.trainer.strategy)
            rows = zip(domains, tags, mean.tolist(), count, strict=True)
            for name, tag, value, number in rows:
                if number:
                    metrics[f"{stage}/{label}/{name}"] = curves[f"{stage}/{label}/{tag}"] = value
            seen = count > 0
            if seen.any():
                perplexity = f"{stage}/perplexity" + label.removeprefix("loss")
                means = {f"{stage}/{label}": mean_over_domains(mean, seen, shares)}
                if getattr(self.objective, "of_tokens", False):
                    means[perplexity] = mean_over_domains(np.exp(mean), seen, shares)
                metrics, curves = metrics | means, curves | means
        self._evaluated = {}
        if self.trainer.sanity_checking:
            return
        headline = f"{stage}/loss"
        for key, value in metrics.items():
            self.log(key, value, logger=False, prog_bar=key == headline, rank_zero_only=False)
        for logger in self.loggers:  # on the axis of batches, like every other curve
            logger.log_metrics(curves, step=self.global_step)


def not_one_a_sample(losses: Any, size: int) -> str:
    """Return what an objective gave in place of `size` losses, and what to do about its shape.

    >>> not_one_a_sample(torch.zeros(16, 64), 16).partition(": ")[2]
    'take the mean over the other dimensions, by .mean(1).'
    """
    if not isinstance(losses, Tensor):
        got, advice = f"a {type(losses).__name__}", f"return a tensor of shape [{size}]"
    elif losses.ndim == 0:
        got, advice = "one number", "leave out its mean or sum, for example by reduction='none'"
    elif losses.shape[0] == size:
        mean = ".mean(1)" if losses.ndim == 2 else ".flatten(1).mean(1)"
        got, advice = (
            f"shape {list(losses.shape)}",
            f"take the mean over the other dimensions, by {mean}",
        )
    elif losses.ndim == 1:
        got, advice = f"{len(losses)} losses", f"return a tensor of shape [{size}], in their order"
        if size and len(losses) % size == 0:
            each = len(losses) // size
            advice = f"if each has {each} in a row, take their mean by .view({size}, -1).mean(1)"
    else:
        got = f"shape {list(losses.shape)}"
        advice = f"return a tensor of shape [{size}], one loss for each sample in their order"
    return f"{got} for {size} samples, not one loss a sample: {advice}."
