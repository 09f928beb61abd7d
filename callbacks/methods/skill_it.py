"""Skill-it: weights from the target's losses, carried over a graph of skills (arXiv 2307.14430)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils._pytree import tree_map_only

from tandem_pl.callbacks.anchor import AnchorSetting
from tandem_pl.callbacks.bad_domains import bad_domains
from tandem_pl.callbacks.measures.skill_graph import (
    LEARN,
    damped_graph,
    learned_graph,
    read_graph,
    skill_it_weights,
)
from tandem_pl.callbacks.measures.target_evaluation import TargetEvaluation
from tandem_pl.callbacks.reweighting import ReweightingCallback, Update
from tandem_pl.callbacks.target_limits import NO_MIXTURE, LimitSetting, TargetLimits
from tandem_pl.checks import check_at_least, check_positive
from tandem_pl.episode import PROBE, TRAIN, TRIAL, Handler, MixtureBatch, Outputs, Plan, Segment
from tandem_pl.errors import InputError
from tandem_pl.simplex import Array
from tandem_pl.training.mixture_module import MixtureModule
from tandem_pl.training.optimizer_settings import trainable
from tandem_pl.training.sharding import is_sharded

from .method import Length, Method, evaluation_cost


def skill_it_work(settings: Mapping[str, Any], run: Length) -> float:
    """Return the cost of a run: an evaluation an update, and one a training for the graph."""
    evaluations = run.steps / settings["update_steps"]
    if settings["graph"] == LEARN:
        learning = run.domains * (settings["graph_steps"] or settings["update_steps"])
        evaluations += run.domains + 1 - learning / settings["update_steps"]
    return run.steps + max(evaluations, 0.0) * evaluation_cost(settings["evaluation_samples"], run)


class SkillItReweighting(ReweightingCallback):
    """p_i proportional to exp(eta sum over the last w evaluations of sum_j A_ij L_j).

    A_ij says how much training on domain i lowers the loss of target domain j; L_j is that loss. An
    evaluation, once an update, is of the same target samples each time. (Runs published with Aioli
    evaluated twice an update, so a window of 3 reached back one update and a half.)

    With graph="learn" the first episodes train on each domain alone for `graph_steps`, each time
    from the network, optimizer and schedule of the start, which are restored in the end. A_ij is
    then the relative fall of the loss, 0 if it rose. (The authors publish no code for their graph;
    Aioli's trains a run of its own on each domain.) These M graph_steps steps cost as much as any
    other, and count in `global_step` and in what was seen, but not in the network and the schedule
    of the learning rate. The trajectory has the data module's weights for them, which the average
    leaves out. While the graph is learned, a copy of what trains and of the optimizer's state is
    kept in host memory.

    Args:
        update_steps: training steps between updates.
        learning_rate: eta, of the sum over the window; the authors' runs use 0.1 to 0.5. Their runs
            with a target mask (only some skills are targets) use 0.1 to 0.8, but of the window's
            mean: divide that by the window, so that 0.8 is 0.27 here with w=3.
        window: w, evaluations that count.
        graph: "learn", or what `read_graph` takes.
        graph_steps: steps on each domain, for "learn": a multiple of `update_steps`, because that
            is an episode's length; None for `update_steps`.
        evaluation_samples: of each target domain; None for all.
        no_worse_than: target domain -> loss or "uniform run"; see `callbacks.target_limits`.
        anchor: as of every method; see `callbacks.anchor`.

    An episode costs E/3 proxy steps beyond training, for E batches of target data; learning the
    graph costs M graph_steps + (M + 1) E/3 once.

    Raises:
        InputError: for settings out of range, a graph of another size or than the checkpoint's, or
            no target data.
    """

    method = "skill_it"
    signal_name = "skill_score"
    signal_columns = ("score",)
    rows = (
        Method(
            "skill_it",
            "target losses carried over a graph of what each domain does for each target",
            "arXiv 2307.14430",
            "B/3, and M graph_steps + (M + 1) B/3 once; B = batches of evaluation",
            skill_it_work,
            needs_target=True,
        ),
    )

    def __init__(
        self,
        update_steps: int = 100,
        learning_rate: float = 0.2,
        window: int = 3,
        graph: str | list[list[float]] | dict[str, dict[str, float]] = LEARN,
        graph_steps: int | None = None,
        evaluation_samples: int | None = 128,
        no_worse_than: LimitSetting = None,
        anchor: AnchorSetting = 0.0,
    ) -> None:
        super().__init__(anchor)
        self.no_worse_than = no_worse_than
        self._limits = TargetLimits(no_worse_than)
        check_at_least("update_steps", update_steps, 1)
        check_at_least("window", window, 1)
        if graph_steps is not None and (graph_steps < 1 or graph_steps % update_steps):
            raise InputError(
                f"graph_steps={graph_steps} must be a multiple of update_steps={update_steps}, or "
                "null for just as many."
            )
        check_positive("learning_rate", learning_rate)
        self.update_steps = update_steps
        self.learning_rate = learning_rate
        self.window = window
        self.graph = graph
        self.graph_steps = graph_steps or update_steps
        self.evaluation_samples = evaluation_samples
        self.evaluation = TargetEvaluation(evaluation_samples)
        # A [M, M'] in use; None while it is learned
        self._graph: Array | None = self.add_state("_graph", lambda: None)
        self._losses: list[Array] = self.add_state("_losses", list)  # [M'], the last `window`
        # while the graph is learned: [M'] losses at the start and after each domain's training,
        # steps on the present domain, and the state of training at the start
        self._ends: list[Array] = self.add_state("_ends", list)
        self._alone = self.add_state("_alone", int)
        self._snapshot: dict[str, Any] | None = self.add_state(
            "_snapshot", lambda: None, tensors=True, on_host=True
        )

    def initial(self, trainer: Trainer) -> Array:
        """Return exp(eta A 1) for a given graph; the data module's weights until one is learned."""
        self.evaluation.prepare(self.data, type(self).__name__)
        self._limits.prepare(self.evaluation.names)
        if self.graph == LEARN:
            return super().initial(trainer)
        return self._use_graph(read_graph(self.graph, self.domains, self.evaluation.names))

    def plan(self) -> Plan:
        """Return training; before there is a graph, on one domain alone."""
        if self._graph is not None:
            return [Segment(TRAIN, self.update_steps, tuple(self.weights.tolist()))]
        alone = np.eye(len(self.domains))[max(len(self._ends) - 1, 0)]
        return [Segment(TRIAL, self.update_steps, tuple(alone.tolist()))]

    def handlers(self) -> dict[str, Handler]:
        """Return the training step on a domain alone."""
        return {TRIAL: self.graph_step, PROBE: self.graph_step}  # old checkpoints' plans have PROBE

    def graph_step(self, module: MixtureModule, batch: MixtureBatch) -> Outputs:
        """Train; before the very first step, evaluate and copy the state."""
        if self._snapshot is None:
            if is_sharded(module.network):
                raise InputError(
                    "graph='learn' keeps the network's first weights in the checkpoint, which a "
                    "sharded run cannot load: give a graph, or use strategy=ddp."
                )
            self._ends = [self.evaluation.losses(module.trainer, self.data, module)]
            self._snapshot = copy_training_state(module)
        return {"losses": module.train_step(batch)}

    def update(self, trainer: Trainer, module: Any) -> Update:
        """Evaluate, and return the weights; while the graph is learned, go to the next domain."""
        if self._graph is None:
            return self._learn_graph(trainer, module)
        losses = self.evaluation.losses(trainer, self.data, module)
        metrics = self.evaluation.metrics(losses)
        if not np.isfinite(losses).all():
            bad = bad_domains(self.evaluation.names, losses)
            weights, more = self.keep_weights(trainer, "a target loss is not finite", bad)
            return weights, metrics | more
        self._losses = [*self._losses, losses][-self.window :]
        window = np.stack(self._losses)
        self.keep_signal(trainer, self._graph @ window.sum(axis=0))
        wanted = skill_it_weights(self._graph, window, self.learning_rate)
        kept = self._limits.keep(trainer, wanted, self.weights, self._graph.T, losses)
        if kept is None:
            weights, more = self.keep_weights(trainer, NO_MIXTURE)
            return weights, metrics | more
        return kept, metrics

    def _learn_graph(self, trainer: Trainer, module: Any) -> Update:
        assert self._snapshot is not None
        self._alone += self.update_steps
        if self._alone < self.graph_steps:
            return self.weights, {}
        self._alone = 0
        self._ends.append(self.evaluation.losses(trainer, self.data, module))
        restore_training_state(module, self._snapshot)
        start, *ends = np.array(self._ends)
        if len(ends) < len(self.domains):
            return self.weights, {}
        if not np.isfinite([start, *ends]).all():
            rank_zero_warn(
                "a target loss was not finite while the graph was learned: its entries are 0."
            )
        self._ends, self._snapshot = [], None
        weights = self._use_graph(learned_graph(start, np.stack(ends)))
        assert self._graph is not None
        return weights, {
            f"skill_graph/{self.tags[i]}/{column}": float(self._graph[i, j])
            for i in self.curves
            for j, column in enumerate(self.evaluation.names)
        }

    def _use_graph(self, graph: Array) -> Array:
        """Take a graph, and return its first weights."""
        self._graph = damped_graph(graph, self.domains, self.evaluation.names)
        return skill_it_weights(self._graph, np.ones((1, graph.shape[1])), self.learning_rate)

    def averaged(self) -> Array:
        """Return [M], the mean over the second half of the updates since the graph was known."""
        learning = 0
        if self.graph == LEARN:
            learning = len(self.domains) * self.graph_steps // self.update_steps
        return self.record.mean_since(learning)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn if the run ended before it learned the graph."""
        if self._graph is None:
            steps = len(self.domains) * self.graph_steps
            rank_zero_warn(
                f"the run ended after {trainer.global_step} steps, while the graph, which takes "
                f"{steps}, was being learned, so the weights are those of the start: lower "
                f"graph_steps={self.graph_steps}, give a graph, or train longer."
            )
        super().on_train_end(trainer, pl_module)

    def settings(self) -> dict[str, Any]:
        """Return the arguments, and the graph in use."""
        return super().settings() | {
            "graph": self.graph if isinstance(self.graph, str) else "given",
            "target_domains": list(self.evaluation.names),
            "graph_in_use": None if self._graph is None else self._graph.tolist(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state; raise an error if the checkpoint has another graph than the given."""
        given = self._graph
        super().load_state_dict(state_dict)
        if given is not None and (self._graph is None or not np.array_equal(given, self._graph)):
            raise InputError(
                "the checkpoint was made with another graph than this run's: use the same to "
                "resume, or start without ckpt_path."
            )


def copy_training_state(module: Any) -> dict[str, Any]:
    """Return copies on the host of what a training step changes."""
    schedulers = module.lr_schedulers()
    return {
        "network": _copy_to_host(_changing_tensors(module)),
        "optimizer": _copy_to_host(module.optimizers().optimizer.state_dict()),
        "scheduler": None if schedulers is None else _copy_to_host(schedulers.state_dict()),
    }


@torch.no_grad()
def restore_training_state(module: Any, saved: dict[str, Any]) -> None:
    """Restore what `copy_training_state` returned."""
    for tensor, value in zip(_changing_tensors(module), saved["network"], strict=True):
        tensor.copy_(value)
    # a copy, because the optimizer would write into the saved tensors
    module.optimizers().optimizer.load_state_dict(_copy_to_host(saved["optimizer"]))
    if saved["scheduler"] is not None:
        module.lr_schedulers().load_state_dict(_copy_to_host(saved["scheduler"]))


def _changing_tensors(module: Any) -> list[Tensor]:
    return [*trainable(module.network), *module.network.buffers()]


def _copy_to_host(value: Any) -> Any:
    return tree_map_only(Tensor, lambda tensor: tensor.detach().to("cpu", copy=True), value)
