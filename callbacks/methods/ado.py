"""ADO: draw each domain by how fast its loss is predicted to fall (arXiv 2410.11820)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from tandem_pl.callbacks.measures.power_law import PowerLaw, fit_power_law, smooth
from tandem_pl.callbacks.training_losses import Ints, TrainingLossReweighting, domain_means
from tandem_pl.checks import check_at_least, check_positive, check_share
from tandem_pl.errors import InputError
from tandem_pl.mixture import resolve_weights
from tandem_pl.simplex import Array, settle

FEWEST_POINTS = 8  # of a curve that is fitted
LEAST_EXPONENT = 0.05  # in the slope
EVERY = 10  # batches between the points that are fitted
SMOOTHING = 101  # batches in the filter's window
MEMORY = 0.9  # of the running share, a batch
SHARE_OF_NOW = 0.1  # of the preference of now in the weights


def preference(
    law: PowerLaw, samples: float, prior: Array, share: Array, least: float = 0.01
) -> Array:
    """Rho [M]: proportional to slope * prior * sqrt(share), at least `least` before normalising.

    slope_m = max(alpha_m, 0.05) (L_m(n) - irreducible_m) / n, the fall of the loss a sample.

    Args:
        law: of [M] each.
        samples: n drawn so far, of all domains together.
        prior: mu [M].
        share: h [M], the running share of each domain in what was drawn.
        least: floor of a domain; ADO's is 0.01 for 22 domains.
    """
    slope = np.maximum(law.exponent, LEAST_EXPONENT) * (law(samples) - law.irreducible) / samples
    rho = slope * prior * np.sqrt(share)
    if not rho.any():  # all curves are flat
        rho = prior
    rho = np.maximum(rho / rho.sum(), least)
    return rho / rho.sum()


def policy(rho: Array, average: Array, steps: int, period: int = 1) -> tuple[Array, Array]:
    """Weights p = 0.9 average + 0.1 rho, and the average after `period` more steps with this rho.

    average <- (t average + period rho) / (t + period), t = `steps` done: what `period` times
    average <- (1 - 1/(t+1)) average + rho / (t+1) comes to. The old average makes the weights.

    >>> policy(np.array([1.0, 0.0]), np.array([0.5, 0.5]), 9)[1].tolist()
    [0.55, 0.45]
    """
    weights = (1 - SHARE_OF_NOW) * average + SHARE_OF_NOW * rho
    return settle(weights / weights.sum()), (steps * average + period * rho) / (steps + period)


class ADOReweighting(TrainingLossReweighting):
    """Power laws fitted to each domain's training loss while it trains; after Jiang et al. 2024.

    Every domain's losses are fitted by L_m(n) = irreducible + scale / n^alpha, n counting the
    samples of all domains, and a domain is drawn by how much another sample would lower its loss,
    by its prior and by the square root of how much it was drawn of late. The weights follow their
    own running mean, of which the prior is the start: they move slowly by design.

    Numbers are those of the authors' code; for a run of some thousand steps set `start_step`,
    `ignore_steps` and `fit_every` to about a tenth, a twentieth and a twentieth of it.

    Different from their code: weights change once in `period` batches (1 is theirs); the fit has
    bounds in place of penalties and follows 8 of its 512 starts; a flat curve counts as
    irreducible; curves of fewer than 8 points are not fitted, so that with their numbers the first
    fit is at step 2000. Curves of small domains that are rarely drawn are noisy: a prior that gives
    a domain less than a sample a period leaves it to the floor.

    Args:
        period: training batches between updates of the weights.
        prior: mu, written as the datamodule's `weights`; None takes those. Theirs is the natural
            one, "proportional". The run draws with it until there is a fit.
        start_step: training batches before the first fit.
        fit_every: training batches between fits.
        ignore_steps: training batches at the start that no fit looks at.
        floor: least preference of a domain as a part of 1/M, 0 to 1; theirs is 0.01 for 22
            domains, so 0.22.
        least_loss: smallest irreducible loss that a fit may find, in nats; theirs is 1.65, made
            for losses of tokens. None takes half of a domain's lowest smoothed loss.

    Costs nothing beyond training but the fits, on the CPU of the first rank.

    Raises:
        InputError: for settings out of range.
    """

    method = "ado"
    signal_name = "power_law"
    signal_columns = ("irreducible", "scale", "exponent", "preference")

    def __init__(
        self,
        period: int = 10,
        prior: Any = None,
        start_step: int = 1000,
        fit_every: int = 1000,
        ignore_steps: int = 1000,
        floor: float = 0.22,
        least_loss: float | None = None,
    ) -> None:
        super().__init__(period)
        check_at_least("start_step", start_step, 1)
        check_at_least("fit_every", fit_every, 1)
        check_at_least("ignore_steps", ignore_steps, 0)
        check_share("floor", floor)
        if least_loss is not None:
            check_positive("least_loss", least_loss)
        self.given = prior
        self.start_step = start_step
        self.fit_every = fit_every
        self.ignore_steps = ignore_steps
        self.floor = floor
        self.least_loss = least_loss
        self.law: PowerLaw | None = None
        self.samples = 0  # of all domains, so far
        self.failed_fits = 0
        self.curve: list[Array] = []  # [M] mean loss of a period
        self.places: list[tuple[int, int]] = []  # steps and samples after it
        self._prior = self._share = self._average = np.zeros(0)

    def initial(self, trainer: Trainer) -> Array:
        """The prior."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if self.given is None:
            return data.mixture.array
        sizes = {name: len(samples) for name, samples in data.train_sets.items()}
        return resolve_weights(self.given, sizes, "prior").array

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """No fit yet."""
        super().setup(trainer, pl_module, stage)
        self._prior = self._share = self._average = self.weights
        self.law, self.curve, self.places = None, [], []
        self.samples = self.failed_fits = 0

    def learn(self, trainer: Trainer, domains: Ints, losses: Array) -> tuple[Array, dict]:
        """Extends the curves, fits them where it is time, and gives the weights."""
        steps = trainer.global_step
        self._count(domains)
        means, _ = domain_means(domains, losses, len(self.domains))
        before = self.curve[-1] if self.curve else np.full(len(self.domains), losses.mean())
        self.curve.append(np.where(np.isnan(means), before, means))
        self.places.append((steps, self.samples))
        due = steps // self.fit_every > (steps - self.period) // self.fit_every
        fitted = steps >= self.start_step and due and self._fit(trainer)
        if self.law is None:
            return self.weights, {}
        least = self.floor / len(self.domains)
        rho = preference(self.law, self.samples, self._prior, self._share, least)
        if fitted:
            self.keep_signal(trainer, *map(np.asarray, self.law), rho)
        weights, self._average = policy(rho, self._average, steps, self.period)
        return weights, self.by_domain("preference", rho)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says so where the run ended before it learned anything."""
        if self.law is None:
            rank_zero_warn(
                f"no power law was fitted in {trainer.global_step} steps ({self.failed_fits} fits "
                f"failed), so the weights are the prior: lower start_step={self.start_step}, "
                f"fit_every={self.fit_every} and ignore_steps={self.ignore_steps}, or train longer."
            )
        super().on_train_end(trainer, pl_module)

    def skip(self, domains: Ints) -> None:
        """Samples count, whatever their losses were."""
        self._count(domains)

    def _count(self, domains: Ints) -> None:
        """Samples so far, and the running shares: h <- 0.9 h + 0.1 (share in the batch)."""
        for batch in domains:
            share = np.bincount(batch, minlength=len(self.domains)) / len(batch)
            self._share = MEMORY * self._share + (1 - MEMORY) * share
        self.samples += domains.size

    def _fit(self, trainer: Trainer) -> bool:
        """Fits all domains on the first rank, and keeps the laws unless one failed."""
        kept = [i for i, (step, _) in enumerate(self.places) if step > self.ignore_steps]
        kept = kept[:: max(EVERY // self.period, 1)]
        if len(kept) < FEWEST_POINTS:
            return False
        law = self._laws(kept) if trainer.is_global_zero else None
        law = trainer.strategy.broadcast(law)  # the same bits on every rank
        if law is None:
            self.failed_fits += 1
            return False
        self.law = law
        return True

    def _laws(self, kept: list[int]) -> PowerLaw | None:
        curve = smooth(np.stack(self.curve), max(SMOOTHING // self.period, 1))[kept]
        samples = np.array([self.places[i][1] for i in kept], np.float64)
        laws = []
        for losses in curve.T:
            least = self.least_loss or 0.5 * losses.min()
            law = fit_power_law(samples, losses, least) if least > 0 else None
            if law is None:
                return None
            laws.append(law)
        return PowerLaw(*np.array(laws).T)

    def settings(self) -> dict[str, Any]:
        """All arguments; the prior as numbers."""
        return {
            "period": self.period,
            "prior": dict(zip(self.domains, self._prior.tolist(), strict=True)),
            "start_step": self.start_step,
            "fit_every": self.fit_every,
            "ignore_steps": self.ignore_steps,
            "floor": self.floor,
            "least_loss": self.least_loss,
        }

    def state_dict(self) -> dict[str, Any]:
        """Adds the curves, the laws and the running means."""

        def rows(arrays: Any) -> Tensor:
            return torch.from_numpy(np.array(arrays, dtype=np.float64))

        state = {
            "curve": rows(self.curve) if self.curve else None,
            "places": list(self.places),
            "law": None if self.law is None else rows(self.law),
            "means": rows([self._prior, self._share, self._average]),
            "samples": self.samples,
            "failed_fits": self.failed_fits,
        }
        return super().state_dict() | state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them; refuses a checkpoint of another prior."""
        super().load_state_dict(state_dict)
        if "means" not in state_dict:
            return
        prior = state_dict["means"].numpy()[0]
        if len(self._prior) and not np.array_equal(prior, self._prior):
            raise InputError(
                f"the checkpoint was made with prior={prior.round(4).tolist()} and this run has "
                f"{self._prior.round(4).tolist()}: use the same to resume, or start without "
                "ckpt_path."
            )
        curve, law = state_dict["curve"], state_dict["law"]
        self.curve = [] if curve is None else list(curve.numpy())
        self.places = [(int(step), int(samples)) for step, samples in state_dict["places"]]
        self.law = None if law is None else PowerLaw(*law.numpy())
        self._prior, self._share, self._average = state_dict["means"].numpy()
        self.samples, self.failed_fits = state_dict["samples"], state_dict["failed_fits"]
