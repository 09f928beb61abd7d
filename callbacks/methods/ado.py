"""ADO: draw each domain by how fast its loss is predicted to fall (arXiv 2410.11820)."""

from __future__ import annotations

from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from tandem_pl.callbacks.anchor import AnchorSetting
from tandem_pl.callbacks.measures.power_law import PowerLaw, fit_power_law, smooth
from tandem_pl.callbacks.reweighting import Update
from tandem_pl.callbacks.training_losses import Ints, TrainingLossReweighting, domain_means
from tandem_pl.checks import check_at_least, check_positive, check_share
from tandem_pl.data_weights import resolve_data_weights
from tandem_pl.errors import InputError
from tandem_pl.simplex import Array, sum_to_one

from .method import Method

FEWEST_POINTS = 8  # of a curve that is fitted
LEAST_EXPONENT = 0.05  # in the slope
EVERY = 10  # batches between the points that are fitted
SMOOTHING = 101  # batches in the filter's window
MEMORY = 0.9  # share of the old in the running share, a batch
SHARE_OF_NOW = 0.1  # share of the present preference in the weights


def preference(
    law: PowerLaw, samples: float, prior: Array, share: Array, least: float = 0.01
) -> Array:
    """Return rho [M], proportional to slope_m mu_m sqrt(h_m), floored, then normalised.

    slope_m = max(alpha_m, 0.05) (L_m(n) - irreducible_m) / n, the fall of the loss a sample.

    n are the `samples` drawn so far, of all domains together; mu [M] is the prior; h [M] is the
    running share of each domain in what was drawn; ADO's floor `least` is 0.01 for 22 domains.
    """
    slope = np.maximum(law.exponent, LEAST_EXPONENT) * (law(samples) - law.irreducible) / samples
    rho = slope * prior * np.sqrt(share)
    if not rho.any():  # all curves are flat
        rho = prior
    rho = np.maximum(rho / rho.sum(), least)
    return rho / rho.sum()


def policy(rho: Array, average: Array, steps: int, period: int = 1) -> tuple[Array, Array]:
    """Return weights p = 0.9 average + 0.1 rho, and the average after `period` steps with this rho.

    average <- (t average + period rho) / (t + period) with t = `steps` done, which is `period`
    times average <- (1 - 1/(t+1)) average + rho / (t+1). The weights use the average before.

    >>> policy(np.array([1.0, 0.0]), np.array([0.5, 0.5]), 9)[1].tolist()
    [0.55, 0.45]
    """
    weights = (1 - SHARE_OF_NOW) * average + SHARE_OF_NOW * rho
    return sum_to_one(weights / weights.sum()), (steps * average + period * rho) / (steps + period)


