"""`MixtureModule`: one network trained on a mixture of domains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.utils._pytree import tree_map_only

from tandem_pl.episode import MEASURE, TRAIN, WITHOUT_STEP, MixtureBatch
from tandem_pl.errors import InputError
from tandem_pl.networks.language_models import check_images, check_vocabulary
from tandem_pl.randomness import private_randomness, seed_generators

from .checkpoint_io import refuse_time_interval
from .compiling import compile_in_place
from .evaluation import EvaluationByDomain
from .frozen import drop_frozen, restore_frozen
from .modes import evaluating, keeping_buffers
from .norm_statistics import BeforeBatch
from .optimizer_settings import keep_settings, trainable
from .sample_weights import LossBasedWeights
from .sharding import check_strategy, data_mesh, is_sharded, loaded_states, reducing, shard
from .skipped_updates import SkippedUpdates, step_unless

Outputs = dict[str, Tensor]
#: What a method does with a batch of one phase, in place of the module: (module, batch) -> outputs.
Handler = Callable[["MixtureModule", MixtureBatch], Outputs]


class MixtureModule(EvaluationByDomain):
    """Trains one network on the batches of a `MixtureDataModule`: stage two, and baselines.

    The loss of a batch is the mean of its per-sample losses, so that drawing with weights alpha
    minimises sum_m alpha_m L_m. Optimization is manual: `trainer.global_step` counts batches.

    Args:
        network: any module.
        objective: objective(network, samples) -> Tensor[B], one loss a sample (see `objectives`).
        optimizer: optimizer(parameters) -> Optimizer.
        lr_scheduler: lr_scheduler(optimizer) -> scheduler, stepped once a batch; None for none. So
            are those of a `configure_optimizers` of your own, whatever their `interval` is.
        gradient_clip_val: largest norm of the gradient; None for no clipping.
        micro_batch_size: samples in one forward. A batch is split without changing its gradient;
            None for whole batches.
        max_skipped_updates: a batch whose loss is not finite is skipped, on all ranks alike; after
            so many in a row the run stops with a checkpoint.
        checkpoint_frozen: whether checkpoints hold the parameters that do not train. False keeps
            them small (adapters on a large backbone); loading one needs the same backbone.
        sample_weights: weighs the training samples of a batch by their losses; None for alike.
        compile: whether to run the network through `torch.compile` while fitting; a map gives its
            arguments. Where it cannot be compiled, a warning says so and training goes on without;
            `fallback: false` in the map stops instead.
        seed: of dropout, which is a function of seed, step and rank.

    Training outputs (for callbacks): {"losses": [B]}, and their mean "loss" where a step was taken.
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
        super().__init__()
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
        self.automatic_optimization = False
        self.network = network
        self.objective = objective
        self.make_optimizer = optimizer
        self.make_scheduler = lr_scheduler
        self.gradient_clip_val = gradient_clip_val
        self.micro_batch_size = micro_batch_size
        self.max_skipped_updates = max_skipped_updates
        self.checkpoint_frozen = checkpoint_frozen
        self.sample_weights = sample_weights
        self.compile_options: bool | Mapping[str, Any] = compile
        self.seed = seed
        self.skips = SkippedUpdates()
        self._before = BeforeBatch([])
        self._normalises = True  # until fit has looked
        self.handlers: dict[str, Handler] = {}

    def setup(self, stage: str) -> None:
        """Refuses strategies that cannot train it, and data that the network is not for."""
        check_strategy(self.trainer)
        if stage == "fit":
            refuse_time_interval(self.trainer)
            callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
            if not any(hasattr(callback, "handlers") for callback in callbacks):
                self.handlers = {}  # an earlier fit's
            self.skips = SkippedUpdates()
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        check_vocabulary(self.network, getattr(datamodule, "vocab_size", None))
        counts = (getattr(datamodule, key, None) for key in ("num_classes", "channels"))
        check_images(self.network, *counts)

    def configure_model(self) -> None:
        """Shards the network where the strategy does (FSDP2)."""
        mesh = data_mesh(self.trainer)
        if mesh is not None and not self.checkpoint_frozen:
            raise InputError(
                "checkpoint_frozen=False cannot be had with sharded networks, whose checkpoints "
                "are read as a whole: set it to True, or use strategy=ddp."
            )
        shard(self.network, mesh)

    def on_fit_start(self) -> None:
        """Compiles the networks, where asked to; refuses schedules that wait for a metric."""
        modules = (module for network in self.networks() for module in network.modules())
        self._normalises = any(isinstance(module, _BatchNorm) for module in modules)
        schedules = [config.scheduler for config in self.trainer.strategy.lr_scheduler_configs]
        if any(isinstance(schedule, ReduceLROnPlateau) for schedule in schedules):
            raise InputError(
                "ReduceLROnPlateau waits for a metric, and schedules are stepped once a batch: "
                "use another as lr_scheduler, such as tandem_pl.schedules.WarmupCosine."
            )
        if self.compile_options is not False:
            for network in self.networks():
                compile_in_place(network, self.compile_options)

    # ---- training ----

    def training_step(self, batch: MixtureBatch, batch_idx: int) -> Outputs:
        """Does what the batch's phase asks for."""
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
        if batch.phase in WITHOUT_STEP or "losses" not in outputs:
            return outputs
        return {"loss": outputs["losses"].mean(), **outputs}  # for callbacks of others

    def phase_step(self, batch: MixtureBatch) -> Outputs:
        """Training and measuring; subclasses add phases, and methods bring `handlers` of theirs."""
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

    @torch.no_grad()
    def measure_step(self, batch: MixtureBatch) -> Outputs:
        """Losses in eval mode; of the target samples too, where the batch has some."""
        return self.measured_losses(self.network, "", batch)

    def measured_losses(self, network: nn.Module, prefix: str, batch: MixtureBatch) -> Outputs:
        """{prefix + "losses": [B]} and perhaps {prefix + "target_losses": [B']} of `network`."""
        outputs, sets = {}, {"losses": (batch.samples, batch.domains)}
        if batch.target_domains is not None:
            sets["target_losses"] = (batch.target_samples, batch.target_domains)
        with evaluating(network):
            for key, (samples, domains) in sets.items():
                parts = self.micro_batches(samples, len(domains))
                losses = [
                    self.losses(network, *part, batch.step, i) for i, part in enumerate(parts)
                ]
                outputs[prefix + key] = torch.cat(losses)
        return outputs

    def keep_statistics(self, networks: list[nn.Module]) -> None:
        """Keeps BatchNorm's, for the case that the coming losses are not finite."""
        self._before = BeforeBatch(networks if self._normalises else [])

    def train_step(self, batch: MixtureBatch) -> Tensor:
        """One update of the network; gives the losses [B] before it."""
        self._optimizer().zero_grad()
        parts = self.micro_batches(batch.samples, len(batch.domains))
        weights = self.weights_ahead(parts, batch.step)
        collected = []
        for index, (part, size) in enumerate(parts):
            losses = self.losses(self.network, part, size, batch.step, index)
            loss = self.weighted_sum(losses, weights, parts, index, batch.step)[0]
            with self.sync_gradients(index == len(parts) - 1):
                self.manual_backward(loss / len(batch.domains))
            collected.append(losses.detach())
        losses = torch.cat(collected)
        self.apply_update(losses)
        return losses

    def weights_ahead(self, parts: list[tuple[Any, int]], step: int) -> Tensor | None:
        """Weights [B] of the samples, by one more forward, where micro-batches need them."""
        rule = self.sample_weights
        if rule is None or len(parts) == 1 or step < rule.burn_in:
            return None
        with torch.no_grad(), keeping_buffers(self.network):
            losses = [self.losses(self.network, *p, step, i) for i, p in enumerate(parts)]
        return self._weights_of(torch.cat(losses), step)

    def weighted_sum(
        self, losses: Tensor, ahead: Tensor | None, parts: list[Any], index: int, step: int
    ) -> tuple[Tensor, Tensor | None]:
        """Sum of the losses of part `index`, weighted where asked; and its weights, or None."""
        weights = None
        if ahead is not None:
            start = sum(size for _, size in parts[:index])
            weights = ahead[start : start + len(losses)]
        elif self.sample_weights is not None and len(parts) == 1:
            weights = self._weights_of(losses.detach(), step)
        return (losses if weights is None else losses * weights).sum(), weights

    def _weights_of(self, losses: Tensor, step: int) -> Tensor:
        gather = self.trainer.strategy.all_gather if self.trainer.world_size > 1 else None
        assert self.sample_weights is not None
        return self.sample_weights(losses, step, gather)

    def losses(self, network: nn.Module, samples: Any, size: int, step: int, *salt: int) -> Tensor:
        """Losses [size] under `network`; the same `step` and `salt` draw the same dropout."""
        seed_generators(self.device, self.seed, step, self.global_rank, *salt)
        return self.sample_losses(network, samples, size)

    def micro_batches(self, samples: Any, size: int) -> list[tuple[Any, int]]:
        """The samples in parts of at most `micro_batch_size`, with the size of each."""
        step = self.micro_batch_size or size
        if step >= size:
            return [(samples, size)]

        def part(start: int) -> tuple[Any, int]:
            rows = slice(start, start + step)
            return tree_map_only(Tensor, lambda t: t[rows], samples), min(step, size - start)

        return [part(start) for start in range(0, size, step)]

    def sync_gradients(self, now: bool) -> Any:
        """Reduces gradients over ranks in the last micro-batch only."""
        strategy = self.trainer.strategy
        if is_sharded(self.network):
            return reducing(self, now)
        if now or not hasattr(strategy, "block_backward_sync"):
            return nullcontext()
        return strategy.block_backward_sync()

    def apply_update(self, *losses: Tensor) -> None:
        """One optimizer step and one scheduler step, or a skip where a loss is not finite."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        bad = self._not_finite(losses)
        self._before.put_back(bad)
        self.skips.note(step_unless(bad, self._optimizer(), scaler))
        for config in self.trainer.strategy.lr_scheduler_configs:  # a subclass may bring its own
            if self.global_step % config.frequency == 0:
                config.scheduler.step()  # type: ignore[call-arg]

    def _not_finite(self, losses: Iterable[Tensor]) -> Tensor:
        """Whether a loss is not finite on any rank, a scalar on the device."""
        bad = ~torch.stack([loss.isfinite().all() for loss in losses]).all()
        if self.trainer.world_size > 1:  # every rank must decide alike, or the others would wait
            bad = self.trainer.strategy.reduce(bad.float(), reduce_op="sum") > 0
        return bad

    @property
    def skipped_updates(self) -> int:
        """Updates that were skipped so far; reading it waits for the device."""
        return self.skips.read()[0]

    @property
    def skipped_in_a_row(self) -> int:
        """Those up to now without a sound one; reading it waits for the device."""
        return self.skips.read()[1]

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clips each parameter group by itself; gradients are unscaled here."""
        if self.gradient_clip_val is not None:
            for group in optimizer.param_groups:
                torch.nn.utils.clip_grad_norm_(group["params"], self.gradient_clip_val)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stops a run that has gone astray; looks only now and then where looking takes waiting."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not self.skips.at_hand and self.global_step % max(every, 1):
            return
        if self.skipped_in_a_row < self.max_skipped_updates:
            return
        folder = Path(self.trainer.log_dir or self.trainer.default_root_dir) / "checkpoints"
        path = folder / f"stopped-step={self.global_step}.ckpt"
        self.trainer.save_checkpoint(path)
        raise InputError(
            f"the loss was not finite in {self.skipped_in_a_row} batches in a row "
            f"(max_skipped_updates), up to step {self.global_step}: lower the learning rate or set "
            f"gradient_clip_val; the state is in {path}."
        )

    def _optimizer(self) -> Any:
        return self.optimizers()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One optimizer, so that `global_step` counts batches."""
        optimizer = self.make_optimizer(self.parameter_groups())
        if self.make_scheduler is None:
            return optimizer
        schedule = {"scheduler": self.make_scheduler(optimizer), "interval": "step"}
        return [optimizer], [schedule]  # type: ignore[return-value]

    def parameter_groups(self) -> list[Any]:
        """What the optimizer factory is called with."""
        return trainable(self.network)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the skip counters; takes the frozen parameters out, where asked to."""
        checkpoint["skipped_updates"] = list(self.skips.read())
        if not self.checkpoint_frozen:
            drop_frozen(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the skip counters, and lets the optimizer's present settings win."""
        restore_frozen(self, checkpoint)
        self.skips.restore(*checkpoint.get("skipped_updates", [0, 0]))
        states = loaded_states(self, checkpoint)
        if states.get("optimizer_states"):
            keep_settings(self.make_optimizer(self.parameter_groups()), states)
