"""`TandemModule`: the proxy and its twin, the reference."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from tandem_pl.episode import PROBE, STATISTICS, MixtureBatch, Outputs
from tandem_pl.errors import InputError
from tandem_pl.modes import keeping_buffers

from .collectives import sum_over_ranks
from .joining import check_joinable, join_samples
from .micro_batches import split_batch
from .mixture_module import MixtureModule
from .norm_statistics import accumulating_statistics
from .optimizer_settings import trainable
from .sample_weights import LossBasedWeights, weighted_sum
from .sharding import data_mesh, local_shards, shard
from .twins import copy_buffers, copy_network, copy_optimizer_state, distance, make_twin

NOT_JOINED = (
    "join_probe=True, and training and target samples of a batch have other shapes or are no "
    "tensors: such batches take a forward each."
)
TARGET_SALT = 1 << 32  # keeps dropout of target samples apart from that of training samples


class TandemModule(MixtureModule):
    """Twin networks: the proxy u and the reference w (TANDEM, arXiv 2606.04401).

    An episode, as `callbacks.TandemReweighting` plans it:

    1. free: u takes steps on training batches, u <- u - lr grad L_train(alpha, u);
    2. sync: w <- u with buffers and optimizer moments;
    3. probe: u takes steps as before; w <- w - lr grad (L_target(w) + gamma L_train(alpha, w)) on
       the same training batch, with the same dropout, plus a target batch;
    4. statistics, if asked for: BatchNorm's of both twins, computed again on the same batches;
    5. measure: per-sample losses under both, in eval mode, without gradient.

    The hyper-gradient of domain m is gamma (L_m(w) - L_m(u)). Only training batches update
    BatchNorm's statistics, in both twins, so that losses differ through parameters alone. Both
    twins are parameter groups of one optimizer, named "proxy" and "reference".

    Args:
        network: the proxy; the reference is a deep copy that shares frozen parameters, so adapters
            on a frozen backbone (`networks.lora`) cost one more set of adapters.
        objective, optimizer, lr_scheduler, gradient_clip_val, micro_batch_size,
            max_skipped_updates, checkpoint_frozen, sample_weights, compile, seed: as in
            `MixtureModule`. The optimizer factory gets two parameter groups. Both twins weigh
            training samples by the proxy's losses. Each twin's gradient is clipped by itself.
        penalty: gamma, the weight of the training loss in the reference's objective.
        join_probe: whether the reference takes its training and its target samples in one forward.
            Faster if launching kernels takes longer than running them, as for small networks on
            a GPU, and needs the memory of two batches. Batches of other shapes than the target's
            are not joined.

    Outputs of `training_step` are those of `MixtureModule`, of the proxy; in probe steps also
    "reference_losses" [B] and "target_losses" [B'], in measure steps "reference_losses".
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Callable[..., Any],
        optimizer: Callable[[Iterable], Optimizer],
        lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        penalty: float = 1.0,
        gradient_clip_val: float | None = None,
        micro_batch_size: int | None = None,
        max_skipped_updates: int = 10,
        checkpoint_frozen: bool = True,
        sample_weights: LossBasedWeights | None = None,
        compile: bool | dict[str, Any] = False,
        seed: int = 0,
        join_probe: bool = False,
    ) -> None:
        super().__init__(
            network,
            objective,
            optimizer,
            lr_scheduler,
            gradient_clip_val,
            micro_batch_size,
            max_skipped_updates,
            checkpoint_frozen,
            sample_weights,
            compile,
            seed,
        )
        if not penalty > 0:
            raise InputError(f"penalty={penalty} must be positive; the paper uses 1.")
        if join_probe:
            check_joinable(network)
        self.penalty = penalty
        self.join_probe = join_probe
        self.reference = make_twin(network)

    # ---- a batch ----

    def phase_step(self, batch: MixtureBatch) -> Outputs:
        """Probe or compute statistics, or do what `MixtureModule` does."""
        if batch.phase not in self.handlers:
            if batch.phase == PROBE:
                return self.probe_step(batch)
            if batch.phase == STATISTICS:
                return self.statistics_step(batch)
        return super().phase_step(batch)

    def sync(self) -> None:
        """Copy the proxy to the reference: parameters, buffers, optimizer moments, step counts."""
        copy_network(self.network, self.reference)
        copy_optimizer_state(
            self._optimizer().optimizer,
            *(list(group["params"]) for group in self.parameter_groups()),
        )

    def probe_step(self, batch: MixtureBatch) -> Outputs:
        """Update both twins once, by one optimizer step.

        Each loss has its backward right after its forward, so that activations need the memory of
        one forward, unless `join_probe` joins two. In an episode's first probe step w = u, so the
        training gradient is computed once and the reference gets gamma times the proxy's, unless
        there are micro-batches and buffers, which change between them.
        """
        if batch.target_samples is None or batch.target_domains is None:
            raise InputError(
                "probing needs target data: give MixtureDataModule(target=...) a data set."
            )
        self._optimizer().zero_grad()
        if batch.first:
            self.sync()
        self.keep_statistics(self.networks())
        size, target_size = len(batch.domains), len(batch.target_domains)
        parts = split_batch(batch.samples, size, self.micro_batch_size)
        target_parts = split_batch(batch.target_samples, target_size, self.micro_batch_size)
        has_buffers = next(self.network.buffers(), None) is not None
        shared = batch.first and (len(parts) == 1 or not has_buffers)
        collected: list[tuple[Tensor, Tensor, Tensor]] = []
        for index, (proxy, weights) in enumerate(self.losses_of_parts(parts, batch.step)):
            last = index == len(parts) - 1  # gradients of all parts are reduced in one go
            with self.sync_gradients(last):
                self.manual_backward(weighted_sum(proxy, weights) / size)
            (part, rows), (target_part, target_rows) = parts[index], target_parts[index]
            joined = None
            if self.join_probe and not shared:
                joined = join_samples(part, target_part)
                if joined is None:
                    rank_zero_warn(NOT_JOINED)
            if joined is not None:
                both = self.losses(self.reference, joined, rows + target_rows, batch.step, index)
                reference, target = both.split([rows, target_rows])
                loss = self.penalty * (weighted_sum(reference, weights) / size)
                self._reference_backward(loss + target.sum() / target_size, last)
            else:
                if shared:
                    reference = proxy
                    copy_buffers(self.network, self.reference)  # the reference skips this forward
                else:
                    reference = self.losses(self.reference, part, rows, batch.step, index)
                    loss = self.penalty * (weighted_sum(reference, weights) / size)
                    self._reference_backward(loss)
                with keeping_buffers(self.reference):  # target batches update no statistics
                    target = self.losses(
                        self.reference, target_part, target_rows, batch.step, index, TARGET_SALT
                    )
                    self._reference_backward(target.sum() / target_size, last)
            collected.append((proxy.detach(), reference.detach(), target.detach()))
        self._reduce_reference_gradients()
        if shared:
            self._add_proxy_gradients()
        proxy, reference, target = (torch.cat(losses) for losses in zip(*collected, strict=True))
        self.apply_update(proxy, reference, target)
        return {"losses": proxy, "reference_losses": reference, "target_losses": target}

    def apply_update(self, *losses: Tensor) -> None:
        """Step the optimizer; when sharded, also create the reference's optimizer state.

        Loading a sharded checkpoint needs optimizer state for every parameter, and before the first
        sync the reference has none.
        """
        super().apply_update(*losses)
        if data_mesh(self.trainer) is not None:
            optimizer = self._optimizer().optimizer
            proxy, reference = (group["params"] for group in optimizer.param_groups)
            if optimizer.state and reference[0] not in optimizer.state:
                copy_optimizer_state(optimizer, proxy, reference)

    @torch.no_grad()
    def statistics_step(self, batch: MixtureBatch) -> Outputs:
        """Compute BatchNorm's running statistics of both twins: means over the segment's batches.

        They are averaged over ranks after each batch, so that the first rank's checkpoint holds the
        statistics of all.
        """
        parts = split_batch(batch.samples, len(batch.domains), self.micro_batch_size)
        losses = []
        for network in (self.network, self.reference):
            for index, part in enumerate(parts):
                with accumulating_statistics(network, batch.first and index == 0):
                    losses.append(self.losses(network, *part, batch.step, index))
        self.average_statistics()
        return {"loss": torch.cat(losses[: len(parts)]).mean()}  # the proxy's

    @torch.no_grad()
    def measure_step(self, batch: MixtureBatch) -> Outputs:
        """Return losses under both twins, in eval mode, on the same samples."""
        proxy = self.measured_losses(self.network, "", batch)
        return proxy | self.measured_losses(self.reference, "reference_", batch)

    # ---- both networks ----

    def networks(self) -> list[nn.Module]:
        """Return both twins."""
        return [self.network, self.reference]

    def twin_distance(self) -> Tensor:
        """Return ||w - u|| / ||u||, a scalar on the device."""
        return distance(self.network, self.reference)

    def evaluated_networks(self) -> dict[str, nn.Module]:
        """Return the networks of validation: while fitting, the reference beside the proxy."""
        networks = super().evaluated_networks()
        if self.trainer.state.fn == "fit":
            networks["loss_reference"] = self.reference
        return networks

    def parameter_groups(self) -> list[Any]:
        """Return the proxy's and the reference's trainable parameters, in the same order."""
        return [
            {"params": trainable(network), "name": name}
            for name, network in (("proxy", self.network), ("reference", self.reference))
        ]

    # ---- gradients of the reference ----

    def configure_model(self) -> None:
        """Shard both twins, or keep the reference out of DDP's reducer.

        DDP's reducer would wait for the reference in free steps. Sharded twins share no parameter,
        because each gathers its own: the frozen ones are copied.
        """
        mesh = data_mesh(self.trainer)
        shared = {id(p) for p in self.network.parameters()} & {
            id(p) for p in self.reference.parameters()
        }
        if mesh is not None and shared:
            self.reference = copy.deepcopy(self.network)
        super().configure_model()
        shard(self.reference, mesh)
        if isinstance(self.trainer.strategy, DDPStrategy):
            names = [f"reference.{name}" for name, _ in self.reference.named_parameters()]
            names += [f"reference.{name}" for name, _ in self.reference.named_buffers()]
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, names)

    def _reference_backward(self, loss: Tensor, last: bool = False) -> None:
        """Run a backward without DDP's reducer, which ignores the reference.

        Sharded gradients are reduced in the `last` one.
        """
        with self.sync_gradients(last and not isinstance(self.trainer.strategy, DDPStrategy)):
            self.manual_backward(loss)

    def _reduce_reference_gradients(self) -> None:
        """Average the reference's gradients over ranks, as DDP does the proxy's."""
        if self.trainer.world_size == 1 or not isinstance(self.trainer.strategy, DDPStrategy):
            return
        gradients = [p.grad for p in self.reference.parameters() if p.grad is not None]
        sum_over_ranks(gradients)
        torch._foreach_div_(gradients, self.trainer.world_size)

    def _add_proxy_gradients(self) -> None:
        """Add gamma times the proxy's gradient to the reference's."""
        reference_grads, proxy_grads = [], []
        for proxy, reference in zip(
            self.network.parameters(), self.reference.parameters(), strict=True
        ):
            if proxy.grad is None:
                continue
            if reference.grad is None:
                reference.grad = self.penalty * proxy.grad
                continue
            reference_grads.append(reference.grad)
            proxy_grads.append(proxy.grad)
        torch._foreach_add_(
            local_shards(reference_grads), local_shards(proxy_grads), alpha=self.penalty
        )
