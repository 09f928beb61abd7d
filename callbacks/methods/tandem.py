"""TANDEM: weights from the losses of a proxy and its twin, the reference (arXiv 2606.04401)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from tandem_pl.callbacks.anchor import AnchorSetting
from tandem_pl.callbacks.bad_domains import list_domains, warn_of_zeros
from tandem_pl.callbacks.episode_lengths import (
    check_batches,
    choose_free_steps,
    choose_measure_batches,
)
from tandem_pl.callbacks.freezing import check_freezing
from tandem_pl.callbacks.measures.gathering import gather_columns
from tandem_pl.callbacks.measures.hyper_gradient import HyperGradient, hyper_gradient
from tandem_pl.callbacks.reweighting import ReweightingCallback, Update
from tandem_pl.callbacks.step_size import (
    LearningRate,
    check_learning_rate,
    mean_square,
    scale_free_rate,
)
from tandem_pl.callbacks.step_watch import StepWatch, new_state, warning_of
from tandem_pl.checks import AUTO, Auto, check_at_least, check_choice
from tandem_pl.episode import MEASURE, PROBE, STATISTICS, TRAIN, MixtureBatch, Plan, Segment
from tandem_pl.errors import InputError
from tandem_pl.objectives.samples import at_least_float32
from tandem_pl.simplex import Array, exponentiated_step, projected_step
from tandem_pl.training.mixture_module import MixtureModule
from tandem_pl.training.norm_statistics import tracking_norms
from tandem_pl.training.tandem_module import TandemModule

from .method import Length, Method

LARGE_MOVE = 0.5  # share of the mixture; an update that moves more gives a warning
UPDATES = {"projected": projected_step, "exponentiated": exponentiated_step}


def tandem_work(settings: Mapping[str, Any], run: Length) -> float:
    """Return the cost of a run.

    >>> settings = {"free_steps": 15, "probe_steps": 5, "measure_batches": 3}
    >>> tandem_work(settings, Length(7, 2000, 16))
    3100.0
    """
    free, probe = settings["free_steps"], settings["probe_steps"]
    measured, learning = settings["measure_batches"], settings.get("freeze_after") or 1
    if free == AUTO:
        free = choose_free_steps(int(run.steps * learning), probe)
    if measured == AUTO:
        measured = choose_measure_batches(run.domains, run.batch_size, free + probe)
    extra = 2 * probe - 1 + 2 * (measured + settings.get("statistics_batches", 0)) / 3
    return run.steps * (1 + learning * extra / (free + probe))


class TandemReweighting(ReweightingCallback):
    """alpha <- Pi_A(alpha - eta gamma Delta) once an episode; needs a `TandemModule`.

    No setting needs tuning: with `learning_rate="auto"` the step is in units of the signal's own
    spread (`scale_free_rate`), so that losses in other units, another penalty or a constant added
    to all Delta change nothing. A number is the paper's rule: weights jump between wrong mixtures
    for ever if it is too large, and stand still if it is too small.

    Args:
        free_steps: E, proxy steps between updates; "auto" for as many as leave 120 updates in
            `max_steps`, at least 15, and 45 in a run without `max_steps`.
        probe_steps: K, steps of both twins before measuring; more cost more and are less noisy.
        measure_batches: V, batches measured by both twins, spread evenly over the domains; "auto"
            for 32 samples of a domain, or fewer if they would cost more than the training.
        learning_rate: "auto", or eta, weight per nat.
        floor: least weight of a domain, 0 to 1/M.
        caps: domain -> largest weight; None for no caps.
        update: "projected" is TANDEM's; "exponentiated" is mirror descent, not TANDEM's rule.
        statistics_batches: S, batches of the mixture on which BatchNorm's running statistics of
            both twins are computed again before measuring; 0 keeps those of training.
        stop_when_settled: whether to end the run once the average of the weights has stayed for a
            third of the updates, for runs of which only the mixture is wanted.
        freeze_after: share of the run after which it trains on with the average of the weights,
            without probing and measuring; None to learn to the end.
        anchor: as of every method; see `callbacks.anchor`.

    An episode costs E + 3K - 1 + 2/3 (V + S) proxy steps and trains the proxy for E + K.

    It works for any number M of domains. Each domain is measured once in every
    ceil(M / (V batch_size)) episodes. An update that did not measure a domain gives it the mean of
    those that it measured, so (with `update="projected"`) its weight keeps its value, or moves by
    the shift common to all if weights are at the floor or a cap. With a number as
    `learning_rate`, an update moves a weight by about eta gamma Delta, which must be small next
    to 1/M: as M grows, lower it.

    Raises:
        InputError: for settings out of range, a module without twins, or no target data.
    """

    method = "tandem"
    signal_name = "hyper_gradient"
    signal_columns = HyperGradient._fields
    rows = (
        Method(
            "tandem",
            "training loss under a reference that also sees the target, against the proxy's",
            "arXiv 2606.04401",
            "2K - 1 + 2/3 V",
            tandem_work,
            module="TandemModule",
            needs_target=True,
        ),
    )

    def __init__(
        self,
        free_steps: int | Auto = "auto",
        probe_steps: int = 5,
        measure_batches: int | Auto = "auto",
        learning_rate: LearningRate = "auto",
        floor: float = 0.0,
        caps: dict[str, float] | None = None,
        update: Literal["projected", "exponentiated"] = "projected",
        statistics_batches: int = 0,
        stop_when_settled: bool = False,
        freeze_after: float | None = None,
        anchor: AnchorSetting = 0.0,
    ) -> None:
        super().__init__(anchor)
        check_batches("free_steps", free_steps, 0)
        check_at_least("probe_steps", probe_steps, 1)
        check_batches("measure_batches", measure_batches, 1)
        check_at_least("statistics_batches", statistics_batches, 0)
        check_learning_rate(learning_rate)
        check_choice("update", update, tuple(UPDATES))
        check_freezing(stop_when_settled, freeze_after)
        self._auto_free, self._auto_measure = free_steps == AUTO, measure_batches == AUTO
        self.free_steps: Any = free_steps  # a number from `setup` on, and so is the next
        self.probe_steps = probe_steps
        self.measure_batches: Any = measure_batches
        self.learning_rate: LearningRate = learning_rate
        self.floor = floor
        self.caps = dict(caps) if caps else None
        self.update_rule = update
        self.statistics_batches = statistics_batches
        self.stop_when_settled = stop_when_settled
        self.freeze_after = freeze_after
        self.signal: HyperGradient | None = None  # of the last update
        self._warned = False
        # S and t of `scale_free_rate`
        self._squares: float = self.add_state("_squares", float)
        self._squared: int = self.add_state("_squared", int)
        self._watched = self.add_state("_watched", lambda: new_state(len(self.domains)))
        # [3, N] each: domain, loss under u, loss under w
        self._rows: list[Tensor] = self.add_state("_rows", list, tensors=True)

    def check(self, trainer: Trainer, module: MixtureModule) -> None:
        """Raise an error for a module without twins; choose what is "auto" of an episode."""
        if not isinstance(module, TandemModule):
            raise InputError(
                f"TandemReweighting compares twin networks, which {type(module).__name__} does "
                "not have: use TandemModule."
            )
        if self.statistics_batches and not tracking_norms(module.network):
            raise InputError(
                f"statistics_batches={self.statistics_batches}, and the network has no BatchNorm "
                "with running statistics to compute: set it to 0."
            )
        size, batch = len(self.domains), self.data.batch_size
        if self._auto_free:
            steps = None
            if trainer.max_steps > 0:
                steps = int(trainer.max_steps * (self.freeze_after or 1))
            self.free_steps = choose_free_steps(steps, self.probe_steps)
        if self._auto_measure:
            episode = self.free_steps + self.probe_steps
            self.measure_batches = choose_measure_batches(size, batch, episode)
        if self.measure_batches * batch < size:
            rounds = math.ceil(size / (self.measure_batches * batch))
            rank_zero_info(
                f"{size} domains, {self.measure_batches} x {batch} samples measured: each domain "
                f"is measured every {rounds} episodes."
            )

    def initial(self, trainer: Trainer) -> Array:
        """Return the data module's weights, projected on the floor and the caps."""
        self._warned = False
        assert self.data.mixture is not None
        weights = self.data.mixture.project(self.floor, self.caps).array
        if self.update_rule == "exponentiated":
            warn_of_zeros(self.domains, weights)
        return weights

    def plan(self) -> Plan:
        """Return free E | probe K with target | statistics S | measure V, evenly over domains."""
        weights = tuple(self.weights.tolist())
        even = (1.0 / len(weights),) * len(weights)
        segments = [
            Segment(TRAIN, self.free_steps, weights),
            Segment(PROBE, self.probe_steps, weights, target=True),
            Segment(STATISTICS, self.statistics_batches, weights),
            Segment(MEASURE, self.measure_batches, even),
        ]
        return [segment for segment in segments if segment.batches]

    def observe(self, trainer: Trainer, outputs: Any, batch: MixtureBatch) -> None:
        """Keep all ranks' losses, on the device, until the episode ends."""
        proxy, reference = outputs["losses"], outputs["reference_losses"]
        exact = at_least_float32(proxy)  # domain numbers are exact up to 2^24
        rows = torch.stack([batch.domains.to(exact), exact, reference.to(exact)])
        self._rows.append(gather_columns(trainer, rows))

    def update(self, trainer: Trainer, module: Any) -> Update:
        """Measure Delta, and take the step; if a loss is not finite, the weights do not change."""
        rows = torch.cat(self._rows, dim=1).cpu().double().numpy()
        self._rows = []
        if not np.isfinite(rows).all():
            bad = list_domains(self.domains, rows[0, ~np.isfinite(rows).all(axis=0)])
            return self.keep_weights(trainer, "a measured loss is not finite", bad)
        domains = rows[0].astype(np.int64)
        self.signal = hyper_gradient(domains, rows[1], rows[2], len(self.domains))
        self.keep_signal(trainer, *self.signal)
        caps = None
        if self.caps is not None:
            caps = np.array([self.caps.get(name, 1.0) for name in self.domains])
        gradient = module.penalty * self.signal.delta
        self._squares += mean_square(gradient, self.signal.samples > 0)
        self._squared += 1
        step = UPDATES[self.update_rule]
        weights = step(self.weights, gradient, self.step_size(), self.floor, caps)
        moved = 0.5 * np.abs(weights - self.weights).sum()
        if moved > LARGE_MOVE and not self._warned:
            self._warned = True
            lower = f"lower learning_rate={self.learning_rate}, or "
            rank_zero_warn(
                f"step {trainer.global_step}: one update moved {moved:.0%} of the mixture, too "
                f"much for noisy measurements: {'' if self.learning_rate == AUTO else lower}raise "
                f"measure_batches={self.measure_batches}."
            )
        self._watch_step(trainer, weights, gradient, partial(step, floor=self.floor, caps=caps))
        unmeasured = np.where(self.signal.samples > 0, 0.0, np.nan)  # NaN is not logged
        return weights, self.by_domain("hypergradient", gradient + unmeasured) | self.by_domain(
            "hypergradient_error", module.penalty * self.signal.error + unmeasured
        )

    def auto_rate(self) -> float:
        """Return the scale-free rate, in the unit of `learning_rate`."""
        rate = scale_free_rate(self._squares, self._squared)
        return rate if self.update_rule == "exponentiated" else rate / len(self.weights)

    def step_size(self) -> float:
        """Return eta of this update."""
        return self.auto_rate() if self.learning_rate == AUTO else self.learning_rate

    def _watch_step(self, trainer: Trainer, weights: Array, gradient: Array, step: Any) -> None:
        """Warn, once each, of updates that alternate, stand still, or measure nothing."""
        assert self.signal is not None
        watch, start, known = StepWatch(self._watched), self.trajectory[0], self.signal.samples > 0
        rate = self.auto_rate()
        problem = watch.watch(start, self.weights, weights, gradient, known, step, rate)
        text = problem and warning_of(problem, watch, self.learning_rate, rate)
        if text:
            rank_zero_warn(f"step {trainer.global_step}: {text}")

    def lowest(self) -> float:
        """Return the floor."""
        return self.floor

    def upgrade_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """Convert the rows of older checkpoints, which are one tensor."""
        if isinstance(state.get("rows"), Tensor):
            state["rows"] = [state["rows"]]
        return super().upgrade_state(state)
