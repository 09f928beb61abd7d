"""TiKMiX-D: weights from the influence of domains on target losses (arXiv 2508.17677)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray

from tandem_pl.callbacks.anchor import AnchorSetting
from tandem_pl.callbacks.bad_domains import bad_domains, list_domains
from tandem_pl.callbacks.measures.gathering import gather_sum
from tandem_pl.callbacks.measures.influence import (
    means_or_row_mean,
    scaled_influence,
    second_moment_scale,
    tikmix_weights,
)
from tandem_pl.callbacks.reweighting import ReweightingCallback, Update
from tandem_pl.callbacks.target_limits import NO_MIXTURE, LimitSetting, TargetLimits
from tandem_pl.checks import check_at_least, check_below_one, check_choice, check_positive
from tandem_pl.episode import MEASURE, TRAIN, Handler, MixtureBatch, Outputs, Plan, Segment
from tandem_pl.errors import InputError
from tandem_pl.modes import evaluating
from tandem_pl.simplex import Array
from tandem_pl.training.gradients import Gradient, domain_gradients, dot
from tandem_pl.training.mixture_module import MixtureModule
from tandem_pl.training.optimizer_settings import trainable

from .method import Method

HESSIANS = ("identity", "adam", "norm")
TARGET_SALT = 1 << 32  # keeps what is random on target samples apart from training samples


class TiKMiXReweighting(ReweightingCallback):
    """The mixture that helps the targets most by a first-order estimate: TiKMiX-D.

    After every `update_steps` training steps it measures S_im = <g_target_i, H^-1 g_m>: how fast
    training on domain m lowers the loss of target domain i. The next weights solve
    `tikmix_weights`, whose prior is always the data module's weights. (The paper's influence has
    the other sign, and its text maximises it as if it had this one.) The paper updates once in
    hundreds of billions of tokens; with short periods S is noisy, which is why there is `ema`.

    H, which the paper leaves open, is one of:

    - "identity": plain inner products of gradients;
    - "adam": the diagonal sqrt(v / (1 - beta2^t)) + eps of the optimizer's second moments v;
    - "norm": damping + ||g_m||^2, a number for each domain.

    Gradients are of mean losses in eval mode. They need memory for one gradient of each target
    domain, and two more. A domain without a measured sample gets the mean influence of the others.

    Args:
        update_steps: training steps between updates.
        measure_batches: V, batches of training and of target data that S is averaged over.
        hessian: H, see above.
        damping: of "norm".
        spread: a of `tikmix_objective`.
        gain: b of it.
        entropy: c of it.
        ema: weight of the old S in a running mean; 0 for none. A target of which an update measured
            no sample keeps its S.
        no_worse_than: target domain -> loss or "uniform run"; see `callbacks.target_limits`.
        anchor: as of every method; see `callbacks.anchor`.

    An episode costs 2 V proxy steps beyond training.

    Raises:
        InputError: for settings out of range, "adam" with an optimizer without second moments, too
            few measured samples for the domains, or no target data.
    """

    method = "tikmix"
    signal_name = "influence"
    signal_columns = ("scaled",)  # sum over the targets of S_hat
    rows = (
        Method(
            "tikmix",
            "influence on the targets' losses, maximised so that no target loses: TiKMiX-D",
            "arXiv 2508.17677",
            "2 V",
            lambda settings, run: (
                run.steps * (1 + 2 * settings["measure_batches"] / settings["update_steps"])
            ),
            needs_target=True,
        ),
    )

    def __init__(
        self,
        update_steps: int = 100,
        measure_batches: int = 4,
        hessian: Literal["identity", "adam", "norm"] = "identity",
        damping: float = 1.0,
        spread: float = 1.0,
        gain: float = 1.0,
        entropy: float = 1.0,
        ema: float = 0.5,
        no_worse_than: LimitSetting = None,
        anchor: AnchorSetting = 0.0,
    ) -> None:
        super().__init__(anchor)
        self.no_worse_than = no_worse_than
        self._limits = TargetLimits(no_worse_than)
        check_at_least("update_steps", update_steps, 1)
        check_at_least("measure_batches", measure_batches, 1)
        check_choice("hessian", hessian, HESSIANS)
        check_positive("damping", damping)
        for key, number in (("spread", spread), ("gain", gain), ("entropy", entropy)):
            if not (np.isfinite(number) and number >= 0):
                raise InputError(f"{key}={number} must be 0 or more.")
        check_below_one("ema", ema)
        self.update_steps = update_steps
        self.measure_batches = measure_batches
        self.hessian = hessian
        self.damping = damping
        self.spread, self.gain, self.entropy = spread, gain, entropy
        self.ema = ema
        self._prior: Array = np.zeros(0)
        # [2, M', M] sums of influences, and numbers of batches that had both domains
        self._sums = self.add_state("_sums", lambda: np.zeros((2, 0, 0)))
        self._mean: Array | None = self.add_state("_mean", lambda: None)  # [M', M] of S
        # [2, M'] of all ranks: sums of target losses, and numbers of samples
        self._losses = self.add_state("_losses", lambda: np.zeros((2, 0)))

    def check(self, trainer: Trainer, module: MixtureModule) -> None:
        """Raise an error if measure batches cannot hold every domain."""
        most = max(int(self._wanted_targets().sum()), len(self.domains))
        if self.measure_batches * self.data.batch_size < most:
            raise InputError(
                f"measure_batches={self.measure_batches} of batch_size={self.data.batch_size} are "
                f"fewer samples than the {most} domains: each needs one, so raise either."
            )

    def initial(self, trainer: Trainer) -> Array:
        """Return the data module's weights, which are also the prior."""
        self._sums = np.zeros((2, len(self.data.target_sets), len(self.domains)))
        self._losses = np.zeros((2, len(self.data.target_sets)))
        names = zip(self.data.target_sets, self._wanted_targets(), strict=True)
        self._limits.prepare([name for name, wanted in names if wanted])
        self._prior = super().initial(trainer)
        return self._prior

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise an error for hessian="adam" with an optimizer that has no second moments."""
        super().on_train_start(trainer, pl_module)
        optimizer = trainer.optimizers[0]
        if self.hessian == "adam" and "betas" not in optimizer.defaults:
            raise InputError(
                f"hessian='adam' needs the second moments of Adam or AdamW, which "
                f"{type(optimizer).__name__} does not have: use 'identity' or 'norm'."
            )

    def _wanted_targets(self) -> NDArray[np.bool_]:
        shares = self.data.target_shares
        return np.zeros(0, bool) if shares is None else shares > 0

    def plan(self) -> Plan:
        """Return training, then batches spread evenly over the domains, and of the target."""
        even = (1.0 / len(self.domains),) * len(self.domains)
        return [
            Segment(TRAIN, self.update_steps, tuple(self.weights.tolist())),
            Segment(MEASURE, self.measure_batches, even, target=True),
        ]

    def handlers(self) -> dict[str, Handler]:
        """Return the measure step."""
        return {MEASURE: self.measure_influence}

    def measure_influence(self, module: MixtureModule, batch: MixtureBatch) -> Outputs:
        """Add one batch's <g_target_i, H^-1 g_m> to the sums."""
        assert batch.target_domains is not None
        sizes = len(batch.domains), len(batch.target_domains)
        losses, target_losses = (  # float32, also for a network in 16 bits
            torch.zeros(size, device=module.device, dtype=torch.float32) for size in sizes
        )
        targets: list[tuple[Gradient, float]] = []
        sums = np.zeros_like(self._losses)
        with evaluating(module.network):
            both = batch.target_domains, batch.target_samples
            for i, gradient, mine, count in domain_gradients(
                module, *both, len(self.data.target_sets), batch.step, TARGET_SALT
            ):
                target_losses[batch.target_domains == i] = mine.float()
                sums[:, i] = float(mine.double().sum()), len(mine)
                targets.append((self._precondition(module, gradient), count))
            for m, gradient, mine, count in domain_gradients(
                module, batch.domains, batch.samples, len(self.domains), batch.step
            ):
                losses[batch.domains == m] = mine.float()
                size = self.damping + dot(gradient, gradient) if self.hessian == "norm" else 1.0
                for i, (target, target_count) in enumerate(targets):
                    if count and target_count:
                        self._sums[:, i, m] += dot(target, gradient) / size, 1.0
        self._losses = self._losses + gather_sum(module.trainer, sums)
        return {"losses": losses, "target_losses": target_losses}

    def _precondition(self, module: MixtureModule, gradient: Gradient) -> Gradient:
        """Divide a gradient by Adam's H in place; the other choices of H are scalars."""
        if self.hessian != "adam":
            return gradient
        optimizer = module.trainer.optimizers[0]
        settings = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        for parameter, part in zip(trainable(module.network), gradient, strict=True):
            state = optimizer.state.get(parameter, {})
            if "exp_avg_sq" in state:
                part.div_(second_moment_scale(state, settings[id(parameter)]).to(part))
            else:
                part.zero_()  # it never had a gradient
        return gradient

    def update(self, trainer: Trainer, module: Any) -> Update:
        """Compute S and its running mean, and return the solver's weights."""
        (total, count), self._sums = self._sums, np.zeros_like(self._sums)
        loss, samples = self._losses
        self._losses = np.zeros_like(self._losses)
        influence = means_or_row_mean(total, count)
        if not np.isfinite(influence).all():
            bad = bad_domains(self.domains, influence)
            return self.keep_weights(trainer, "an influence is not finite", bad)
        influence[count.sum(axis=1) == 0] = np.nan  # of targets without a sample
        if self._mean is not None:
            mean = (1 - self.ema) * influence + self.ema * self._mean
            old = np.isnan(influence)
            influence = np.where(old, self._mean, np.where(np.isnan(mean), influence, mean))
        self._mean = influence
        wanted = self._wanted_targets()
        if np.isnan(influence[wanted]).any():
            unknown = list_domains(
                list(self.data.target_sets), np.nonzero(np.isnan(influence).any(axis=1) & wanted)[0]
            )
            return self.keep_weights(trainer, "no sample of a target was measured yet", unknown)
        influence = influence[wanted]  # the others are never measured
        self.keep_signal(trainer, scaled_influence(influence).sum(axis=0))
        weights = tikmix_weights(influence, self._prior, self.spread, self.gain, self.entropy)
        # one rank's solution for all, in case their libraries differ
        weights = trainer.strategy.broadcast(weights)
        if weights is None:
            return self.keep_weights(trainer, "the solver found no better mixture than the prior")
        losses = np.where(samples > 0, loss / np.maximum(samples, 1), np.nan)[wanted]
        kept = self._limits.keep(trainer, weights, self.weights, influence, losses)
        return self.keep_weights(trainer, NO_MIXTURE) if kept is None else (kept, {})
