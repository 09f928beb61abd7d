"""`LossWeighting`: methods that draw every domain alike and weigh the losses instead."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor

from tandem_pl.episode import TRAIN, Handler, MixtureBatch, Outputs, Plan, Segment
from tandem_pl.errors import InputError
from tandem_pl.simplex import Array, exponentiated_step, projected_step, settle
from tandem_pl.training.micro_batches import split_batch

from .reweighting import ReweightingCallback

if TYPE_CHECKING:
    from tandem_pl.training.mixture_module import MixtureModule


def raised(
    weights: Array,
    scores: Array,
    learning_rate: float,
    smoothing: float = 0.0,
    update: str = "exponentiated",
) -> Array:
    """Weights moved towards high scores.

    "exponentiated": alpha_m <- (1 - c) alpha_m exp(eta score_m) / Z + c / M.
    "projected": alpha <- (1 - c) Pi(alpha + eta score) + c / M, TANDEM's rule.

    Args:
        weights: [M] the mixture now.
        scores: [M]; a constant added to all changes nothing.
        learning_rate: eta.
        smoothing: c, 0 to 1.
        update: see above.

    >>> raised(np.array([0.5, 0.5]), np.array([np.log(3.0), 0.0]), 1.0).round(9).tolist()
    [0.75, 0.25]
    """
    rule = {"exponentiated": exponentiated_step, "projected": projected_step}[update]
    moved = rule(weights, -np.asarray(scores, np.float64), learning_rate)
    if smoothing == 0.0:
        return moved
    return settle((1.0 - smoothing) * moved + smoothing / len(moved))


def sample_weights(domains: Tensor, weights: Array, counts: Array, per: str = "domain") -> Tensor:
    """What each of this rank's losses is multiplied with; over all ranks it is a batch's loss.

    Args:
        domains: [B] of this rank's samples.
        weights: [M].
        counts: [M] samples of each domain over all ranks.
        per: "domain" gives alpha_m / count_m, so that the sum is sum_m alpha_m mean_m over the
            domains that are present; "sample" gives alpha_m / sum_b alpha_d(b), so that it is a
            weighted mean over the samples.

    Returns:
        [B] float64 on the device of `domains`.

    >>> sample_weights(torch.tensor([0, 0, 1]), np.array([0.5, 0.5]), np.array([2, 1])).tolist()
    [0.25, 0.25, 0.5]
    """
    each = weights / np.maximum(counts, 1)
    if per == "sample":
        each = weights / (weights * counts).sum()
    return torch.from_numpy(each).to(torch.float64)[domains.cpu()].to(domains.device)


def weighted_step(
    module: MixtureModule, batch: MixtureBatch, weights: Tensor, losses: Tensor | None = None
) -> Tensor:
    """One update of the network with the loss sum_b weights_b loss_b over all ranks' samples.

    Args:
        module: whose network, optimizer, clipping and micro-batches.
        batch: of training.
        weights: [B] of this rank's samples.
        losses: [B] of a forward just made, with its graph; None for a forward here.

    Returns:
        [B] the losses before the update.
    """
    module.optimizers().zero_grad()  # type: ignore[union-attr]
    ranks = module.trainer.world_size  # whose gradients DDP averages
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
    """Weights alpha that change with every step, and act on the loss of that same step.

    Batches are drawn with equal shares. A method implements `score_step`, which sets `alpha` by
    calling `move` and then trains. The trajectory has the weights at the end of each episode; the
    average is over all steps.

    Args:
        episode_steps: steps in an episode; it decides how often weights are recorded and logged.
    """

    with_target = False  # whether training batches bring target samples
    counts_start = True  # whether the average counts the weights before the first step
    unit = "score"  # first part of the tags of what is measured

    def __init__(self, episode_steps: int) -> None:
        super().__init__()
        if not episode_steps >= 1:
            raise InputError(f"episode_steps={episode_steps} must be at least 1.")
        self.episode_steps = episode_steps
        self.skipped_steps = 0
        self._clear(np.zeros(0))

    def _clear(self, start: Array) -> None:
        self.alpha = start  # [M] the weights now
        self.scores = np.zeros_like(start)  # [M] of the last step that had each domain
        self._total = start * float(self.counts_start)  # sum of the weights over steps
        self._steps = int(self.counts_start)
        self._score_total = np.zeros_like(start)  # sum of the scores in this episode
        self._score_steps = 0

    @abstractmethod
    def score_step(self, module: MixtureModule, batch: MixtureBatch) -> Outputs:
        """Scores the batch, calls `move`, and makes one update of the network."""

    @abstractmethod
    def moved(self, module: MixtureModule, scores: Array) -> Array:
        """The weights [M] that follow `alpha` given scores [M]."""

    def move(self, module: MixtureModule, scores: Array, present: NDArray[np.bool_]) -> None:
        """New weights from this step's scores [M]; where `present` [M] is false, the last score.

        Scores that are not finite leave the weights as they are.
        """
        if np.isfinite(scores[present]).all():
            self.scores = np.where(present, scores, self.scores)
            self.alpha = self.moved(module, self.scores)
            self._score_total = self._score_total + self.scores
            self._score_steps += 1
        else:
            self.skipped_steps += 1
            rank_zero_warn(
                f"step {module.trainer.global_step}: a domain's {self.unit} is not finite, the "
                f"weights stay as they are ({self.skipped_steps} steps so far)."
            )
        self._total = self._total + self.alpha
        self._steps += 1

    def handlers(self) -> dict[str, Handler]:
        """Training steps."""
        return {TRAIN: self.score_step}

    def plan(self) -> Plan:
        """Training batches with the same share of every domain."""
        size = len(self.weights)
        return [Segment(TRAIN, self.episode_steps, (1.0 / size,) * size, self.with_target)]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Starts from the datamodule's weights; refuses a module that weighs samples itself."""
        if stage == "fit" and getattr(pl_module, "sample_weights", None) is not None:
            raise InputError(
                f"sample_weights of the module and {type(self).__name__} both weigh the losses of "
                "a batch: set sample_weights=null, or take a method that draws with its weights."
            )
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self.skipped_steps = 0
            self._clear(self.weights)

    def update(self, trainer: Trainer, module: Any) -> tuple[Array, dict[str, float]]:
        """The weights now, and the episode's mean scores."""
        metrics = {}
        if self.skipped_steps:
            metrics["mixture/skipped_steps"] = float(self.skipped_steps)
        if self._score_steps:
            mean = self._score_total / self._score_steps
            self.keep_signal(trainer, mean)
            metrics |= self.by_domain(self.unit, mean)
        self._score_total, self._score_steps = np.zeros_like(self.alpha), 0
        return self.alpha, metrics

    def averaged(self) -> Array:
        """The mean over all steps."""
        return self._total / self._steps if self._steps else self.weights

    def state_dict(self) -> dict[str, Any]:
        """Adds the weights of the last step and the sums."""
        if not self.domains:
            return {}
        rows = np.stack([self.alpha, self.scores, self._total, self._score_total])
        numbers = [self._steps, self._score_steps, self.skipped_steps]
        return super().state_dict() | {"steps_rows": torch.from_numpy(rows), "counts": numbers}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them, to the bit."""
        super().load_state_dict(state_dict)
        if "steps_rows" in state_dict:
            rows = state_dict["steps_rows"].double().numpy()
            self.alpha, self.scores, self._total, self._score_total = rows.copy()
            self._steps, self._score_steps, self.skipped_steps = state_dict["counts"]