class ADOReweighting(TrainingLossReweighting):
    """Power laws fitted to each domain's training loss while it trains; after Jiang et al. 2024.

    Each domain's losses are fitted by L_m(n) = irreducible + scale / n^alpha, and n counts the
    samples of all domains. A domain is drawn by how much another sample would lower its loss, by
    its prior, and by the square root of its share in the last batches. The weights follow their own
    running mean, which starts at the prior: they move slowly by design.

    Numbers are those of the authors' code; for a run of some thousand steps set `start_step`,
    `ignore_steps` and `fit_every` to about a tenth, a twentieth and a twentieth of it.

    Differences from their code: weights change once in `period` batches (1 is theirs); the fit has
    bounds in place of penalties and follows 8 of its 512 starts; a flat curve counts as
    irreducible; curves of fewer than 8 points are not fitted, so that with their numbers the first
    fit is at step 2000. Curves of small domains that are rarely drawn are noisy: if a prior gives a
    domain less than a sample a period, its weight is the floor.

    Args:
        period: training batches between updates of the weights.
        prior: mu, written as the data module's `weights`; None takes those. Theirs is the natural
            one, "proportional". The run draws with it until the first fit.
        start_step: training batches before the first fit.
        fit_every: training batches between fits.
        ignore_steps: training batches at the start that no fit uses.
        floor: least preference of a domain as a part of 1/M, 0 to 1; theirs is 0.01 for 22
            domains, so 0.22.
        least_loss: smallest irreducible loss that a fit may find, in nats; theirs is 1.65, made
            for losses of tokens. None takes half of a domain's lowest smoothed loss.
        anchor: as of every method; see `callbacks.anchor`.

    It costs nothing beyond training but the fits, on the CPU of the first rank.

    Raises:
        InputError: for settings out of range, or a checkpoint of another prior.
    """

    method = "ado"
    signal_name = "power_law"
    signal_columns = ("irreducible", "scale", "exponent", "preference")
    rows = (
        Method(
            "ado",
            "domains whose fitted power law says that their loss falls fastest",
            "arXiv 2410.11820",
            work=lambda settings, run: float(run.steps),
            settings={"prior": "proportional"},
        ),
    )

    def __init__(
        self,
        period: int = 10,
        prior: Any = None,
        start_step: int = 1000,
        fit_every: int = 1000,
        ignore_steps: int = 1000,
        floor: float = 0.22,
        least_loss: float | None = None,
        anchor: AnchorSetting = 0.0,
    ) -> None:
        super().__init__(period, anchor)
        check_at_least("start_step", start_step, 1)
        check_at_least("fit_every", fit_every, 1)
        check_at_least("ignore_steps", ignore_steps, 0)
        check_share("floor", floor)
        if least_loss is not None:
            check_positive("least_loss", least_loss)
        self.prior = prior
        self.start_step = start_step
        self.fit_every = fit_every
        self.ignore_steps = ignore_steps
        self.floor = floor
        self.least_loss = least_loss
        self.samples = self.add_state("samples", int)  # of all domains, so far
        self.failed_fits = self.add_state("failed_fits", int)
        self.curve: list[Array] = self.add_state("curve", list)  # [M] mean losses of each period
        # steps and samples after each period
        self.progress: list[tuple[int, int]] = self.add_state("progress", list)
        # [3, M] irreducible, scale and exponent
        self._law: Array | None = self.add_state("_law", lambda: None)
        self._prior = self.add_state("_prior", lambda: np.zeros(0))  # [M] each
        self._share = self.add_state("_share", lambda: np.zeros(0))
        self._average = self.add_state("_average", lambda: np.zeros(0))

    @property
    def law(self) -> PowerLaw | None:
        """The fitted law; None before the first fit."""
        return None if self._law is None else PowerLaw(*self._law)

    def initial(self, trainer: Trainer) -> Array:
        """Return the prior."""
        if self.prior is None:
            prior = super().initial(trainer)
        else:
            prior = resolve_data_weights(self.prior, self.data, "prior").array
        self._prior = self._share = self._average = prior
        return prior

    def next_weights(self, trainer: Trainer, domains: Ints, losses: Array) -> Update:
        """Extend the curves, fit them if a fit is due, and return the weights."""
        steps = trainer.global_step
        self._count(domains)
        means, _ = domain_means(domains, losses, len(self.domains))
        before = self.curve[-1] if self.curve else np.full(len(self.domains), losses.mean())
        self.curve.append(np.where(np.isnan(means), before, means))
        self.progress.append((steps, self.samples))
        due = steps // self.fit_every > (steps - self.period) // self.fit_every
        fitted = steps >= self.start_step and due and self._fit(trainer)
        law = self.law
        if law is None:
            return self.weights, {}
        least = self.floor / len(self.domains)
        rho = preference(law, self.samples, self._prior, self._share, least)
        if fitted:
            self.keep_signal(trainer, *map(np.asarray, law), rho)
        weights, self._average = policy(rho, self._average, steps, self.period)
        return weights, self.by_domain("preference", rho)

    def skip_period(self, domains: Ints) -> None:
        """Count the samples."""
        self._count(domains)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn if the run ended before the first fit."""
        if self.law is None:
            rank_zero_warn(
                f"no power law was fitted in {trainer.global_step} steps ({self.failed_fits} fits "
                f"failed), so the weights are the prior: lower start_step={self.start_step}, "
                f"fit_every={self.fit_every} and ignore_steps={self.ignore_steps}, or train longer."
            )
        super().on_train_end(trainer, pl_module)

    def _count(self, domains: Ints) -> None:
        """Count samples, and update the running shares: h <- 0.9 h + 0.1 (share in the batch)."""
        for batch in domains:
            share = np.bincount(batch, minlength=len(self.domains)) / len(batch)
            self._share = MEMORY * self._share + (1 - MEMORY) * share
        self.samples += domains.size

    def _fit(self, trainer: Trainer) -> bool:
        """Fit all domains on the first rank; keep the last laws if a fit failed."""
        used = [i for i, (step, _) in enumerate(self.progress) if step > self.ignore_steps]
        used = used[:: max(EVERY // self.period, 1)]
        if len(used) < FEWEST_POINTS:
            return False
        law = self._fit_laws(used) if trainer.is_global_zero else None
        law = trainer.strategy.broadcast(law)  # the same bits on every rank
        self.failed_fits += law is None
        self._law = self._law if law is None else law
        return law is not None

    def _fit_laws(self, used: list[int]) -> Array | None:
        """Return [3, M] from these periods; None if a fit failed."""
        curve = smooth(np.stack(self.curve), max(SMOOTHING // self.period, 1))[used]
        samples = np.array([self.progress[i][1] for i in used], np.float64)
        laws = [fit_power_law(samples, y, self.least_loss or 0.5 * y.min()) for y in curve.T]
        return None if None in laws else np.array(laws).T

    def settings(self) -> dict[str, Any]:
        """Return the arguments, with the prior in numbers."""
        prior = dict(zip(self.domains, self._prior.tolist(), strict=True))
        return super().settings() | {"prior": prior}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state; raise an error if the checkpoint has another prior."""
        prior = self._prior
        super().load_state_dict(state_dict)
        if len(prior) and not np.array_equal(prior, self._prior):
            raise InputError(
                f"the checkpoint was made with prior={self._prior.round(4).tolist()} and this run "
                f"has {prior.round(4).tolist()}: use the same to resume, or start without "
                "ckpt_path."
            )

    def upgrade_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """Convert the curves and running means of older checkpoints."""
        if "means" in state:
            state["prior"], state["share"], state["average"] = state["means"]
            state["progress"] = state["places"]
        return super().upgrade_state(state)
