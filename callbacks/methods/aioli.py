"""Aioli: weights from a linear mixing law that short trainings measure (arXiv 2411.05735)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer

from tandem_pl.callbacks.anchor import AnchorSetting
from tandem_pl.callbacks.bad_domains import bad_domains, warn_of_zeros
from tandem_pl.callbacks.measures.target_evaluation import TargetEvaluation
from tandem_pl.callbacks.reweighting import ReweightingCallback, Update
from tandem_pl.callbacks.target_limits import NO_MIXTURE, LimitSetting, TargetLimits
from tandem_pl.checks import check_at_least, check_below_one, check_positive
from tandem_pl.episode import PROBE, TRAIN, TRIAL, Handler, MixtureBatch, Outputs, Plan, Segment
from tandem_pl.errors import InputError
from tandem_pl.simplex import Array, exponentiated_step
from tandem_pl.training.mixture_module import MixtureModule

from .method import Length, Method, evaluation_cost


def smoothed_one_hot(size: int, domain: int, share: float) -> Array:
    """Return `share` for one domain, and equal shares of the rest for the others.

    >>> smoothed_one_hot(3, 0, 0.5).tolist()
    [0.5, 0.25, 0.25]
    """
    weights = np.full(size, (1.0 - share) / max(size - 1, 1))
    weights[domain] = share if size > 1 else 1.0
    return weights


def draw_visits(size: int, rounds: int, seed: int, number: int) -> list[int]:
    """Return `rounds` permutations of the domains in a row, drawn for update `number`.

    >>> sorted(draw_visits(2, 2, seed=0, number=5))
    [0, 0, 1, 1]
    """
    generator = np.random.default_rng([seed, number])
    return [int(m) for _ in range(rounds) for m in generator.permutation(size)]


def mixing_matrix(order: list[int], losses: Array, counts: Array) -> Array:
    """Return A [M', M] of the linear mixing law L_i(after) = L_i(before) - sum_j A_ij p_j.

    B_il is the mean of L_i(before) - L_i(after) over the visits of domain l, and W_l the mean over
    the same visits of the shares that were drawn in them. A solves B_il = sum_j W_lj A_ij, in the
    least squares sense if W is singular.

    Args:
        order: [N] the domain of each visit; every domain has at least one.
        losses: [N + 1, M'] evaluations before the first visit and after each.
        counts: [N, M] samples drawn of each domain in each visit.

    Source: LearnParams of Chen et al. 2024, arXiv 2411.05735. Its code solves with the planned
    shares, which whole samples in a small batch cannot have exactly; here they are those drawn.

    >>> losses = np.array([[2.0], [1.5], [1.4]])
    >>> mixing_matrix([0, 1], losses, np.array([[4, 0], [0, 4]])).round(3).tolist()
    [[0.5, 0.1]]
    """
    size = counts.shape[1]
    visits_of = (np.array(order)[None, :] == np.arange(size)[:, None]).astype(np.float64)  # [M, N]
    visits_of /= visits_of.sum(axis=1, keepdims=True)
    drawn = visits_of @ (counts / counts.sum(axis=1, keepdims=True))
    gain = visits_of @ (losses[:-1] - losses[1:])  # [M, M']
    return np.linalg.lstsq(drawn, gain, rcond=None)[0].T


def normalise(matrix: Array) -> Array:
    """Subtract the least entry if it is negative, then divide by the sum of all entries.

    A matrix of equal entries below 0 has no information, and becomes one of equal entries.

    >>> normalise(np.array([[-1.0, 1.0, 2.0]])).tolist()
    [[0.0, 0.4, 0.6]]
    """
    shifted = matrix - min(float(matrix.min()), 0.0)
    total = shifted.sum()
    return shifted / total if total > 0 else np.full_like(matrix, 1.0 / matrix.size)


def aioli_weights(
    weights: Array, matrix: Array, learning_rate: float, smoothed: bool = False
) -> Array:
    """Return p proportional to p_before exp(eta g) with g_j = sum_i A_ij.

    p_before is `weights` [M], A is `matrix` [M', M], normalised: the entries of g sum to 1. If A is
    a running mean (`smoothed`), the official code takes exp(eta g) alone, so that the largest ratio
    of two weights is e^eta; the paper's recursion has p_before.

    >>> aioli_weights(np.array([0.5, 0.5]), np.array([[1.0, 0.0]]), 1.0).round(3).tolist()
    [0.731, 0.269]
    """
    before = np.full(len(weights), 1.0 / len(weights)) if smoothed else weights
    return exponentiated_step(before, -matrix.sum(axis=0), learning_rate)


def aioli_work(settings: Mapping[str, Any], run: Length) -> float:
    """Return the cost of a run: M lp_rounds + 1 evaluations a round; the visits are training."""
    evaluations = run.steps / settings["update_steps"] * (run.domains * settings["lp_rounds"] + 1)
    return run.steps + evaluations * evaluation_cost(settings["evaluation_samples"], run)


class AioliReweighting(ReweightingCallback):
    """p proportional to p_before exp(eta sum_i A_ij), with A measured again in each round.

    A round, which is an episode, is `update_steps` training steps. It ends by visiting each domain
    `lp_rounds` times, in an order that is drawn for the round: `lp_steps` real training steps on a
    mixture that has `one_hot` of that domain. The loss of each target domain is evaluated before
    and after, on the same target samples each time. The steps before the visits train on the
    weights from the visits of the last round; in the first round, on the data module's weights.
    (The official code visits first, and starts from uniform weights for any prior.)

    Args:
        update_steps: training steps of a round, those of the visits included.
        learning_rate: eta; published runs use 0.1 to 1.
        one_hot: share of the visited domain, above 1/M; 1 trains on it alone.
        lp_rounds: visits to each domain.
        lp_steps: training steps of a visit.
        ema: weight of the old A in a running mean, which also removes `p_before` (see
            `aioli_weights`); None for neither.
        evaluation_samples: of each target domain; None for all.
        no_worse_than: target domain -> loss or "uniform run"; see `callbacks.target_limits`.
        anchor: as of every method; see `callbacks.anchor`.

    A round costs (M lp_rounds + 1) E/3 proxy steps beyond training, for E batches of target data:
    with many domains that is more than the training, unless `evaluation_samples` is small.

    Raises:
        InputError: for settings out of range, a round too short for its visits, or no target data.
    """

    method = "aioli"
    signal_name = "mixing_gain"
    signal_columns = ("gain",)
    rows = (
        Method(
            "aioli",
            "gains of the target by short trainings on each domain, in a linear mixing law",
            "arXiv 2411.05735",
            "(M lp_rounds + 1) B/3; B = batches of evaluation",
            aioli_work,
            needs_target=True,
        ),
    )

    def __init__(
        self,
        update_steps: int = 250,
        learning_rate: float = 0.2,
        one_hot: float = 0.75,
        lp_rounds: int = 4,
        lp_steps: int = 4,
        ema: float | None = None,
        evaluation_samples: int | None = 32,
        no_worse_than: LimitSetting = None,
        anchor: AnchorSetting = 0.0,
    ) -> None:
        super().__init__(anchor)
        self.no_worse_than = no_worse_than
        self._limits = TargetLimits(no_worse_than)
        check_at_least("update_steps", update_steps, 1)
        check_at_least("lp_rounds", lp_rounds, 1)
        check_at_least("lp_steps", lp_steps, 1)
        check_positive("learning_rate", learning_rate)
        if not 0 < one_hot <= 1:
            raise InputError(f"one_hot={one_hot} must be above 1/M and at most 1.")
        if ema is not None:
            check_below_one("ema", ema)
        self.update_steps = update_steps
        self.learning_rate = learning_rate
        self.one_hot = one_hot
        self.lp_rounds = lp_rounds
        self.lp_steps = lp_steps
        self.ema = ema
        self.evaluation_samples = evaluation_samples
        self.evaluation = TargetEvaluation(evaluation_samples)
        self.round = self.add_state("round", int)
        self._mean: Array | None = self.add_state("_mean", lambda: None)  # of A
        self._losses: list[Array] = self.add_state("_losses", list)  # [M'] before each visit
        self._counts: list[Array] = self.add_state("_counts", list)  # [M] samples of each visit

    def check(self, trainer: Trainer, module: MixtureModule) -> None:
        """Raise an error for a number of domains that the settings do not fit, or no target."""
        size, visiting = len(self.domains), len(self.domains) * self.lp_rounds * self.lp_steps
        if size > 1 and not self.one_hot > 1 / size:
            raise InputError(
                f"one_hot={self.one_hot} must be above 1/{size}, the share of each of {size} "
                "domains: otherwise a visit measures nothing of its domain."
            )
        if self.update_steps < visiting:
            raise InputError(
                f"update_steps={self.update_steps} is shorter than the visits, {size} domains x "
                f"lp_rounds={self.lp_rounds} x lp_steps={self.lp_steps} = {visiting}: raise it to "
                f"at least {visiting}."
            )
        self.evaluation.prepare(self.data, type(self).__name__)
        self._limits.prepare(self.evaluation.names)

    def initial(self, trainer: Trainer) -> Array:
        """Return the data module's weights."""
        weights = super().initial(trainer)
        if self.ema is None:
            warn_of_zeros(self.domains, weights)
        return weights

    def plan(self) -> Plan:
        """Return training, then the visits."""
        size = len(self.domains)
        rest = self.update_steps - size * self.lp_rounds * self.lp_steps
        train = [Segment(TRAIN, rest, tuple(self.weights.tolist()))] if rest else []
        return train + [
            Segment(TRIAL, self.lp_steps, tuple(smoothed_one_hot(size, m, self.one_hot).tolist()))
            for m in self._visits()
        ]

    def _visits(self) -> list[int]:
        return draw_visits(len(self.domains), self.lp_rounds, self.data.seed, self.round)

    def handlers(self) -> dict[str, Handler]:
        """Return the step of a visit."""
        return {TRIAL: self.visit_step, PROBE: self.visit_step}  # old checkpoints' plans have PROBE

    def visit_step(self, module: MixtureModule, batch: MixtureBatch) -> Outputs:
        """Train and count the samples; before a visit's first step, evaluate."""
        size, trainer = len(self.domains), module.trainer
        if batch.first:
            self._losses.append(self.evaluation.losses(trainer, self.data, module))
            self._counts.append(np.zeros(size))
        counts = torch.bincount(batch.domains, minlength=size).float()  # exact below 2^24
        if trainer.world_size > 1:
            counts = trainer.strategy.reduce(counts, reduce_op="sum")
        self._counts[-1] = self._counts[-1] + counts.double().cpu().numpy()
        return {"losses": module.train_step(batch)}

    def update(self, trainer: Trainer, module: Any) -> Update:
        """Evaluate, solve for A, and return the weights."""
        losses = np.stack([*self._losses, self.evaluation.losses(trainer, self.data, module)])
        counts, order = np.stack(self._counts), self._visits()
        self._losses, self._counts, self.round = [], [], self.round + 1
        metrics = self.evaluation.metrics(losses[-1])
        if not np.isfinite(losses).all():
            bad = bad_domains(self.evaluation.names, losses)
            weights, more = self.keep_weights(trainer, "a target loss is not finite", bad)
            return weights, metrics | more
        matrix = normalise(mixing_matrix(order, losses, counts))
        if self.ema is not None:
            before = matrix if self._mean is None else self._mean
            matrix = self._mean = (1 - self.ema) * matrix + self.ema * before
        self.keep_signal(trainer, matrix.sum(axis=0))
        wanted = aioli_weights(self.weights, matrix, self.learning_rate, self.ema is not None)
        kept = self._limits.keep(trainer, wanted, self.weights, matrix, losses[-1])
        if kept is None:
            weights, more = self.keep_weights(trainer, NO_MIXTURE)
            return weights, metrics | more
        return kept, metrics
