"""DynamixSFT: a bandit around a prior, rewarded by the loss of look-ahead steps (2508.12116)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer

from tandem_pl.callbacks.anchor import AnchorSetting
from tandem_pl.callbacks.bad_domains import bad_domains, warn_of_zeros
from tandem_pl.callbacks.episode_lengths import check_measured
from tandem_pl.callbacks.measures.gathering import gather_sum
from tandem_pl.callbacks.measures.virtual_step import look_ahead_losses
from tandem_pl.callbacks.reweighting import ReweightingCallback, Update
from tandem_pl.checks import check_at_least, check_below_one, check_positive, check_share
from tandem_pl.data_weights import resolve_data_weights
from tandem_pl.episode import MEASURE, TRAIN, Handler, MixtureBatch, Outputs, Plan, Segment
from tandem_pl.errors import InputError
from tandem_pl.simplex import Array, sum_to_one
from tandem_pl.training.mixture_module import MixtureModule
from tandem_pl.training.sharding import is_sharded

from .method import Method

EPSILON = 1e-8  # of the relative fall, nats


def look_ahead_rewards(before: Array, after: Array) -> Array:
    """Return r [M] = (before - after) / (before + 1e-8), scaled so that it spans 0 to 1.

    Domains that are NaN were not measured, and stay NaN. If all falls are equal, r is 0.

    >>> look_ahead_rewards(np.array([2.0, 1.0, 4.0]), np.array([1.0, 0.9, 3.0])).round(3).tolist()
    [1.0, 0.0, 0.375]
    """
    fall = (before - after) / (before + EPSILON)
    lowest, highest = np.nanmin(fall), np.nanmax(fall)
    return (fall - lowest) / (highest - lowest) if highest > lowest else fall - lowest


def dynamix_weights(prior: Array, rewards: Array, exploration: float, sharpness: float) -> Array:
    """Return p_m = (1 - gamma) p0_m exp(beta Q_m) / Z + gamma / M.

    p0 is `prior` [M], Q is `rewards` [M], gamma is `exploration`, beta is `sharpness`.

    >>> dynamix_weights(np.array([0.5, 0.5]), np.array([np.log(3), 0]), 0.2, 1.0).round(3).tolist()
    [0.7, 0.3]
    """
    highest = rewards[prior > 0].max()  # so that no power overflows
    share = prior * np.exp(np.minimum(sharpness * (rewards - highest), 0.0))
    size = len(prior)
    return sum_to_one((1 - exploration) * share / share.sum() + exploration / size)


class DynamixReweighting(ReweightingCallback):
    """p_m = (1 - gamma) p0_m exp(beta Q_m)/Z + gamma/M, Q a running mean of look-ahead rewards.

    After every `period` training steps it takes, for each domain, one virtual step on measured
    samples of that domain alone, and undoes it. The reward is the relative fall of the loss on
    these samples, scaled over the domains to 0 to 1. Q_m <- a Q_m + (1 - a) r_m, starting at 0; a
    domain without a measured sample keeps its Q. The step is the optimizer's, in eval mode.

    We know the paper by its equations only; it measures a batch of each domain, here they share
    `measure_batches`. Domains whose loss one step lowers most are not those that help a target:
    noise that a step can memorise counts too.

    An episode costs 4/3 V proxy steps beyond training and the copies of virtual steps: once for
    each domain in each measured batch, parameters and optimizer state are copied there and back.

    Args:
        period: training steps between updates; the paper's is 50.
        measure_batches: V, batches spread evenly over the domains.
        exploration: gamma, share of uniform weights; the paper's is 0.3.
        smoothing: a; the paper's is 0.95.
        sharpness: beta; the paper's are 4 (1B) and 5 (8B).
        prior: p0, written as the data module's `weights`, which it is for None; the paper's is
            "proportional".
        anchor: as of every method; see `callbacks.anchor`.

    Raises:
        InputError: for settings out of range, fewer measured samples than domains, or a sharded
            network.
    """

    method = "dynamix"
    signal_name = "reward"
    signal_columns = ("reward", "mean_reward")
    rows = (
        Method(
            "dynamix",
            "a bandit around a prior: domains whose loss one step on them lowers most",
            "arXiv 2508.12116",
            "4/3 V",
            lambda settings, run: (
                run.steps * (1 + 4 / 3 * settings["measure_batches"] / settings["period"])
            ),
        ),
    )

    def __init__(
        self,
        period: int = 50,
        measure_batches: int = 2,
        exploration: float = 0.3,
        smoothing: float = 0.95,
        sharpness: float = 4.0,
        prior: Any = None,
        anchor: AnchorSetting = 0.0,
    ) -> None:
        super().__init__(anchor)
        check_at_least("period", period, 1)
        check_at_least("measure_batches", measure_batches, 1)
        check_share("exploration", exploration)
        check_below_one("smoothing", smoothing)
        check_positive("sharpness", sharpness)
        self.period = period
        self.measure_batches = measure_batches
        self.exploration = exploration
        self.smoothing = smoothing
        self.sharpness = sharpness
        self.prior = prior
        self._prior: Array = np.zeros(0)
        self._rewards = self.add_state("_rewards", lambda: np.zeros(len(self.domains)))  # Q
        # [3, M] of all ranks: sums of losses before and after, numbers of samples
        self._sums = self.add_state("_sums", lambda: np.zeros((3, len(self.domains))))

    def check(self, trainer: Trainer, module: MixtureModule) -> None:
        """Raise an error if there are fewer measured samples than domains."""
        check_measured(self.measure_batches, self.data.batch_size, len(self.domains))

    def initial(self, trainer: Trainer) -> Array:
        """Return the weights of no reward."""
        self._prior = super().initial(trainer)
        if self.prior is not None:
            self._prior = resolve_data_weights(self.prior, self.data, "prior").array
        if not self.exploration:
            warn_of_zeros(self.domains, self._prior)
        return self._weights()

    def _weights(self) -> Array:
        return dynamix_weights(self._prior, self._rewards, self.exploration, self.sharpness)

    def plan(self) -> Plan:
        """Return training, then batches spread evenly over the domains."""
        even = (1.0 / len(self.domains),) * len(self.domains)
        return [
            Segment(TRAIN, self.period, tuple(self.weights.tolist())),
            Segment(MEASURE, self.measure_batches, even),
        ]

    def handlers(self) -> dict[str, Handler]:
        """Return the measure step."""
        return {MEASURE: self.measure}

    def measure(self, module: MixtureModule, batch: MixtureBatch) -> Outputs:
        """Add the losses before and after a virtual step on each domain."""
        if is_sharded(module.network):
            raise InputError(
                "DynamixReweighting takes steps and undoes them, which a sharded network cannot: "
                "use strategy=ddp."
            )
        losses = torch.zeros(len(batch.domains), device=module.device)
        sums = np.zeros_like(self._sums)
        for domain, before, after in look_ahead_losses(module, batch, len(self.domains)):
            losses[batch.domains == domain] = before.to(losses)
            numbers = [float(x.double().sum()) for x in (before, after)]
            sums[:, domain] = [*numbers, len(before)]
        self._sums = self._sums + gather_sum(module.trainer, sums)
        return {"losses": losses}

    def update(self, trainer: Trainer, module: Any) -> Update:
        """Average the rewards, and return the weights."""
        before, after, count = self._sums
        self._sums = np.zeros_like(self._sums)
        measured = count > 0
        if not np.isfinite([before, after]).all():
            bad = bad_domains(self.domains, before + after)
            return self.keep_weights(trainer, "a look-ahead loss is not finite", bad)
        count = np.where(measured, count, np.nan)
        reward = look_ahead_rewards(before / count, after / count)
        mean = self.smoothing * self._rewards + (1 - self.smoothing) * reward
        self._rewards = np.where(measured, mean, self._rewards)
        self.keep_signal(trainer, np.nan_to_num(reward), self._rewards)
        return self._weights(), self.by_domain("reward", reward)
