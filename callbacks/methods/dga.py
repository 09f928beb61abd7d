"""DGA: weights to draw with, from the alignment of gradients once a period (arXiv 2410.02498)."""

from __future__ import annotations

from typing import Any

import numpy as np
from lightning.pytorch import Trainer

from tandem_pl.callbacks.anchor import AnchorSetting
from tandem_pl.callbacks.bad_domains import bad_domains, warn_of_zeros
from tandem_pl.callbacks.episode_lengths import check_measured
from tandem_pl.callbacks.measures.alignment import align
from tandem_pl.callbacks.measures.influence import means_or_row_mean
from tandem_pl.callbacks.reweighting import ReweightingCallback, Update
from tandem_pl.callbacks.step_size import (
    LearningRate,
    check_learning_rate,
    mean_square,
    scale_free_rate,
)
from tandem_pl.checks import AUTO, check_at_least, check_below_one
from tandem_pl.episode import MEASURE, TRAIN, Handler, MixtureBatch, Outputs, Plan, Segment
from tandem_pl.errors import InputError
from tandem_pl.simplex import Array, exponentiated_step, sum_to_one
from tandem_pl.training.mixture_module import MixtureModule

from .method import Method


def dga_step(
    shares: Array,
    smoothed: Array,
    products: Array,
    learning_rate: float,
    ema: float,
    basis: Array | None = None,
) -> tuple[Array, Array]:
    """Return shares_k exp(eta a_k) / Z, and the running mean [M] of the domain weights.

    a = products, or Q products with a basis Q [K, M] of mixtures: domains are then drawn with
    Q' shares, and the gradient of mixture k is sum_m Q_km g_m.

    Without a basis, shares are of the domains. `smoothed` [M] are the weights drawn with so far,
    `products` [M] the inner products of the domains' gradients with the target's, `learning_rate`
    is eta, and `ema` the share of the old weights in the running mean.

    >>> even = np.array([0.5, 0.5])
    >>> dga_step(even, even, np.array([np.log(3), 0.0]), 1.0, 0.5)[1].round(9).tolist()
    [0.625, 0.375]
    """
    scores = products if basis is None else basis @ products
    shares = exponentiated_step(shares, -scores, learning_rate)
    weights = shares if basis is None else shares @ basis
    return shares, sum_to_one(ema * smoothed + (1.0 - ema) * weights)


