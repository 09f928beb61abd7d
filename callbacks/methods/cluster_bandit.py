"""Rounds over many clusters, a few measured in each: after Quad and Diversify and Conquer."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from lightning.pytorch import Trainer
from numpy.typing import NDArray

from tandem_pl.callbacks.anchor import AnchorSetting
from tandem_pl.callbacks.bad_domains import list_domains
from tandem_pl.callbacks.measures.alignment import align
from tandem_pl.callbacks.reweighting import ReweightingCallback, Update
from tandem_pl.checks import check_at_least, check_choice, check_share
from tandem_pl.episode import MEASURE, TRAIN, Handler, MixtureBatch, Outputs, Plan, Segment
from tandem_pl.errors import InputError
from tandem_pl.simplex import Array, sum_to_one
from tandem_pl.training.mixture_module import MixtureModule

from .method import Method

RULES = ("quad", "diversify")
LOWEST = -1.0  # reward, that of a gradient that is not finite
TINY = 1e-300
Ints = NDArray[np.int64]


def upper_bounds(totals: Array, visits: Array, exploration: float) -> Array:
    """Return Quad's scores I_m / T_m + alpha sqrt(2 ln sum T / T_m), infinite if T_m = 0.

    I is `totals` [M] of rewards, T is `visits` [M], alpha is `exploration`.

    >>> upper_bounds(np.array([1.0, 0.0]), np.array([2.0, 0.0]), 1.0).round(3).tolist()
    [1.333, inf]
    """
    known = np.maximum(visits, 1)
    bonus = np.sqrt(2 * np.log(np.maximum(visits.sum(), 1)) / known)
    return np.where(visits > 0, totals / known + exploration * bonus, np.inf)


def choose(scores: Array, order: Ints, number: int) -> Ints:
    """Return the places of the highest scores, ascending; of equal ones, the first in `order`.

    >>> choose(np.array([1.0, 3.0, 1.0]), np.array([2, 1, 0]), 2).tolist()
    [1, 2]
    """
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return np.sort(np.lexsort((rank, -scores))[:number])


def reassess(shares: Array, places: Ints, scores: Array, usual: float) -> Array:
    """Return Diversify's w_m s_m / Z, where only some clusters were measured.

    The others count as if they had the usual score, so that those measured gain or lose to them. If
    nothing would be left, nothing changes.

    Args:
        shares: w [M].
        places: of the measured clusters.
        scores: s [len(places)], 0 or more.
        usual: mean score of all clusters measured so far, by their shares.

    >>> shares, places, scores = np.array([0.5, 0.25, 0.25]), np.array([0, 1]), np.array([1.0, 2.0])
    >>> reassess(shares, places, scores, usual=2.0).tolist()
    [0.3333333333333333, 0.3333333333333333, 0.3333333333333333]
    """
    if not usual > 0:
        return shares
    changed = shares.copy()
    changed[places] *= scores / usual
    return sum_to_one(changed / changed.sum()) if changed.sum() > 0 else shares


class ClusterBanditReweighting(ReweightingCallback):
    """A bandit over many clusters; a round measures a few, so that 1000 cost no more than 10.

    A round is `period` training steps and V measure batches of `clusters` chosen domains and the
    target. A domain's reward is cos(g_m, g_target), an influence estimate of any network's scale.

    - "quad": the domains of the highest upper confidence bound (`upper_bounds`) are chosen; those
      of the next round get equal shares of its training, and all others none. Those never measured
      come first, so the first M / `clusters` rounds see every domain.
    - "diversify": the domains measured longest ago are chosen, and their shares of the data are
      multiplied by 1 + their rewards, over the mean of that of all domains measured so far
      (`reassess`), beside a constant share of uniform weights; so no domain is lost by one noisy
      measurement. One that starts at 0 keeps the constant share alone.

    We know both papers' rules but not their code. Quad's influence has an inverse Hessian in place
    of the norms, and it picks samples within clusters too; Diversify's score compares generated
    with given answers, and it trains from the start in each of its three rounds.

    A round costs 2 V proxy steps beyond training for any number of domains, and memory for two sets
    of gradients. The weights are a schedule; their average is for a second stage.

    Args:
        rule: "quad" or "diversify".
        clusters: domains measured in a round; fewer if there are not so many, and at most half of
            them for "quad", which would else train on all of them alike.
        period: training steps of a round.
        measure_batches: V.
        exploration: alpha of "quad"; share of uniform weights of "diversify", 0 to 1. Rewards are
            -1 to 1.
        anchor: as of every method; see `callbacks.anchor`.

    Raises:
        InputError: for settings out of range, fewer measured samples than clusters, or no target
            data.
    """

    signal_name = "influence"
    signal_columns = ("mean_reward", "visits")
    rows = tuple(
        Method(
            rule,
            about,
            paper,
            "2 V, for any number of domains",
            lambda settings, run: (
                run.steps * (1 + 2 * settings["measure_batches"] / settings["period"])
            ),
            settings={"rule": rule},
            needs_target=True,
        )
        for rule, about, paper in (
            ("quad", "a bandit over clusters: alignment with the target, and few visits",
             "after arXiv 2409.16986"),
            ("diversify", "shares of a few clusters a round times their alignment with the target",
             "after arXiv 2409.11378"),
        )
    )  # fmt: skip

    def __init__(
        self,
        rule: Literal["quad", "diversify"] = "quad",
        clusters: int = 8,
        period: int = 50,
        measure_batches: int = 2,
        exploration: float = 0.1,
        anchor: AnchorSetting = 0.0,
    ) -> None:
        super().__init__(anchor)
        check_choice("rule", rule, RULES)
        check_at_least("clusters", clusters, 1)
        check_at_least("period", period, 1)
        check_at_least("measure_batches", measure_batches, 1)
        check_share("exploration", exploration)
        self.method = self.rule = rule
        self.clusters = clusters
        self.period = period
        self.measure_batches = measure_batches
        self.exploration = exploration
        self._number = clusters  # of the domains measured in a round
        self._order: Ints = np.zeros(0, np.int64)  # of domains with equal scores
        # [M] each: sums of rewards, measured rounds, and w of `reassess`
        self._totals = self.add_state("_totals", lambda: np.zeros(len(self.domains)))
        self._visits = self.add_state("_visits", lambda: np.zeros(len(self.domains)))
        self._shares = self.add_state("_shares", lambda: np.zeros(len(self.domains)))
        self._chosen = self.add_state("_chosen", lambda: np.zeros(0, np.int64))  # of this round
        # [2, clusters] of each measure batch: cosines and counts
        self._measured: list[Array] = self.add_state("_measured", list)

    def check(self, trainer: Trainer, module: MixtureModule) -> None:
        """Raise an error if the measure batches cannot hold the chosen domains."""
        most = max(len(self.domains) // 2, 1) if self.rule == "quad" else len(self.domains)
        number = self._number = min(self.clusters, most)
        if self.measure_batches * self.data.batch_size < number:
            raise InputError(
                f"measure_batches={self.measure_batches} of batch_size={self.data.batch_size} are "
                f"fewer samples than clusters={number}: each needs one, so raise either."
            )

    def initial(self, trainer: Trainer) -> Array:
        """Choose the first domains; return their weights, or the data module's."""
        self._order = np.random.default_rng(self.data.seed).permutation(len(self.domains))
        self._shares = super().initial(trainer)
        return self._next()

    def _next(self) -> Array:
        """Choose the domains that the next round measures, and return its weights."""
        scores = -self._visits
        if self.rule == "quad":
            scores = upper_bounds(self._totals, self._visits, self.exploration)
        self._chosen = choose(scores, self._order, self._number)
        if self.rule == "quad":
            return self._even()
        uniform = self.exploration / len(self.domains)
        return sum_to_one((1 - self.exploration) * self._shares + uniform)

    def _even(self) -> Array:
        weights = np.zeros(len(self.domains))
        weights[self._chosen] = 1.0 / len(self._chosen)
        return weights

    def plan(self) -> Plan:
        """Return training, then batches of the chosen domains and the target."""
        return [
            Segment(TRAIN, self.period, tuple(self.weights.tolist())),
            Segment(MEASURE, self.measure_batches, tuple(self._even().tolist()), target=True),
        ]

    def handlers(self) -> dict[str, Handler]:
        """Return the measure step."""
        return {MEASURE: self.measure}

    def measure(self, module: MixtureModule, batch: MixtureBatch) -> Outputs:
        """Keep the cosines of the chosen domains' gradients with the target's."""
        places = batch.domains.new_tensor(self._chosen)
        # only the chosen are gone through: their numbers become 0, 1, ...
        few = batch._replace(domains=(batch.domains[:, None] == places).int().argmax(dim=1))
        found = align(module, few, len(places))
        lengths = found.norms * found.target_norm
        cosines = found.products / np.where(lengths == 0, 1.0, lengths)
        self._measured.append(np.stack([cosines, found.counts]))
        return {"losses": found.losses}

    def update(self, trainer: Trainer, module: Any) -> Update:
        """Add the rewards, choose the next domains, and return the weights."""
        cosines, counts = np.stack(self._measured, axis=1)
        self._measured = []
        present = counts > 0
        reward = np.where(present, cosines, 0.0).sum(axis=0) / np.maximum(present.sum(axis=0), 1)
        seen, places = present.any(axis=0), self._chosen
        self._visits[places] += seen
        finite = np.isfinite(reward)
        self._totals[places] += np.where(finite, reward, LOWEST)
        if not finite.all():
            bad = list_domains(self.domains, places[~finite])
            self._next()  # measures others
            return self.keep_weights(trainer, "a product of gradients is not finite", bad)
        mean = self._totals / np.where(self._visits > 0, self._visits, np.nan)
        known = np.where(np.isnan(mean), 0.0, self._shares)
        usual = float(known @ (1.0 + np.nan_to_num(mean))) / max(float(known.sum()), TINY)
        self._shares = reassess(self._shares, places[seen], 1.0 + reward[seen], usual)
        self.keep_signal(trainer, np.nan_to_num(mean), self._visits)
        return self._next(), self.by_domain("reward", mean)
