"""`TandemModule`: the proxy and its twin, the reference."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from tandem_pl.episode import PROBE, STATISTICS, MixtureBatch
from tandem_pl.errors import InputError

from .mixture_module import MixtureModule, Outputs
from .modes import keeping_buffers
from .norm_statistics import accumulating_statistics
from .optimizer_settings import trainable
from .sample_weights import LossBasedWeights
from .sharding import data_mesh, local_shards, shard
from .twins import copy_buffers, copy_network, copy_optimizer_state, distance, make_twin

TARGET_SALT = 1 << 32  # keeps dropout of target samples apart from that of training samples


class TandemModule(MixtureModule):
    """Twin networks: the proxy u and the reference w (TANDEM, arXiv 2606.04401).

    An episode, as `callbacks.TandemReweighting` plans it:

    1. free: u steps on training batches, u <- u - eta grad L_train(alpha, u);
    2. sync: w <- u with buffers and optimizer moments;
    3. probe: u steps as before; w <- w - eta grad (L_target(w) + gamma L_train(alpha, w)) on the
       same training batch, with the same dropout, plus a target batch;
    4. statistics, where asked for: those of BatchNorm of both twins, anew on the same batches;
    5. measure: per-sample losses under both, in eval mode, without gradient.

    The hyper-gradient of domain m is gamma (L_m(w) - L_m(u)). Running statistics (BatchNorm's) are
    those of training batches in both twins: target batches leave the reference's alone, or losses
    would differ by what the statistics saw, which no final network will have. Both twins are
    parameter groups of one optimizer, named "proxy" and "reference".

    Args:
        network: the proxy; the reference is a deep copy that shares frozen parameters, so adapters
            on a frozen backbone (`adapters.lora`) cost one more set of adapters.
        objective, optimizer, lr_scheduler, gradient_clip_val, micro_batch_size,
            max_skipped_updates, checkpoint_frozen, sample_weights, compile, seed: as in
            `MixtureModule`. The optimizer factory gets two parameter groups. Both twins weigh
            training samples by the proxy's losses. Each twin's gradient is clipped by itself.
        penalty: gamma, the weight of the training loss in the reference's objective.

    Training outputs: {"losses": [B]} of the proxy before its step; in probe steps also
    "reference_losses" [B] and "target_losses" [B']; in measure steps "reference_losses".
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
        self.penalty = penalty
        self.reference = make_twin(network)

    def phase_step(self, batch: MixtureBatch) -> Outputs:
        """Probes, and what `MixtureModule` does."""
        if batch.phase == PROBE and PROBE not in self.handlers:
            return self.probe_step(batch)
        if batch.phase == STATISTICS and STATISTICS not in self.handlers:
            return self.statistics_step(batch)
        return super().phase_step(batch)

    def sync(self) -> None:
        """Reference <- proxy: parameters, buffers, optimizer moments and step counts."""
        copy_network(self.network, self.reference)
        copy_optimizer_state(
            self._optimizer().optimizer,
            *(list(group["params"]) for group in self.parameter_groups()),
        )

    def probe_step(self, batch: MixtureBatch) -> Outputs:
        """One step of each twin, by one optimizer step.

        Every loss has its backward at once, so that the memory for activations is that of one
        forward. In an episode's first probe step w = u, so the training gradient is computed once
        and the reference gets gamma times the proxy's.
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
        parts = self.micro_batches(batch.samples, size)
        target_parts = self.micro_batches(batch.target_samples, target_size)
        has_buffers = next(self.network.buffers(), None) is not None
        shared = batch.first and (len(parts) == 1 or not has_buffers)
        ahead = self.weights_ahead(parts, batch.step)
        collected: list[tuple[Tensor, Tensor, Tensor]] = []
        for index, (train, extra) in enumerate(zip(parts, target_parts, strict=True)):
            proxy = self.losses(self.network, *train, batch.step, index)
            loss, weights = self.weighted_sum(proxy, ahead, parts, index, batch.step)
            last = index == len(parts) - 1
            with self.sync_gradients(last):
                self.manual_backward(loss / size)
            if shared:
                reference = proxy
                copy_buffers(self.network, self.reference)  # as if w had seen the samples too
            else:
                reference = self.losses(self.reference, *train, batch.step, index)
                loss = (reference if weights is None else reference * weights).sum()
                self._reference_backward(self.penalty * (loss / size))
            with keeping_buffers(self.reference):  # statistics are of training batches alone
                target = self.losses(self.reference, *extra, batch.step, index, TARGET_SALT)
                self._reference_backward(target.sum() / target_size, last)
            collected.append((proxy.detach(), reference.detach(), target.detach()))
        self._reduce_reference_gradients()
        if shared:
            self._add_proxy_gradients()
        proxy, reference, target = (torch.cat(losses) for losses in zip(*collected, strict=True))
        self.apply_update(proxy, reference, target)
        return {"losses": proxy, "reference_losses": reference, "target_losses": target}

    def apply_update(self, *losses: Tensor) -> None:
        """As of one network; sharded twins also have optimizer state alike from the first step on.

        A sharded checkpoint can be loaded only where every parameter has some, and before the first
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
        """BatchNorm's running statistics of both twins: the mean over this segment's batches.

        Over those of all ranks, and after each batch, so that the first rank's checkpoint has all.
        """
        parts = self.micro_batches(batch.samples, len(batch.domains))
        for network in (self.network, self.reference):
            for index, part in enumerate(parts):
                with accumulating_statistics(network, batch.first and index == 0):
                    self.losses(network, *part, batch.step, index)
        self.average_statistics()
        return {}

    @torch.no_grad()
    def measure_step(self, batch: MixtureBatch) -> Outputs:
        """Losses under both twins, in eval mode, on the same samples."""
        proxy = self.measured_losses(self.network, "", batch)
        return proxy | self.measured_losses(self.reference, "reference_", batch)

    def networks(self) -> list[nn.Module]:
        """Both twins."""
        return [self.network, self.reference]

    def twin_distance(self) -> Tensor:
        """||w - u|| / ||u||."""
        return distance(self.network, self.reference)

    def evaluated_networks(self) -> dict[str, nn.Module]:
        """While fitting, validation shows the reference beside the proxy."""
        networks = super().evaluated_networks()
        if self.trainer.state.fn == "fit":
            networks["loss_reference"] = self.reference
        return networks

    def parameter_groups(self) -> list[Any]:
        """The proxy's and the reference's trainable parameters, in the same order."""
        return [
            {"params": trainable(network), "name": name}
            for name, network in (("proxy", self.network), ("reference", self.reference))
        ]

    # ---- gradients of the reference ----

    def configure_model(self) -> None:
        """Shards both twins, or keeps the reference out of DDP's reducer.

        The reducer would wait for the reference in free steps. Sharded twins share no parameter,
        since each gathers its own: the frozen ones are copied.
        """
        mesh = data_mesh(self.trainer)
        shares = {id(p) for p in self.network.parameters()} & {
            id(p) for p in self.reference.parameters()
        }
        if mesh is not None and shares:
            self.reference = copy.deepcopy(self.network)
        super().configure_model()
        shard(self.reference, mesh)
        if isinstance(self.trainer.strategy, DDPStrategy):
            names = [f"reference.{name}" for name, _ in self.reference.named_parameters()]
            names += [f"reference.{name}" for name, _ in self.reference.named_buffers()]
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, names)

    def _reference_backward(self, loss: Tensor, last: bool = False) -> None:
        """Backward without DDP's reducer, which does not know the reference.

        Sharded gradients are reduced in the `last` one.
        """
        with self.sync_gradients(last and not isinstance(self.trainer.strategy, DDPStrategy)):
            self.manual_backward(loss)

    def _reduce_reference_gradients(self) -> None:
        """Averages the reference's gradients over ranks, as DDP does the proxy's."""
        if self.trainer.world_size == 1 or not isinstance(self.trainer.strategy, DDPStrategy):
            return
        gradients = [p.grad for p in self.reference.parameters() if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        torch.distributed.all_reduce(flat)
        flat /= self.trainer.world_size
        sizes = [gradient.numel() for gradient in gradients]
        views = [v.view_as(g) for v, g in zip(flat.split(sizes), gradients, strict=True)]
        torch._foreach_copy_(gradients, views)

    def _add_proxy_gradients(self) -> None:
        mine, theirs = [], []
        for proxy, reference in zip(
            self.network.parameters(), self.reference.parameters(), strict=True
        ):
            if proxy.grad is None:
                continue
            if reference.grad is None:
                reference.grad = self.penalty * proxy.grad
                continue
            mine.append(reference.grad)
            theirs.append(proxy.grad)
        torch._foreach_add_(local_shards(mine), local_shards(theirs), alpha=self.penalty)
