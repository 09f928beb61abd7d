"""DoGE: weights from the alignment of gradients, at every step (arXiv 2310.15393)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tandem_pl.callbacks.loss_weighting import LossWeighting, raised, sample_weights, weighted_step
from tandem_pl.callbacks.measures.alignment import Alignment, align
from tandem_pl.checks import check_choice, check_positive, check_share
from tandem_pl.episode import MixtureBatch, Outputs
from tandem_pl.simplex import Array

if TYPE_CHECKING:
    from tandem_pl.training.mixture_module import MixtureModule

LARGEST = 5.0  # of an official score: that many times the learning rate


def plain_scores(products: Array, learning_rate: float) -> Array:
    """Eta <g_m, g_target> for each domain: the equation of the paper.

    Args:
        products: [M] inner products of gradients.
        learning_rate: eta, the network's.
    """
    return learning_rate * np.asarray(products, np.float64)


def official_scores(
    products: Array, norms: Array, present: NDArray[np.bool_], learning_rate: float
) -> Array:
    """clip(eta <g_m, g_target> / (mean norm + 1e-6), 0, 5 eta): the authors' code.

    Args:
        products: [M] inner products of gradients that were clipped to a norm.
        norms: [M] norms of the clipped gradients.
        present: [M] bool, domains with a sample; the mean norm is over them.
        learning_rate: eta, the network's.

    >>> official_scores(np.array([2.0, -1.0]), np.ones(2), np.ones(2, bool), 0.5).round(3).tolist()
    [1.0, 0.0]
    """
    mean = norms[present].mean() if present.any() else 0.0
    scores = learning_rate * np.asarray(products, np.float64) / (mean + 1e-6)
    return np.clip(scores, 0.0, LARGEST * learning_rate)


class DoGEReweighting(LossWeighting):
    """alpha_m <- alpha_m exp(score_m / mu) / Z at every step (DoGE, algorithm 1).

    score_m = eta <g_m, g_target>: eta is the network's learning rate at this step, g_m the mean
    gradient of domain m in the batch, g_target the target's. Domains are drawn alike, the network
    then takes its step on sum_m alpha_m mean_m with the new weights, and the result is the mean
    over all steps, to be drawn with in the final run. Gradients are taken in eval mode. A domain
    that is absent from a batch keeps its last score.

    `target`: "target" is the gradient of the datamodule's target data, which is DoGE's form for
    another domain than those of training (and, with held-out data of all, for all); the mean
    over the target batch, which is 1/M' times the sum over M' target domains. "train" is the
    paper's universal form, the sum of the training domains' own gradients, and "others" that sum
    without the domain itself.

    `score`: "plain" is the equation above. "official" follows the authors' code: gradients are
    clipped to `max_norm` before the product, products are divided by the mean norm and clipped to
    [0, 5 eta], so that no domain is pushed down but by the others' rise. Their code keeps the last
    gradient of an absent domain, here it is the last score; and their network's step is on the
    clipped gradients, here it is on those of the losses, with the module's own clipping.

    Cost: a step is 3 of plain training (a gradient of the target, one of each domain's samples, and
    the update). Memory: two more sets of gradients whatever the number of domains; the authors'
    code holds M + 1.

    Args:
        target: see above.
        score: see above.
        mu: smaller moves the weights more; the authors use 0.01 ("train") and 0.05 ("target").
        max_norm: largest norm of a gradient before the product, for score="official"; the authors
            use 5 ("train") and 1 ("target").
        smoothing: share of the weights that is spread evenly at every step, 0 to 1.
        update: "exponentiated" is DoGE's; "projected" is TANDEM's rule with the hyper-gradient
            Delta_m = -score_m / mu.
        episode_steps: steps between two rows of the trajectory.

    Raises:
        InputError: for settings out of range, or no target data with target="target".
    """

    method = "doge"
    signal_name = "alignment"
    signal_columns = ("score",)
    counts_start = False
    unit = "alignment"

    def __init__(
        self,
        target: Literal["target", "train", "others"] = "target",
        score: Literal["plain", "official"] = "official",
        mu: float = 0.05,
        max_norm: float = 1.0,
        smoothing: float = 0.0,
        update: Literal["exponentiated", "projected"] = "exponentiated",
        episode_steps: int = 50,
    ) -> None:
        super().__init__(episode_steps)
        check_choice("target", target, ("target", "train", "others"))
        check_choice("score", score, ("plain", "official"))
        check_positive("mu", mu)
        check_positive("max_norm", max_norm)
        check_share("smoothing", smoothing)
        check_choice("update", update, ("exponentiated", "projected"))
        self.target = target
        self.with_target = target == "target"
        self.score = score
        self.mu = mu
        self.max_norm = max_norm
        self.smoothing = smoothing
        self.rule = update
        self.signal: Alignment | None = None  # of the last step

    def score_step(self, module: MixtureModule, batch: MixtureBatch) -> Outputs:
        """Alignments, new weights, and one update of the network."""
        own = {"target": None, "train": "sum", "others": "others"}[self.target]
        max_norm = self.max_norm if self.score == "official" else None
        found = self.signal = align(module, batch, len(self.alpha), max_norm, own)
        rate = module.trainer.optimizers[0].param_groups[0]["lr"]
        present = found.counts > 0
        if self.score == "official":
            scores = official_scores(found.products, found.norms, present, rate)
        else:
            scores = plain_scores(found.products, rate)
        self.move(module, scores, present)
        weights = sample_weights(batch.domains, self.alpha, found.counts)
        return {"losses": weighted_step(module, batch, weights)}

    def moved(self, module: MixtureModule, scores: Array) -> Array:
        """DoGE's update."""
        return raised(self.alpha, scores, 1.0 / self.mu, self.smoothing, self.rule)

    def settings(self) -> dict[str, Any]:
        """All arguments."""
        return {
            "target": self.target,
            "score": self.score,
            "mu": self.mu,
            "max_norm": self.max_norm,
            "smoothing": self.smoothing,
            "update": self.rule,
            "episode_steps": self.episode_steps,
        }
