"""`MixtureModule`: one network trained on a mixture of domains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from tandem_pl.episode import (
    MEASURE,
    TRAIN,
    WITHOUT_STEP,
    EpisodePlanner,
    Handler,
    MixtureBatch,
    Outputs,
)
from tandem_pl.errors import InputError
from tandem_pl.modes import evaluating, keeping_buffers
from tandem_pl.networks.checks import check_images, check_vocabulary
from tandem_pl.randomness import private_randomness, seed_generators

from .checkpoint_io import refuse_time_interval
from .compiling import compile_in_place
from .connection import callbacks_of, find_planner
from .frozen import drop_frozen, restore_frozen
from .last_checkpoint import LastCheckpoint
from .micro_batches import split_batch
from .norm_statistics import has_batch_norm
from .optimizer_settings import keep_settings, trainable
from .sample_weights import LossBasedWeights, weighted_sum
from .sharding import check_strategy, data_mesh, is_sharded, loaded_states, reducing, shard
from .skipped_updates import SkippedUpdates
from .trainer_flags import check_optimization
from .updates import ManualUpdates


class MixtureModule(ManualUpdates):
    """Trains one network on the batches of a `MixtureDataModule`: stage two, and baselines.

    The loss of a batch is the mean of its per-sample losses, so that drawing with weights alpha
    minimises sum_m alpha_m L_m. Optimization is manual: `trainer.global_step` counts batches.

    Args:
        network: any module.
        objective: objective(network, samples) -> Tensor[B], one loss a sample (see `objectives`).
        optimizer: optimizer(parameters) -> Optimizer.
        lr_scheduler: lr_scheduler(optimizer) -> scheduler, stepped once a batch; None for none.
            Schedulers of a `configure_optimizers` of your own are stepped once a batch too,
            whatever their `interval` is.
        gradient_clip_val: largest norm of the gradient; None for no clipping.
        micro_batch_size: samples in one forward. A batch is split without changing its gradient;
            None for whole batches.
        max_skipped_updates: a batch whose loss is not finite is skipped on all ranks; after so many
            in a row the run stops with a checkpoint.
        checkpoint_frozen: whether checkpoints hold the parameters that do not train. False keeps
            them small (adapters on a large backbone); loading one needs the same backbone.
        sample_weights: weighs the training samples of a batch by their losses; None weighs them
            equally.
        compile: whether to run the network through `torch.compile` while fitting; a map gives its
            arguments. If it cannot be compiled, a warning says so and training continues without;
            `fallback: false` in the map raises an error instead.
        seed: of dropout, which is a function of seed, step and rank.

    Outputs of `training_step`, which callbacks read: "loss" in every phase, a scalar without
    a graph, the mean over this rank's samples; "losses" [B] in every phase except "statistics".
    Losses are those before the step, if a step is taken.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Callable[..., Any],
        optimizer: Callable[[Iterable], Optimizer],
        lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        gradient_clip_val: float | None = None,
        micro_batch_size: int | None = None,
        max_skipped_updates: int = 10,
        checkpoint_frozen: bool = True,
        sample_weights: LossBasedWeights | None = None,
        compile: bool | dict[str, Any] = False,
        seed: int = 0,
    ) -> None:
        super().__init__(gradient_clip_val, max_skipped_updates)
        for key, value in (
            ("gradient_clip_val", gradient_clip_val),
            ("micro_batch_size", micro_batch_size),
            ("max_skipped_updates", max_skipped_updates),
        ):
            if value is not None and not value > 0:
                raise InputError(f"{key}={value} must be positive, or null to leave it out.")
        if not isinstance(compile, bool | Mapping):
            raise InputError(
                f"compile={compile!r} must be true, false, or a map of arguments of torch.compile."
            )
        if sample_weights is not None:
            sample_weights.check(objective)
        self.network = network
        self.objective: Any = objective
        self.make_optimizer = optimizer
        self.make_scheduler = lr_scheduler
        self.micro_batch_size = micro_batch_size
        self.checkpoint_frozen = checkpoint_frozen
        self.sample_weights = sample_weights
        self.compile_options: bool | Mapping[str, Any] = compile
        self.seed = seed
        self.handlers: dict[str, Handler] = {}  # set by `connection.connect`

    # ---- set-up ----

    def setup(self, stage: str) -> None:
        """Raise an error for strategies that cannot train it, and data that does not fit it."""
        check_strategy(self.trainer)
        if stage == "fit":
            refuse_time_interval(self.trainer)
            if find_planner(self.trainer) is None:
                self.handlers = {}  # of an earlier fit
            self.skips = SkippedUpdates()
        data = getattr(self.trainer, "datamodule", None)
        sizes = [getattr(data, key, None) for key in ("vocab_size", "num_classes", "channels")]
        check_vocabulary(self.network, sizes[0])
        check_images(self.network, *sizes[1:])

    def configure_callbacks(self) -> list[Callback]:
        """Save `last.ckpt` at every end of a run, unless checkpoints are switched off.

        The callback that sets the weights is moved to the front: it then has done its part of a
        batch whatever error another callback raises.
        """
        if self.trainer.state.fn == "fit":  # this hook comes before Lightning's own check
            check_optimization(self.trainer)
        callbacks_of(self.trainer).sort(key=lambda c: not isinstance(c, EpisodePlanner))
        checkpoints = self.trainer.checkpoint_callbacks
        if not checkpoints or any(isinstance(c, LastCheckpoint) for c in checkpoints):
            return []
        return [LastCheckpoint()]

    def configure_model(self) -> None:
        """Shard the network if the strategy does (FSDP2)."""
        mesh = data_mesh(self.trainer)
        if mesh is not None and not self.checkpoint_frozen:
            raise InputError(
                "checkpoint_frozen=False cannot be used with sharded networks, whose checkpoints "
                "are read as a whole: set it to True, or use strategy=ddp."
            )
        shard(self.network, mesh)

    def on_fit_start(self) -> None:
        """Compile the networks if asked to; raise an error for schedules that need a metric."""
        self._has_batch_norm = any(map(has_batch_norm, self.networks()))
        schedules = [config.scheduler for config in self.trainer.strategy.lr_scheduler_configs]
        if any(isinstance(schedule, ReduceLROnPlateau) for schedule in schedules):
            raise InputError(
                "ReduceLROnPlateau waits for a metric, and schedules are stepped once a batch: "
                "use another as lr_scheduler, such as tandem_pl.schedules.WarmupCosine."
            )
        if self.compile_options is not False:
            for network in self.networks():
                compile_in_place(network, self.compile_options)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return one optimizer, so that `global_step` counts batches."""
        optimizer = self.make_optimizer(self.parameter_groups())
        if self.make_scheduler is None:
            return optimizer
        schedule = {"scheduler": self.make_scheduler(optimizer), "interval": "step"}
        return cast(OptimizerLRScheduler, {"optimizer": optimizer, "lr_scheduler": schedule})

    def parameter_groups(self) -> list[Any]:
        """Return what the optimizer factory is called with."""
        return trainable(self.network)

    # ---- a batch ----

    def training_step(self, batch: MixtureBatch, batch_idx: int) -> Outputs:
        """Do what the batch's phase asks for."""
        if not isinstance(batch, MixtureBatch):
            raise InputError(
                f"{type(self).__name__} trains on the batches of a MixtureDataModule, and got a "
                f"{type(batch).__name__}: pass one as datamodule to trainer.fit."
            )
        if batch.phase == MEASURE and batch.first:
            self.share_buffers()
        self.keep_statistics([] if batch.phase in WITHOUT_STEP else [self.network])
        with private_randomness(self.device):
            outputs = self.phase_step(batch)
        if "losses" in outputs:  # callbacks of other projects read the loss
            outputs = {"loss": outputs["losses"].detach().mean(), **outputs}
        return outputs

    def phase_step(self, batch: MixtureBatch) -> Outputs:
        """Train or measure; subclasses add phases, and methods bring `handlers` of their own."""
        if batch.phase in self.handlers:
            return self.handlers[batch.phase](self, batch)
        if batch.phase == TRAIN:
            return {"losses": self.train_step(batch)}
        if batch.phase == MEASURE:
            return self.measure_step(batch)
        raise InputError(
            f"the plan has {batch.phase!r} batches, which {type(self).__name__} cannot use: "
            "train with TandemModule, or with a callback that only sets weights."
        )

    def train_step(self, batch: MixtureBatch) -> Tensor:
        """Update the network once; return the losses [B] before the update."""
        self._optimizer().zero_grad()
        parts = split_batch(batch.samples, len(batch.domains), self.micro_batch_size)
        collected = []
        for index, (losses, weights) in enumerate(self.losses_of_parts(parts, batch.step)):
            with self.sync_gradients(index == len(parts) - 1):
                self.manual_backward(weighted_sum(losses, weights) / len(batch.domains))
            collected.append(losses.detach())
        before = torch.cat(collected)
        self.apply_update(before)
        return before

    @torch.no_grad()
    def measure_step(self, batch: MixtureBatch) -> Outputs:
        """Return losses in eval mode; of the target samples too, if the batch has some."""
        return self.measured_losses(self.network, "", batch)

    def measured_losses(self, network: nn.Module, prefix: str, batch: MixtureBatch) -> Outputs:
        """Return {prefix + "losses": [B]} and perhaps {prefix + "target_losses": [B']}."""
        outputs, sets = {}, {"losses": (batch.samples, batch.domains)}
        if batch.target_domains is not None:
            sets["target_losses"] = (batch.target_samples, batch.target_domains)
        with evaluating(network):
            for key, (samples, domains) in sets.items():
                parts = split_batch(samples, len(domains), self.micro_batch_size)
                losses = [
                    self.losses(network, *part, batch.step, index)
                    for index, part in enumerate(parts)
                ]
                outputs[prefix + key] = torch.cat(losses)
        return outputs

    # ---- losses ----

    def losses(self, network: nn.Module, samples: Any, size: int, step: int, *salt: int) -> Tensor:
        """Return losses [size] under `network`; `step` and `salt` decide what dropout draws."""
        seed_generators(self.device, self.seed, step, self.global_rank, *salt)
        return self.sample_losses(network, samples, size)

    def losses_of_parts(
        self, parts: list[tuple[Any, int]], step: int
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield the losses of each micro-batch with their graph, and its samples' weights or None.

        Weights depend on the whole batch, so several micro-batches need one more forward.
        """
        rule, weights, start = self.sample_weights, None, 0
        if rule is not None and len(parts) > 1 and not rule.is_even(step):
            with torch.no_grad(), keeping_buffers(self.network):
                all_losses = [self.losses(self.network, *p, step, i) for i, p in enumerate(parts)]
            weights = self._weigh(rule, torch.cat(all_losses), step, parts)
        for index, (part, size) in enumerate(parts):
            losses = self.losses(self.network, part, size, step, index)
            if rule is not None and len(parts) == 1:
                weights = self._weigh(rule, losses.detach(), step, parts)
            yield losses, None if weights is None else weights[start : start + size]
            start += size

    def sync_gradients(self, now: bool) -> AbstractContextManager:
        """Reduce gradients over ranks in the backward inside only if `now`."""
        if is_sharded(self.network):
            return reducing(self, now)
        block = getattr(self.trainer.strategy, "block_backward_sync", None)  # DDP has it
        return nullcontext() if now or block is None else block()

    def _weigh(
        self, rule: LossBasedWeights, losses: Tensor, step: int, parts: list[tuple[Any, int]]
    ) -> Tensor:
        gather = self.trainer.strategy.all_gather if self.trainer.world_size > 1 else None
        tokens = None
        if rule.per == "token":
            tokens = torch.cat([self.objective.token_counts(samples) for samples, _ in parts])
        return rule(losses, step, gather, tokens)

    # ---- checkpoints ----

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the skip counters; take the frozen parameters out if asked to."""
        super().on_save_checkpoint(checkpoint)
        if not self.checkpoint_frozen:
            drop_frozen(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the skip counters; keep the optimizer settings of this run."""
        super().on_load_checkpoint(checkpoint)
        restore_frozen(self, checkpoint)
        states = loaded_states(self, checkpoint)
        if states.get("optimizer_states"):
            keep_settings(self.make_optimizer(self.parameter_groups()), states)
