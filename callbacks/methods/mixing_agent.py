"""A policy that was learned from other runs chooses the weights: after Data Mixing Agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from lightning.pytorch import Trainer

from tandem_pl.callbacks.anchor import AnchorSetting
from tandem_pl.callbacks.bad_domains import bad_domains
from tandem_pl.callbacks.measures.target_evaluation import TargetEvaluation
from tandem_pl.callbacks.mixing_policy import MixingPolicy, describe
from tandem_pl.callbacks.reweighting import ReweightingCallback, Update
from tandem_pl.checks import check_at_least, check_positive
from tandem_pl.episode import TRAIN, Plan, Segment
from tandem_pl.simplex import Array, sum_to_one
from tandem_pl.training.mixture_module import MixtureModule

from .method import Length, Method, evaluation_cost


def agent_work(settings: Mapping[str, Any], run: Length) -> float:
    """Return the cost of a run: an evaluation a period."""
    return run.steps + run.steps / settings["period"] * evaluation_cost(
        settings["evaluation_samples"], run
    )


class MixingAgentReweighting(ReweightingCallback):
    """Asks a policy, learned from other runs, for the weights of each period.

    After `period` training steps the target losses are evaluated, on the same samples each time.
    The policy's state is the weights of this period, the mean of all weights so far, and the
    relative changes of the losses since the first and the last evaluation; its answer is the next
    weights. The first period has the data module's weights.

    `tandem search agent RUNS --out agent.safetensors` learns it by conservative Q-learning, from
    the evaluations and trajectories of runs on the same domains and target. For such runs leave
    out `agent`: weights are then drawn at random each period, Dirichlet around the data module's.

    We know the paper (arXiv 2507.15640) by its abstract and notes: 20 random trajectories of 80
    periods from a small network, a policy used on larger ones. The relative losses make the state
    one for networks of any size. Theirs are scores of benchmarks, and their network is not known.

    An episode costs E/3 proxy steps beyond training for E batches of target data, and the agent the
    runs that it learned from. The weights are a schedule; their average is for a second stage.

    Args:
        agent: file of `tandem search agent`; None for random weights.
        period: training steps between updates; as in the agent's runs.
        evaluation_samples: of each target domain; None for all.
        strength: of the Dirichlet distribution of random weights, whose parameters are M × strength
            × the data module's weights.
        anchor: as of every method; see `callbacks.anchor`.

    Raises:
        InputError: for settings out of range, an agent of other domains or targets, or no target
            data.
    """

    method = "mixing_agent"
    rows = (
        Method(
            "mixing_agent",
            "a policy learned from other runs by conservative Q-learning; without one, at random",
            "after arXiv 2507.15640",
            "B/3, and the agent's runs once; B = batches of evaluation",
            agent_work,
            needs_target=True,
        ),
    )

    def __init__(
        self,
        agent: str | None = None,
        period: int = 100,
        evaluation_samples: int | None = 128,
        strength: float = 1.0,
        anchor: AnchorSetting = 0.0,
    ) -> None:
        super().__init__(anchor)
        check_at_least("period", period, 1)
        check_positive("strength", strength)
        self.agent = agent
        self.period = period
        self.evaluation_samples = evaluation_samples
        self.strength = strength
        self.evaluation = TargetEvaluation(evaluation_samples)
        self._policy: MixingPolicy | None = None
        # places of the policy's domains and targets among the run's
        self._places: tuple[list[int], list[int]] = [], []
        # [M] sum of the weights of the periods so far; [M'] losses of the first and last evaluation
        self._sum = self.add_state("_sum", lambda: np.zeros(len(self.domains)))
        self._first: Array | None = self.add_state("_first", lambda: None)
        self._before: Array | None = self.add_state("_before", lambda: None)

    def check(self, trainer: Trainer, module: MixtureModule) -> None:
        """Read the agent; raise an error if it is not for this run's domains and targets."""
        self.evaluation.prepare(self.data, type(self).__name__)
        if self.agent is None:
            return
        self._policy = MixingPolicy.load(self.agent)
        self._places = self._policy.places(self.domains, self.evaluation.names)

    def plan(self) -> Plan:
        """Return one segment of training batches."""
        return [Segment(TRAIN, self.period, tuple(self.weights.tolist()))]

    def update(self, trainer: Trainer, module: Any) -> Update:
        """Evaluate, and return the policy's weights."""
        losses = self.evaluation.losses(trainer, self.data, module)
        metrics = self.evaluation.metrics(losses)
        self._sum = self._sum + self.weights
        if not np.isfinite(losses).all():
            bad = bad_domains(self.evaluation.names, losses)
            weights, more = self.keep_weights(trainer, "a target loss is not finite", bad)
            return weights, metrics | more
        first = losses if self._first is None else self._first
        before = losses if self._before is None else self._before
        self._first, self._before = first, losses
        if self._policy is None:
            return self._random(trainer.global_step), metrics
        domains, targets = self._places
        mean = self._sum / self._sum.sum()
        chosen = self._policy.weights(
            describe(
                self.weights[domains],
                mean[domains],
                first[targets],
                before[targets],
                losses[targets],
            )
        )
        weights = np.zeros(len(domains))
        weights[domains] = chosen
        return weights, metrics

    def _random(self, step: int) -> Array:
        """Return weights that depend on the data's seed and the step alone, so on every rank."""
        prior = self.data.mixture.array
        generator = np.random.default_rng([self.data.seed, step])
        weights = np.zeros(len(prior))
        used = prior > 0
        weights[used] = generator.dirichlet(self.strength * len(prior) * prior[used])
        return sum_to_one(weights) if np.isfinite(weights).all() else prior
