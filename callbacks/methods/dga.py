"""DGA: drawing weights from the alignment of gradients, now and then (arXiv 2410.02498)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from tandem_pl.callbacks.measures.alignment import align
from tandem_pl.callbacks.measures.influence import filled
from tandem_pl.callbacks.reweighting import ReweightingCallback
from tandem_pl.checks import check_at_least, check_positive, check_share
from tandem_pl.episode import MEASURE, TRAIN, Handler, MixtureBatch, Outputs, Plan, Segment
from tandem_pl.errors import InputError
from tandem_pl.simplex import Array, exponentiated_step, settle

if TYPE_CHECKING:
    from tandem_pl.training.mixture_module import MixtureModule


def dga_step(
    shares: Array,
    smoothed: Array,
    products: Array,
    learning_rate: float,
    ema: float,
    basis: Array | None = None,
) -> tuple[Array, Array]:
    """One update: shares_k <- shares_k exp(eta a_k) / Z, and the running mean that is drawn with.

    a = products, or Q products with a basis Q: domains are then drawn with Q' shares, and the
    gradient of basis mixture k is sum_m Q_km g_m.

    Args:
        shares: [K] of the basis mixtures; of the domains without a basis (K = M).
        smoothed: [M] domain weights drawn with so far.
        products: [M] inner products of the domains' gradients with the target's.
        learning_rate: eta.
        ema: share of the old in the running mean, beta.
        basis: [K, M] rows that sum to 1, or None.

    Returns:
        The next shares [K] and domain weights [M].

    >>> even = np.array([0.5, 0.5])
    >>> dga_step(even, even, np.array([np.log(3), 0.0]), 1.0, 0.5)[1].round(9).tolist()
    [0.625, 0.375]
    """
    scores = products if basis is None else basis @ products
    shares = exponentiated_step(shares, -scores, learning_rate)
    weights = shares if basis is None else shares @ basis
    return shares, settle(ema * smoothed + (1.0 - ema) * weights)


class DGAReweighting(ReweightingCallback):
    """alpha_m <- alpha_m exp(+eta <g_m, g_target>) / Z every `period` steps; drawn with their EMA.

    The plus is the derivation's sign (the printed algorithm is said to have a minus): aligned
    domains rise. The paper's settings of eta and beta are not known to us, and no code is
    public; the products are of raw gradients, so eta depends on their size: raise it if the weights
    hardly move. Gradients are taken in eval mode; a domain that no measure batch had gets the mean
    product of the others. The paper trains one network online; its weights are a schedule.

    Cost of an episode beyond its training steps: 2 V proxy steps (V batches of the domains and V of
    the target). Memory: two sets of gradients whatever the number of domains.

    Args:
        period: training steps between updates.
        measure_batches: V, batches with the same share of every domain, each with target data.
        learning_rate: eta.
        ema: beta, share of the old weights in those drawn with, 0 to below 1.
        distributions: [K][M] shares of the domains in K basis mixtures, for many domains: only the
            K shares of these are learned, and start equal. None for the domains themselves.

    Raises:
        InputError: for settings out of range, no target data, measure batches with fewer samples
            than domains, or distributions of the wrong size.
    """

    method = "dga"
    signal_name = "alignment"
    signal_columns = ("product",)

    def __init__(
        self,
        period: int = 20,
        measure_batches: int = 2,
        learning_rate: float = 1.0,
        ema: float = 0.8,
        distributions: list[list[float]] | None = None,
    ) -> None:
        super().__init__()
        check_at_least("period", period, 1)
        check_at_least("measure_batches", measure_batches, 1)
        check_positive("learning_rate", learning_rate)
        check_share("ema", ema)
        if ema == 1.0:
            raise InputError(f"ema={ema} would keep the first weights: it must be below 1.")
        self.period = period
        self.measure_batches = measure_batches
        self.learning_rate = learning_rate
        self.ema = ema
        self.distributions = distributions
        self.basis: Array | None = None
        self.shares: Array = np.zeros(0)  # [K] alpha before the running mean, or of the basis
        self.skipped_episodes = 0
        self._products: list[Array] = []  # [2, M] of each measure batch: products and counts

    def initial(self, trainer: Trainer) -> Array:
        """The datamodule's weights, or the mean of the distributions."""
        start = super().initial(trainer)
        if self.distributions is None:
            self.shares = start
            return start
        self.basis = _basis(self.distributions, len(start))
        self.shares = np.full(len(self.basis), 1.0 / len(self.basis))
        return settle(self.shares @ self.basis)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses measure batches that cannot hold every domain."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        self._products = []
        samples = self.measure_batches * trainer.datamodule.batch_size  # type: ignore[attr-defined]
        if samples < len(self.domains):
            raise InputError(
                f"measure_batches={self.measure_batches} hold {samples} samples, fewer than the "
                f"{len(self.domains)} domains: raise it until every domain is measured."
            )

    def plan(self) -> Plan:
        """`period` training batches | V measure batches with target samples."""
        even = (1.0 / len(self.weights),) * len(self.weights)
        return [
            Segment(TRAIN, self.period, tuple(self.weights.tolist())),
            Segment(MEASURE, self.measure_batches, even, target=True),
        ]

    def handlers(self) -> dict[str, Handler]:
        """Measure batches."""
        return {MEASURE: self.measure}

    def measure(self, module: MixtureModule, batch: MixtureBatch) -> Outputs:
        """Products of gradients; no step."""
        found = align(module, batch, len(self.weights))
        self._products.append(np.stack([found.products, found.counts]))
        return {"losses": found.losses}

    def update(self, trainer: Trainer, module: Any) -> tuple[Array, dict[str, float]]:
        """The mean product by domain, and the update; not finite leaves the weights alone."""
        products, counts = np.stack(self._products, axis=1)
        self._products = []
        present = counts > 0
        total = np.where(present, products, 0.0).sum(axis=0)
        mean = filled(total[None], present.sum(axis=0)[None])[0]
        if not np.isfinite(products).all():
            self.skipped_episodes += 1
            rank_zero_warn(
                f"step {trainer.global_step}: a product of gradients is not finite, the weights "
                f"stay as they are ({self.skipped_episodes} episodes so far)."
            )
            return self.weights, {"mixture/skipped_episodes": float(self.skipped_episodes)}
        self.keep_signal(trainer, mean)
        self.shares, weights = dga_step(
            self.shares, self.weights, mean, self.learning_rate, self.ema, self.basis
        )
        return weights, self.by_domain("alignment", mean)

    def settings(self) -> dict[str, Any]:
        """All arguments."""
        return {
            "period": self.period,
            "measure_batches": self.measure_batches,
            "learning_rate": self.learning_rate,
            "ema": self.ema,
            "distributions": self.distributions,
        }

    def state_dict(self) -> dict[str, Any]:
        """Adds the shares, and what has been measured in the episode so far."""
        if not self.domains:
            return {}
        return super().state_dict() | {
            "shares": torch.from_numpy(self.shares),
            "products": torch.from_numpy(np.stack(self._products)) if self._products else None,
            "skipped_episodes": self.skipped_episodes,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them."""
        super().load_state_dict(state_dict)
        if "shares" in state_dict:
            self.shares = state_dict["shares"].double().numpy()
            products = state_dict["products"]
            self._products = [] if products is None else list(products.double().numpy())
            self.skipped_episodes = state_dict["skipped_episodes"]


def _basis(distributions: list[list[float]], size: int) -> Array:
    """The rows [K, M], normalised."""
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
