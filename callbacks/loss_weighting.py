"""`LossWeighting`: base of the methods that draw domains evenly and weight their losses instead."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from numpy.typing import NDArray
from torch import Tensor

from tandem_pl.checks import check_at_least, check_choice, check_share
from tandem_pl.episode import TRAIN, Handler, MixtureBatch, Outputs, Plan, Segment
from tandem_pl.errors import InputError
from tandem_pl.simplex import Array, exponentiated_step, projected_step, sum_to_one
from tandem_pl.training.micro_batches import split_batch
from tandem_pl.training.mixture_module import MixtureModule

from .anchor import AnchorSetting
from .bad_domains import bad_domains, warn_of_zeros
from .reweighting import ReweightingCallback, Update

UPDATES = {"exponentiated": exponentiated_step, "projected": projected_step}


def step_towards_scores(
    weights: Array,
    scores: Array,
    learning_rate: float,
    smoothing: float = 0.0,
    update: str = "exponentiated",
) -> Array:
    """Return weights [M] that are larger for domains of high scores [M].

    "exponentiated": alpha_m <- (1 - c) alpha_m exp(eta score_m) / Z + c / M.
    "projected": alpha <- (1 - c) Pi(alpha + eta score) + c / M, TANDEM's rule.

    eta is `learning_rate`, c is `smoothing`. A constant added to all scores changes nothing.

    >>> even = np.array([0.5, 0.5])
    >>> step_towards_scores(even, np.array([np.log(3.0), 0.0]), 1.0).round(9).tolist()
    [0.75, 0.25]
    """
    stepped = UPDATES[update](weights, -np.asarray(scores, np.float64), learning_rate)
    if smoothing == 0.0:
        return stepped
    return sum_to_one((1.0 - smoothing) * stepped + smoothing / len(stepped))


def sample_weights(domains: Tensor, weights: Array, counts: Array, per: str = "domain") -> Tensor:
    """Return the factors of this rank's losses in the loss of a batch, a sum over all ranks.

    Args:
        domains: [B] of this rank's samples.
        weights: alpha [M].
        counts: [M] samples of each domain over all ranks.
        per: "domain" for a loss of sum_m alpha_m mean_m over the domains in the batch, "sample" for
            sum_b alpha_d(b) loss_b / sum_b alpha_d(b).

    Returns:
        [B] float64 on the device of `domains`.

    >>> sample_weights(torch.tensor([0, 0, 1]), np.array([0.5, 0.5]), np.array([2, 1])).tolist()
    [0.25, 0.25, 0.5]
    """
    factors = weights / np.maximum(counts, 1)
    if per == "sample":
        factors = weights / (weights * counts).sum()
    return torch.from_numpy(factors).to(torch.float64)[domains.cpu()].to(domains.device)


def weighted_step(
    module: MixtureModule, batch: MixtureBatch, weights: Tensor, losses: Tensor | None = None
) -> Tensor:
    """Update the network once, with the loss sum_b weights_b loss_b over all ranks' samples.

    Args:
        module: of the network, optimizer, clipping and micro-batches.
        batch: of training.
        weights: [B] of this rank's samples.
        losses: [B] of a forward with its graph; None to compute them here.

    Returns:
        [B] the losses before the update.
    """
    module.trainer.optimizers[0].zero_grad()
    ranks = module.trainer.world_size  # DDP averages gradients over them
    parts = split_batch(batch.samples, len(batch.domains), module.micro_batch_size)
    collected, start = [], 0
    for index, (part, size) in enumerate(parts):
        now = losses
        if now is None:
            now = module.losses(module.network, part, size, batch.step, index)
        mine = weights[start : start + size].to(now)
        with module.sync_gradients(index == len(parts) - 1):
            module.manual_backward(ranks * (mine * now).sum())
        collected.append(now.detach())
        start += size
    before = torch.cat(collected)
    module.apply_update(before)
    return before


class LossWeighting(ReweightingCallback):
    """Changes the weights alpha at every step, and weights the losses of that same step with them.

    Batches have equal shares of the domains. A method implements `score_step`, which calls
    `take_scores` and then updates the network. The trajectory has the weights at the end of each
    episode; the average is over all steps.

    Args:
        step_size: eta of `step_towards_scores`.
        smoothing: c of it.
        update: of it.
        episode_steps: steps in an episode; it decides how often weights are recorded and logged.
        anchor: as of every method; see `callbacks.anchor`.
    """

    with_target = False  # whether training batches come with target samples
    counts_start = True  # whether the average counts the weights before the first step
    anchors_updates = False  # each step's weights are anchored instead
    unit = "score"  # first part of the tags of the scores

    def __init__(
        self,
        step_size: float,
        smoothing: float,
        update: str,
        episode_steps: int,
        anchor: AnchorSetting = 0.0,
    ) -> None:
        super().__init__(anchor)
        check_share("smoothing", smoothing)
        check_choice("update", update, tuple(UPDATES))
        check_at_least("episode_steps", episode_steps, 1)
        self.step_size = step_size
        self.smoothing = smoothing
        self.update_rule = update
        self.episode_steps = episode_steps
        self.alpha = self.add_state("alpha", self._zeros)  # [M] the weights now
        self.scores = self.add_state("scores", self._zeros)  # [M] the last of each domain
        self._weights_total = self.add_state("_weights_total", self._zeros)  # of the run
        self._weights_counted = self.add_state("_weights_counted", lambda: int(self.counts_start))
        self._scores_total = self.add_state("_scores_total", self._zeros)  # of the episode
        self._scores_counted = self.add_state("_scores_counted", int)

    def _zeros(self) -> Array:
        return np.zeros(len(self.domains))

    @abstractmethod
    def score_step(self, module: MixtureModule, batch: MixtureBatch) -> Outputs:
        """Compute scores, call `take_scores`, and update the network once."""

    def take_scores(self, module: MixtureModule, scores: Array, present: NDArray[np.bool_]) -> None:
        """Change alpha by this step's scores [M]; domains that are not `present` keep theirs.

        If a score is not finite, the weights do not change.
        """
        if np.isfinite(scores[present]).all():
            self.scores = np.where(present, scores, self.scores)
            alpha = step_towards_scores(
                self.alpha, self.scores, self.step_size, self.smoothing, self.update_rule
            )
            self.alpha = self.anchored(alpha)
            self._scores_total = self._scores_total + self.scores
            self._scores_counted += 1
        else:
            bad = bad_domains(self.domains, np.where(present, scores, 0.0))
            self.keep_weights(module.trainer, f"a domain's {self.unit} is not finite", bad)
        self._weights_total = self._weights_total + self.alpha
        self._weights_counted += 1

    def handlers(self) -> dict[str, Handler]:
        """Return the training step."""
        return {TRAIN: self.score_step}

    def plan(self) -> Plan:
        """Return training batches with the same share of every domain."""
        size = len(self.weights)
        return [Segment(TRAIN, self.episode_steps, (1.0 / size,) * size, self.with_target)]

    def check(self, trainer: Trainer, module: MixtureModule) -> None:
        """Raise an error for a module that weights samples itself."""
        if module.sample_weights is not None:
            raise InputError(
                f"sample_weights of the module and {type(self).__name__} both weight the losses of "
                "a batch: set sample_weights=null, or take a method that draws with its weights."
            )

    def initial(self, trainer: Trainer) -> Array:
        """Return the data module's weights, anchored."""
        self.alpha = self.anchored(super().initial(trainer))
        if self.update_rule == "exponentiated" and not self.smoothing:
            warn_of_zeros(self.domains, self.alpha)
        self._weights_total = self.alpha * float(self.counts_start)
        return self.alpha

    def update(self, trainer: Trainer, module: Any) -> Update:
        """Return the weights now, and log the episode's mean scores."""
        metrics = {}
        if self.skipped_updates:
            metrics["mixture/skipped_updates"] = float(self.skipped_updates)
        if self._scores_counted:
            mean = self._scores_total / self._scores_counted
            self.keep_signal(trainer, mean)
            metrics |= self.by_domain(self.unit, mean)
        self._scores_total, self._scores_counted = self._zeros(), 0
        return self.alpha, metrics

    def tried(self) -> int:
        """Return the number of steps: each updates the weights."""
        return self._weights_counted - int(self.counts_start)

    def averaged(self) -> Array:
        """Return the mean over all steps."""
        return (
            self._weights_total / self._weights_counted if self._weights_counted else self.weights
        )

    def upgrade_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """Convert the numbers of older checkpoints."""
        if "steps_rows" in state:
            names = "alpha", "scores", "weights_total", "scores_total"
            state |= zip(names, state["steps_rows"], strict=True)
            counters = "weights_counted", "scores_counted", "skipped_updates"
            state |= zip(counters, state["counts"], strict=True)
        return super().upgrade_state(state)
