"""ODM: a bandit that draws the domains with the highest training loss (arXiv 2312.02406)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from lightning.pytorch import Trainer

from tandem_pl.callbacks.anchor import AnchorSetting
from tandem_pl.callbacks.bad_domains import bad_domains
from tandem_pl.callbacks.measures.target_evaluation import TargetEvaluation
from tandem_pl.callbacks.reweighting import Update
from tandem_pl.callbacks.training_losses import Ints, TrainingLossReweighting, domain_means
from tandem_pl.checks import check_at_least, check_below_one, check_choice
from tandem_pl.errors import InputError
from tandem_pl.simplex import Array, sum_to_one
from tandem_pl.training.mixture_module import MixtureModule

from .method import Length, Method, evaluation_cost

RULES = ("official", "paper")
REWARDS = ("train", "validation")


def exploration(size: int, steps: int) -> float:
    """Return eps_t = min(1/M, sqrt(ln M / (M t))), the least weight of a domain after t steps.

    >>> exploration(4, 1), round(exploration(4, 10_000), 5)
    (0.25, 0.00589)
    """
    if steps < 1:
        return 1.0 / size
    return min(1.0 / size, math.sqrt(math.log(size) / (size * steps)))


def next_reward(
    reward: Array, losses: Array, weights: Array, smoothing: float = 0.9, rule: str = "official"
) -> Array:
    """Return the running reward R [M] after losses [M], which are NaN for domains not drawn.

    - "paper": R_m <- s R_m + (1 - s) L_m / pi_m;
    - "official" (the code that the authors trained with): R_m <- s R_m + (1 - s) exp(L_m).

    A domain that was not drawn keeps its reward. `weights` pi [M] are those that the losses were
    drawn with.
    """
    drawn = ~np.isnan(losses)
    known = np.where(drawn, losses, 0.0)
    with np.errstate(over="ignore"):  # infinite above 709 nats; `next_weights` checks that
        exponential = np.exp(known)
    gain = exponential if rule == "official" else known / np.where(weights > 0, weights, 1.0)
    return np.where(drawn, smoothing * reward + (1 - smoothing) * gain, reward)


def odm_weights(reward: Array, before: float, now: float, rule: str = "official") -> Array:
    """Return weights pi [M] from rewards [M].

    - "paper": pi = (1 - M eps_t) softmax(eps_{t-1} R) + eps_t;
    - "official": pi = (1 - M eps_t) R / sum R + eps_t (uniform while no reward is known).

    `before` is eps_{t-1}, `now` is eps_t.

    >>> odm_weights(np.array([3.0, 1.0]), 0.5, 0.1).round(6).tolist()
    [0.7, 0.3]
    """
    size = len(reward)
    if rule == "paper":
        share = np.exp(before * (reward - reward.max()))
    else:
        share = reward / reward.max() if reward.max() > 0 else np.ones(size)
    return sum_to_one((1 - size * now) * share / share.sum() + now)


def odm_work(settings: Mapping[str, Any], run: Length) -> float:
    """Return the cost of a run: with reward="validation", an evaluation a period."""
    if settings.get("reward", "train") == "train":  # results of older versions have none
        return float(run.steps)
    each = evaluation_cost(settings["evaluation_samples"], run)
    return run.steps + run.steps / settings["period"] * each


class ODMReweighting(TrainingLossReweighting):
    """A bandit over domains, whose reward is the domain's training loss; after Albalak et al. 2023.

    The paper updates after every batch; here it is once in `period` batches, with each domain's
    mean loss over them, and t counts training batches (`period=1` is the published schedule). A
    domain that cannot be learned looks like one that is hard to learn: noise is drawn most.

    Args:
        period: training batches between updates.
        rule: "official" is what the authors' code trains with (exponentiated losses, shares linear
            in them); "paper" is Exp3 as printed (losses divided by the weights, and a softmax
            whose temperature 1/eps grows, so that the weights become almost uniform).
        smoothing: of the running reward, 0 to below 1; theirs is 0.9.
        warmup_steps: training batches at the data module's weights before the first reward.
        reward: "train" for the training losses of the period. "validation" for the losses of the
            data module's target data at the period's end, on the same samples each time. Each
            training domain then needs a target domain of its name; other target domains do not
            count. All domains are measured, drawn or not, so rule="paper" divides by no weight.
        evaluation_samples: of each target domain, for reward="validation"; None for all.
        anchor: as of every method; see `callbacks.anchor`.

    It costs nothing beyond training, or, with reward="validation", E/3 proxy steps a period for E
    batches of target data. The result is the schedule; its average is for a second stage.

    Raises:
        InputError: for settings out of range, or target data that reward="validation" lacks.
    """

    method = "odm"
    signal_name = "reward"
    signal_columns = ("reward", "samples")
    rows = (
        Method(
            "odm",
            "a bandit that draws the domains of the highest training loss",
            "arXiv 2312.02406",
            "0; B/3 with `reward: validation`, B = batches of evaluation",
            odm_work,
        ),
    )

    def __init__(
        self,
        period: int = 10,
        rule: Literal["official", "paper"] = "official",
        smoothing: float = 0.9,
        warmup_steps: int = 0,
        reward: Literal["train", "validation"] = "train",
        evaluation_samples: int | None = 128,
        anchor: AnchorSetting = 0.0,
    ) -> None:
        super().__init__(period, anchor)
        check_choice("rule", rule, RULES)
        check_below_one("smoothing", smoothing)
        check_at_least("warmup_steps", warmup_steps, 0)
        check_choice("reward", reward, REWARDS)
        self.rule = rule
        self.smoothing = smoothing
        self.warmup_steps = warmup_steps
        self.reward_rule = reward
        self.evaluation_samples = evaluation_samples
        self.evaluation = TargetEvaluation(evaluation_samples)
        self.reward = self.add_state("reward", lambda: np.zeros(len(self.domains)))
        self.epsilon = self.add_state("epsilon", lambda: exploration(max(len(self.domains), 1), 0))

    def settings(self) -> dict[str, Any]:
        """Return the arguments; the attribute `reward` is the state."""
        return super().settings() | {"reward": self.reward_rule}

    def check(self, trainer: Trainer, module: MixtureModule) -> None:
        """Raise an error if reward="validation" lacks the target data of a domain."""
        if self.reward_rule == "train":
            return
        self.evaluation.prepare(self.data, type(self).__name__)
        missing = [name for name in self.domains if name not in self.evaluation.names]
        if missing:
            raise InputError(
                f"reward='validation' needs target data of every training domain, and "
                f"{missing[0]!r} has none: give the datamodule's target the same domains, or set "
                "reward=train."
            )

    def next_weights(self, trainer: Trainer, domains: Ints, losses: Array) -> Update:
        """Return weights from the rewards of the period's losses, or of the validation's."""
        steps = trainer.global_step
        if steps <= self.warmup_steps:
            return self.weights, {}
        means, count = domain_means(domains, losses, len(self.domains))
        chances, metrics = self.weights, {}
        if self.reward_rule == "validation":
            module: Any = trainer.lightning_module
            found = self.evaluation.losses(trainer, self.data, module)
            metrics = self.evaluation.metrics(found)
            means = found[[self.evaluation.names.index(name) for name in self.domains]]
            chances = np.ones(len(means))
            if not np.isfinite(means).all():
                bad = bad_domains(self.domains, means)
                weights, more = self.keep_weights(trainer, "a validation loss is not finite", bad)
                return weights, metrics | more
        reward = next_reward(self.reward, means, chances, self.smoothing, self.rule)
        if not np.isfinite(reward).all():
            bad = bad_domains(self.domains, reward)
            return self.keep_weights(
                trainer, "a reward, the exponential of a loss, is not finite", bad
            )
        epsilon = exploration(len(self.domains), steps)
        weights = odm_weights(reward, self.epsilon, epsilon, self.rule)
        self.reward, self.epsilon = reward, epsilon
        self.keep_signal(trainer, reward, count)
        metrics |= self.by_domain("reward", reward) | {"mixture/exploration": epsilon}
        return weights, metrics
