"""DoGE: weights from the alignment of gradients, at every step (arXiv 2310.15393)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray

from tandem_pl.callbacks.anchor import AnchorSetting
from tandem_pl.callbacks.loss_weighting import LossWeighting, sample_weights, weighted_step
from tandem_pl.callbacks.measures.alignment import Alignment, align
from tandem_pl.checks import check_choice, check_positive
from tandem_pl.episode import MixtureBatch, Outputs
from tandem_pl.simplex import Array
from tandem_pl.training.mixture_module import MixtureModule

from .method import Method

LARGEST_SCORE = 5.0  # of the official scores, in learning rates
ONE_GRADIENT = 1.0  # a max_norm that keeps most scores below it if the target is one gradient
OWN_GRADIENTS = {"target": None, "train": "sum", "others": "others"}  # `own` of `align`


def official_scores(
    products: Array, norms: Array, present: NDArray[np.bool_], learning_rate: float
) -> Array:
    """Return clip(eta <g_m, g_target> / (mean norm + 1e-6), 0, 5 eta) [M]: the authors' code.

    `products` and `norms` are of clipped gradients, [M]; the mean norm is over the domains that are
    `present` in the batch; eta is the network's learning rate.

    >>> official_scores(np.array([2.0, -1.0]), np.ones(2), np.ones(2, bool), 0.5).round(3).tolist()
    [1.0, 0.0]
    """
    mean = norms[present].mean() if present.any() else 0.0
    return np.clip(learning_rate * products / (mean + 1e-6), 0.0, LARGEST_SCORE * learning_rate)


class DoGEReweighting(LossWeighting):
    """alpha_m <- alpha_m exp(score_m / mu) / Z at every step (DoGE, algorithm 1).

    A step draws domains evenly and does three things:

    1. It measures score_m = eta <g_m, g_target>: eta is the network's learning rate now, g_m the
       mean gradient of domain m in the batch, g_target that of `target`, all in eval mode. A domain
       that the batch lacks keeps its last score.
    2. It updates alpha by the scores.
    3. It updates the network with the loss sum_m alpha_m mean_m.

    The result is the mean of alpha over all steps, to be drawn with in the final run.

    With score="official", as in the authors' code, gradients are clipped to `max_norm` before the
    product, products are divided by the mean norm and clipped to [0, 5 eta], so that a weight falls
    only if others rise. Two differences remain: their code keeps the last gradient of a domain that
    the batch lacks, and updates the network with the clipped gradients (here they are those of the
    losses, with the module's own clipping).

    Settings go with the target. The authors' mu=0.05 and max_norm=1, the defaults here, are for one
    other domain, and their mu=0.01 and max_norm=5 for one batch that is mixed of all training
    domains: both are one gradient, so take target="target" with such target data. With "train" and
    "others" the target is the sum of M gradients, and a score can be M max_norm eta: with
    max_norm=5 most are at the cap of 5 eta, where weights cannot tell domains apart. A max_norm of
    at most 5/M never reaches the cap. If most scores of a step are at the cap, a warning says so,
    once a run.

    A step costs 3 of plain training: gradients of the target and of the domains, and the update. It
    needs two more sets of gradients for any number of domains; the authors' code holds M + 1.

    Args:
        target: "target" for the mean gradient of the data module's target data: DoGE for another
            domain than those of training (or, with held-out data of all domains, for all). "train"
            for the paper's universal form, the sum of the training domains' gradients; "others"
            for that sum without the domain itself.
        score: "plain" is the equation of step 1; for "official" see above.
        mu: smaller moves the weights more; see above.
        max_norm: largest norm of a gradient, for score="official"; see above.
        smoothing: share of the weights that is spread evenly at every step, 0 to 1.
        update: "exponentiated" is DoGE's; "projected" is TANDEM's rule with the hyper-gradient
            Delta_m = -score_m / mu.
        episode_steps: steps between two rows of the trajectory.
        anchor: as of every method; see `callbacks.anchor`.

    Raises:
        InputError: for settings out of range, or no target data with target="target".
    """

    method = "doge"
    signal_name = "alignment"
    signal_columns = ("score",)
    counts_start = False
    unit = "alignment"
    rows = (
        Method(
            "doge",
            "alignment of each domain's gradient with the target's, at every step",
            "arXiv 2310.15393",
            "2 for every step",
            lambda settings, run: run.steps * 3.0,  # the domains' sum costs as much as the target
            needs_target=True,
            online=False,
        ),
    )

    def __init__(
        self,
        target: Literal["target", "train", "others"] = "target",
        score: Literal["plain", "official"] = "official",
        mu: float = 0.05,
        max_norm: float = 1.0,
        smoothing: float = 0.0,
        update: Literal["exponentiated", "projected"] = "exponentiated",
        episode_steps: int = 50,
        anchor: AnchorSetting = 0.0,
    ) -> None:
        check_positive("mu", mu)
        super().__init__(1.0 / mu, smoothing, update, episode_steps, anchor)
        check_choice("target", target, tuple(OWN_GRADIENTS))
        check_choice("score", score, ("plain", "official"))
        check_positive("max_norm", max_norm)
        self.target = target
        self.with_target = target == "target"
        self.score = score
        self.mu = mu
        self.max_norm = max_norm
        self.signal: Alignment | None = None  # of the last step
        self._warned = False

    def check(self, trainer: Trainer, module: MixtureModule) -> None:
        """Raise an error for a module that weights samples itself."""
        super().check(trainer, module)
        self._warned = False

    def score_step(self, module: MixtureModule, batch: MixtureBatch) -> Outputs:
        """Measure the scores, update alpha, and update the network."""
        official = self.score == "official"
        max_norm = self.max_norm if official else None
        measured = align(module, batch, len(self.alpha), max_norm, OWN_GRADIENTS[self.target])
        self.signal, present = measured, measured.counts > 0
        rate = module.trainer.optimizers[0].param_groups[0]["lr"]
        scores = rate * measured.products
        if official:
            scores = official_scores(measured.products, measured.norms, present, rate)
            self._warn_at_cap(module.trainer.global_step)
        self.take_scores(module, scores, present)
        weights = sample_weights(batch.domains, self.alpha, measured.counts)
        return {"losses": weighted_step(module, batch, weights)}

    def _warn_at_cap(self, step: int) -> None:
        """Warn, once, if more than half of the last step's scores are at the cap."""
        assert self.signal is not None
        present = self.signal.counts > 0
        scores = official_scores(self.signal.products, self.signal.norms, present, 1.0)
        capped = int((scores[present] >= LARGEST_SCORE).sum())
        if self._warned or 2 * capped <= present.sum():
            return
        self._warned = True
        limit = ONE_GRADIENT if self.with_target else LARGEST_SCORE / len(self.domains)
        rank_zero_warn(
            f"step {step}: {capped} of {present.sum()} scores are at their cap, so the weights "
            f"cannot tell these domains apart: lower max_norm={self.max_norm:g} to at most "
            f"{limit:.3g} for target={self.target!r} and {len(self.domains)} domains."
        )