class DGAReweighting(ReweightingCallback):
    """alpha_m <- alpha_m exp(+eta <g_m, g_target>) / Z every `period` steps; drawn with their EMA.

    The plus is the sign of the derivation (the printed algorithm is said to have a minus): weights
    of aligned domains rise. We do not know the paper's eta and beta, and no code is public. The
    products are of raw gradients, of any size: with `learning_rate="auto"` the step is in units of
    their own spread (`scale_free_rate`). Gradients are taken in eval mode; a domain without a
    measured sample gets the mean product of the others. The paper trains one network online; its
    weights are a schedule.

    An episode costs 2 V proxy steps beyond training (V batches of the domains, V of the target),
    and needs the memory of two sets of gradients for any number of domains.

    Args:
        period: training steps between updates.
        measure_batches: V, batches with the same share of every domain, each with target data.
        learning_rate: "auto", or eta.
        ema: beta, share of the old weights in those drawn with, 0 to below 1.
        distributions: [K][M] shares of the domains in K basis mixtures, for many domains: only the
            K shares of these are learned, starting equal. None for the domains themselves.
        anchor: as of every method; see `callbacks.anchor`.

    Raises:
        InputError: for settings out of range, no target data, measure batches with fewer samples
            than domains, or distributions of the wrong size.
    """

    method = "dga"
    signal_name = "alignment"
    signal_columns = ("product",)
    rows = (
        Method(
            "dga",
            "alignment of each domain's gradient with the target's, once a period",
            "arXiv 2410.02498",
            "2 V",
            lambda settings, run: (
                run.steps * (1 + 2 * settings["measure_batches"] / settings["period"])
            ),
            needs_target=True,
        ),
    )

    def __init__(
        self,
        period: int = 20,
        measure_batches: int = 2,
        learning_rate: LearningRate = "auto",
        ema: float = 0.8,
        distributions: list[list[float]] | None = None,
        anchor: AnchorSetting = 0.0,
    ) -> None:
        super().__init__(anchor)
        check_at_least("period", period, 1)
        check_at_least("measure_batches", measure_batches, 1)
        check_learning_rate(learning_rate)
        check_below_one("ema", ema)
        self.period = period
        self.measure_batches = measure_batches
        self.learning_rate = learning_rate
        self.ema = ema
        self.distributions = distributions
        self.basis: Array | None = None  # the distributions [K, M], normalised
        # S and t of `scale_free_rate`, over the products that shares are learned from
        self._squares: float = self.add_state("_squares", float)
        self._squared: int = self.add_state("_squared", int)
        # [K] of the basis mixtures or domains, before the running mean
        self.shares = self.add_state("shares", lambda: np.zeros(0))
        # [2, M] of each measure batch: products and counts
        self._products: list[Array] = self.add_state("_products", list)

    def check(self, trainer: Trainer, module: MixtureModule) -> None:
        """Raise an error if distributions or measure batches do not fit the domains."""
        if self.distributions is not None:
            self.basis = _normalise_rows(self.distributions, len(self.domains))
        check_measured(self.measure_batches, self.data.batch_size, len(self.domains))

    def initial(self, trainer: Trainer) -> Array:
        """Return the data module's weights, or the mean of the distributions."""
        if self.basis is None:
            self.shares = super().initial(trainer)
            warn_of_zeros(self.domains, self.shares)
            return self.shares
        self.shares = np.full(len(self.basis), 1.0 / len(self.basis))
        return sum_to_one(self.shares @ self.basis)

    def plan(self) -> Plan:
        """Return `period` training batches | V measure batches with target samples."""
        even = (1.0 / len(self.weights),) * len(self.weights)
        return [
            Segment(TRAIN, self.period, tuple(self.weights.tolist())),
            Segment(MEASURE, self.measure_batches, even, target=True),
        ]

    def handlers(self) -> dict[str, Handler]:
        """Return the measure step."""
        return {MEASURE: self.measure}

    def measure(self, module: MixtureModule, batch: MixtureBatch) -> Outputs:
        """Keep the products of gradients; do not train."""
        alignment = align(module, batch, len(self.weights))
        self._products.append(np.stack([alignment.products, alignment.counts]))
        return {"losses": alignment.losses}

    def update(self, trainer: Trainer, module: Any) -> Update:
        """Average the products by domain, and take the step."""
        products, counts = np.stack(self._products, axis=1)
        self._products = []
        if not np.isfinite(products).all():
            bad = bad_domains(self.domains, products)
            return self.keep_weights(trainer, "a product of gradients is not finite", bad)
        present = counts > 0
        total = np.where(present, products, 0.0).sum(axis=0)
        mean = means_or_row_mean(total[None], present.sum(axis=0)[None])[0]
        self.keep_signal(trainer, mean)
        self._squares += mean_square(mean if self.basis is None else self.basis @ mean)
        self._squared += 1
        rate = self.learning_rate
        if rate == AUTO:
            rate = scale_free_rate(self._squares, self._squared)
        self.shares, weights = dga_step(self.shares, self.weights, mean, rate, self.ema, self.basis)
        return weights, self.by_domain("alignment", mean)


def _normalise_rows(distributions: list[list[float]], size: int) -> Array:
    """Return [K, M] with rows that sum to 1; raise an error for rows that are no mixtures."""
    for number, row in enumerate(distributions):
        if len(row) != size:
            raise InputError(
                f"distributions[{number}] has {len(row)} numbers and there are {size} domains: "
                "give one for each, in their order."
            )
        if not (np.isfinite(row).all() and min(row) >= 0 and sum(row) > 0):
            raise InputError(
                f"distributions[{number}]={row} must be finite, 0 or more, and not all 0."
            )
    if not distributions:
        raise InputError("distributions is empty: give at least one, or leave it out.")
    rows = np.asarray(distributions, np.float64)
    return rows / rows.sum(axis=1, keepdims=True)
