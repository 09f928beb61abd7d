"""TANDEM: weights from the twins' losses (arXiv 2606.04401)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from tandem_pl.callbacks.reweighting import ReweightingCallback
from tandem_pl.episode import MEASURE, PROBE, STATISTICS, TRAIN, MixtureBatch, Plan, Segment
from tandem_pl.errors import InputError
from tandem_pl.mixture import Mixture
from tandem_pl.objectives.samples import at_least_float32
from tandem_pl.simplex import Array, exponentiated_step, projected_step
from tandem_pl.training.norm_statistics import tracking_norms

MOST_MOVED = 0.5  # share of the mixture that one update may move without a word
UPDATES = {"projected": projected_step, "exponentiated": exponentiated_step}


class HyperGradient(NamedTuple):
    """Delta_m = mean over samples of domain m of (loss under w - loss under u), in nats.

    All are [M]: `delta`, its standard error `error` (0 for a single sample; it covers the choice of
    measured samples, not that of the probe's batches) and the number of `samples`. A domain without
    a sample gets the mean of the others, which moves it with them.
    """

    delta: Array
    error: Array
    samples: Array


def hyper_gradient(domains: Array, proxy: Array, reference: Array, size: int) -> HyperGradient:
    """From per-sample losses [N] under both twins and their domain numbers [N].

    >>> import numpy as np
    >>> hyper_gradient(np.array([0, 0, 1]), np.ones(3), np.array([1.0, 2.0, 1.0]), 2).delta
    array([0.5, 0. ])
    """
    count = np.bincount(domains, minlength=size).astype(np.float64)
    gap = reference.astype(np.float64) - proxy.astype(np.float64)
    measured = count > 0
    samples = np.maximum(count, 1)
    delta = np.bincount(domains, gap, size) / samples
    square = np.bincount(domains, (gap - delta[domains]) ** 2, size)
    error = np.sqrt(square / np.maximum(count - 1, 1) / samples)
    delta[~measured] = delta[measured].mean() if measured.any() else 0.0
    return HyperGradient(delta, error, count)


class TandemReweighting(ReweightingCallback):
    """alpha <- Pi_A(alpha - eta gamma Delta) once an episode; needs a `TandemModule`.

    Args:
        free_steps: E, proxy steps between updates.
        probe_steps: K, steps of both twins before measuring; more cost more and are less noisy.
        measure_batches: V, batches measured by both twins, spread evenly over the domains.
        learning_rate: eta, weight per nat.
        floor: least weight of a domain, 0 to 1/M.
        caps: domain -> largest weight; None for no caps.
        statistics_batches: batches of the mixture, before measuring, on which BatchNorm's running
            statistics are computed anew for both twins; 0 keeps those that training gathered.
        update: "projected" is TANDEM's; "exponentiated" is mirror descent, not TANDEM's rule.

    An episode costs E + 3K - 1 + 2/3 V proxy steps and trains the proxy for E + K. With S batches
    of statistics, V + S stands in place of V.

    Any number M of domains will do. Measured samples go round: each domain is measured once in
    every ceil(M / (V batch_size)) episodes, and an update that did not measure it gives it the mean
    of those that it did, so that (with `update="projected"`) its weight stays as it is, or moves by
    the shift that is common to all where weights are at the floor or a cap. An update moves a
    weight by about eta gamma Delta, which has to be small next to 1/M: lower `learning_rate` as M
    grows, and raise V.

    Raises:
        InputError: for settings out of range, a module without twins, or no target data.
    """

    method = "tandem"
    signal_name = "hyper_gradient"
    signal_columns = HyperGradient._fields

    def __init__(
        self,
        free_steps: int = 45,
        probe_steps: int = 5,
        measure_batches: int = 4,
        learning_rate: float = 3.0,
        floor: float = 0.0,
        caps: dict[str, float] | None = None,
        update: Literal["projected", "exponentiated"] = "projected",
        statistics_batches: int = 0,
    ) -> None:
        super().__init__()
        for key, value, least in (
            ("free_steps", free_steps, 0),
            ("probe_steps", probe_steps, 1),
            ("measure_batches", measure_batches, 1),
        ):
            if value < least:
                raise InputError(
                    f"{key}={value} must be at least {least}: the twins differ only by what they "
                    "do in probe steps, and only measured differences move the weights."
                    if least
                    else f"{key}={value} must be 0 or more."
                )
        if statistics_batches < 0:
            raise InputError(f"statistics_batches={statistics_batches} must be 0 or more.")
        if not (np.isfinite(learning_rate) and learning_rate > 0):
            raise InputError(f"learning_rate={learning_rate} must be a positive number.")
        if update not in UPDATES:
            raise InputError(f"update={update!r} must be one of {sorted(UPDATES)}.")
        self.free_steps = free_steps
        self.probe_steps = probe_steps
        self.measure_batches = measure_batches
        self.learning_rate = learning_rate
        self.floor = floor
        self.caps: Mapping[str, float] | None = caps
        self.rule = update
        self.statistics_batches = statistics_batches
        self.signal: HyperGradient | None = None
        self.skipped_episodes = 0
        self._warned = False
        self._rows: list[Tensor] = []  # [3, N] each: domain, loss under u, loss under w

    def plan(self) -> Plan:
        """Free E | probe K with target | statistics S | measure V, stratified."""
        weights = tuple(self.weights.tolist())
        even = (1.0 / len(weights),) * len(weights)
        segments = [
            Segment(TRAIN, self.free_steps, weights),
            Segment(PROBE, self.probe_steps, weights, target=True),
            Segment(STATISTICS, self.statistics_batches, weights),
            Segment(MEASURE, self.measure_batches, even),
        ]
        return [segment for segment in segments if segment.batches]

    def initial(self, trainer: Trainer) -> Array:
        """The datamodule's weights, moved inside the floor and the caps."""
        start: Mixture = trainer.datamodule.mixture  # type: ignore[attr-defined]
        return start.project(self.floor, self.caps).array

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses a module without twins."""
        if stage == "fit" and not hasattr(pl_module, "probe_step"):
            raise InputError(
                f"TandemReweighting compares twin networks, which {type(pl_module).__name__} does "
                "not have: use TandemModule."
            )
        network: Any = getattr(pl_module, "network", None)
        if stage == "fit" and self.statistics_batches and not tracking_norms(network):
            raise InputError(
                f"statistics_batches={self.statistics_batches}, and the network has no BatchNorm "
                "whose running statistics could be computed: set it to 0."
            )
        self._rows, self._warned = [], False
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            batch, size = trainer.datamodule.batch_size, len(self.domains)  # type: ignore[attr-defined]
            if self.measure_batches * batch < size:
                rounds = math.ceil(size / (self.measure_batches * batch))
                rank_zero_info(
                    f"{size} domains, {self.measure_batches} x {batch} samples measured: each "
                    f"domain is measured every {rounds} episodes."
                )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Brings what a checkpoint brought to where the next losses will be."""
        self._rows = [rows.to(pl_module.device) for rows in self._rows]

    def observe(self, trainer: Trainer, outputs: Any, batch: MixtureBatch) -> None:
        """Keeps every rank's losses on every rank, on the device, until the episode ends."""
        proxy, reference = outputs["losses"], outputs["reference_losses"]
        exact = at_least_float32(proxy)  # whole numbers up to 2^24: enough for domain numbers
        rows = torch.stack([batch.domains.to(exact), exact, reference.to(exact)])
        if trainer.world_size > 1:
            rows = torch.cat(list(trainer.strategy.all_gather(rows)), dim=1)
        self._rows.append(rows)

    def update(self, trainer: Trainer, module: Any) -> tuple[Array, dict[str, float]]:
        """Delta and the projected step. Losses that are not finite leave the weights alone."""
        rows = torch.cat(self._rows, dim=1).cpu().double().numpy()
        self._rows = []
        if not np.isfinite(rows).all():
            self.skipped_episodes += 1
            rank_zero_warn(
                f"step {trainer.global_step}: a measured loss is not finite, the weights stay as "
                f"they are ({self.skipped_episodes} episodes so far)."
            )
            return self.weights, {"mixture/skipped_episodes": float(self.skipped_episodes)}
        domains = rows[0].astype(np.int64)
        self.signal = hyper_gradient(domains, rows[1], rows[2], len(self.domains))
        self.keep_signal(trainer, *self.signal)
        caps = None
        if self.caps is not None:
            caps = np.array([self.caps.get(name, 1.0) for name in self.domains])
        gradient = module.penalty * self.signal.delta
        rule = UPDATES[self.rule]
        weights = rule(self.weights, gradient, self.learning_rate, self.floor, caps)
        moved = 0.5 * np.abs(weights - self.weights).sum()
        if moved > MOST_MOVED and not self._warned:
            self._warned = True
            rank_zero_warn(
                f"step {trainer.global_step}: one update moved {moved:.0%} of the mixture, more "
                f"than single measurements bear: lower learning_rate={self.learning_rate}, or "
                "measure more batches."
            )
        unknown = np.where(self.signal.samples > 0, 0.0, np.nan)  # of a domain without a sample
        return weights, self.by_domain("hypergradient", gradient + unknown) | self.by_domain(
            "hypergradient_error", module.penalty * self.signal.error + unknown
        )

    def lowest(self) -> float:
        """The floor."""
        return self.floor

    def settings(self) -> dict[str, Any]:
        """All arguments."""
        return {
            "free_steps": self.free_steps,
            "probe_steps": self.probe_steps,
            "measure_batches": self.measure_batches,
            "learning_rate": self.learning_rate,
            "floor": self.floor,
            "caps": dict(self.caps) if self.caps else None,
            "update": self.rule,
            "statistics_batches": self.statistics_batches,
        }

    def state_dict(self) -> dict[str, Any]:
        """Adds what has been measured in the episode so far."""
        rows = torch.cat(self._rows, dim=1).cpu() if self._rows else None
        return super().state_dict() | {"rows": rows, "skipped_episodes": self.skipped_episodes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores it."""
        super().load_state_dict(state_dict)
        rows = state_dict.get("rows")
        self._rows = [] if rows is None else [rows]
        self.skipped_episodes = state_dict.get("skipped_episodes", 0)
