"""Skill-it: weights from the target's losses, carried over a graph of skills (arXiv 2307.14430)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from tandem_pl.callbacks.measures.skill_graph import (
    damped_graph,
    learned_graph,
    read_graph,
    skill_it_weights,
)
from tandem_pl.callbacks.measures.target_evaluation import TargetEvaluation
from tandem_pl.callbacks.reweighting import ReweightingCallback
from tandem_pl.checks import check_at_least, check_positive
from tandem_pl.episode import TRAIN, TRIAL, Handler, MixtureBatch, Outputs, Plan, Segment
from tandem_pl.errors import InputError
from tandem_pl.simplex import Array
from tandem_pl.training.mixture_module import MixtureModule
from tandem_pl.training.sharding import is_sharded

LEARN = "learn"


class SkillItReweighting(ReweightingCallback):
    """p_i in proportion to exp(eta sum over the last w evaluations of sum_j A_ij L_j).

    A_ij says how much training on domain i lowers the loss of target domain j; L_j is that loss. An
    evaluation, once an update, is of the same target samples each time. (Runs published with Aioli
    evaluated twice an update, so that a window of 3 reached back one update and a half.)

    With graph="learn" the first episodes train on each domain alone for `graph_steps`, each time
    from the network, optimizer and schedule as they were; these are put back in the end. A_ij is
    then the relative fall of the loss, 0 where it rose. (The authors ship no code for their graph;
    Aioli's trains a run of its own on each domain.) Those M graph_steps steps count in
    `global_step` and in what was seen, and cost as much as any other; the network and the schedule
    of the learning rate do not know of them, and the trajectory has the datamodule's weights for
    them, which the average leaves out. Memory: a copy of what trains and of the optimizer's state,
    on the host, while the graph is learned.

    Args:
        update_steps: training steps between updates.
        learning_rate: eta; published runs use 0.1 to 0.8.
        window: w, evaluations that count.
        graph: "learn", or what `read_graph` takes.
        graph_steps: steps on each domain, for "learn": a multiple of `update_steps`, since that is
            an episode's length; None for `update_steps`.
        evaluation_samples: of each target domain; None for all.

    An episode costs E/3 proxy steps beyond training, for E batches of target data; learning the
    graph costs M graph_steps + (M + 1) E/3 once.

    Raises:
        InputError: for settings out of range, a graph of another size, or no target data.
    """

    method = "skill_it"
    signal_name = "skill_score"
    signal_columns = ("score",)

    def __init__(
        self,
        update_steps: int = 100,
        learning_rate: float = 0.2,
        window: int = 3,
        graph: str | list[list[float]] | dict[str, dict[str, float]] = LEARN,
        graph_steps: int | None = None,
        evaluation_samples: int | None = 128,
    ) -> None:
        super().__init__()
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
        self.given = graph
        self.graph_steps = graph_steps or update_steps
        self.evaluation = TargetEvaluation(evaluation_samples)
        self.graph: Array | None = None  # [M, M'] once it is known
        self.skipped_updates = 0
        self._losses: list[Array] = []  # [M'] each, the latest `window` evaluations
        self._ends: list[Array] = []  # [M'] each: the start, then after each domain's training
        self._alone = 0  # steps on the present domain so far, while the graph is learned
        self._snapshot: dict[str, Any] | None = None

    def initial(self, trainer: Trainer) -> Array:
        """exp(eta A 1) for a given graph; the datamodule's weights until one is learned."""
        self.evaluation.prepare(self.data, type(self).__name__)
        if self.given == LEARN:
            self.graph = None
            return super().initial(trainer)
        self.graph = read_graph(self.given, self.domains, self.evaluation.names)
        return self._first_weights()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Starts without evaluations."""
        if stage == "fit":
            self._losses, self._ends, self._alone, self._snapshot = [], [], 0, None
        super().setup(trainer, pl_module, stage)

    def averaged(self) -> Array:
        """[M] the mean over the second half of the trajectory since the graph was known."""
        learning = 0
        if self.given == LEARN:
            learning = len(self.domains) * self.graph_steps // self.update_steps
        return self.record.mean_since(learning)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says so where the run ended before it learned anything."""
        if self.graph is None:
            steps = len(self.domains) * self.graph_steps
            rank_zero_warn(
                f"the run ended after {trainer.global_step} steps, while the graph, which takes "
                f"{steps}, was being learned, so the weights are those of the start: lower "
                f"graph_steps={self.graph_steps}, give a graph, or train longer."
            )
        super().on_train_end(trainer, pl_module)

    def plan(self) -> Plan:
        """Training; before there is a graph, on one domain alone."""
        if self.graph is not None:
            return [Segment(TRAIN, self.update_steps, tuple(self.weights.tolist()))]
        alone = np.eye(len(self.domains))[max(len(self._ends) - 1, 0)]
        return [Segment(TRIAL, self.update_steps, tuple(alone.tolist()))]

    def handlers(self) -> dict[str, Handler]:
        """Trains on a domain alone."""
        return {TRIAL: self.graph_step}

    def graph_step(self, module: MixtureModule, batch: MixtureBatch) -> Outputs:
        """A training step; the very first comes after an evaluation and a snapshot."""
        if self._snapshot is None:
            if is_sharded(module.network):
                raise InputError(
                    "graph='learn' puts the network's first weights into the checkpoint, which a "
                    "sharded run does not read back: give a graph, or use strategy=ddp."
                )
            self._ends = [self.evaluation.losses(module.trainer, self.data, module)]
            self._snapshot = _state(module)
        return {"losses": module.train_step(batch)}

    def update(self, trainer: Trainer, module: Any) -> tuple[Array, dict[str, float]]:
        """Evaluates, and weighs; while the graph is learned, goes on to the next domain."""
        if self.graph is None:
            return self._learn_graph(trainer, module)
        losses = self.evaluation.losses(trainer, self.data, module)
        metrics = {
            f"target/evaluation/{name}": float(loss)
            for name, loss in zip(self.evaluation.names, losses, strict=True)
        }
        if not np.isfinite(losses).all():
            self.skipped_updates += 1
            rank_zero_warn(
                f"step {trainer.global_step}: a target loss is not finite, the weights stay as "
                f"they are ({self.skipped_updates} updates so far)."
            )
            return self.weights, metrics | {"mixture/skipped_updates": float(self.skipped_updates)}
        self._losses = [*self._losses, losses][-self.window :]
        window = np.stack(self._losses)
        self.keep_signal(trainer, self.graph @ window.sum(axis=0))
        return skill_it_weights(self.graph, window, self.learning_rate), metrics

    def _learn_graph(self, trainer: Trainer, module: Any) -> tuple[Array, dict[str, float]]:
        assert self._snapshot is not None
        self._alone += self.update_steps
        if self._alone < self.graph_steps:
            return self.weights, {}
        self._alone = 0
        self._ends.append(self.evaluation.losses(trainer, self.data, module))
        _restore(module, self._snapshot)
        start, *ends = self._ends
        if len(ends) < len(self.domains):
            return self.weights, {}
        if not np.isfinite(self._ends).all():
            rank_zero_warn(
                "a target loss was not finite while the graph was learned: its entries are 0."
            )
        self._ends, self._snapshot = [], None
        self.graph = learned_graph(start, np.stack(ends))
        return self._first_weights(), self._graph_metrics()

    def _first_weights(self) -> Array:
        assert self.graph is not None
        self.graph = damped_graph(self.graph, self.domains, self.evaluation.names)
        return skill_it_weights(self.graph, np.ones((1, self.graph.shape[1])), self.learning_rate)

    def _graph_metrics(self) -> dict[str, float]:
        assert self.graph is not None
        return {
            f"skill_graph/{row}/{column}": float(self.graph[i, j])
            for i, row in ((m, self.tags[m]) for m in self.curves)
            for j, column in enumerate(self.evaluation.names)
        }

    def settings(self) -> dict[str, Any]:
        """All arguments, and the graph in use."""
        return {
            "update_steps": self.update_steps,
            "learning_rate": self.learning_rate,
            "window": self.window,
            "graph": self.given if isinstance(self.given, str) else "given",
            "graph_steps": self.graph_steps,
            "evaluation_samples": self.evaluation.samples,
            "target_domains": list(self.evaluation.names),
            "graph_in_use": None if self.graph is None else self.graph.tolist(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Adds the graph, the window, and the snapshot while the graph is learned."""
        state = super().state_dict()
        if not state:
            return state
        return state | {
            "graph": None if self.graph is None else torch.from_numpy(self.graph.copy()),
            "losses": [loss.tolist() for loss in self._losses],
            "ends": [loss.tolist() for loss in self._ends],
            "alone": self._alone,
            "snapshot": self._snapshot,
            "skipped_updates": self.skipped_updates,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them; refuses a checkpoint of another graph than the one given."""
        super().load_state_dict(state_dict)
        if not state_dict:
            return
        graph = state_dict["graph"]
        saved = None if graph is None else graph.double().numpy()
        given = self.graph
        if given is not None and (saved is None or not np.array_equal(given, saved)):
            raise InputError(
                "the checkpoint was made with another graph than this run's: use the same to "
                "resume, or start without ckpt_path."
            )
        self.graph = saved
        self._losses = [np.array(loss) for loss in state_dict["losses"]]
        self._ends = [np.array(loss) for loss in state_dict["ends"]]
        self._alone = state_dict["alone"]
        self._snapshot = state_dict["snapshot"]
        self.skipped_updates = state_dict["skipped_updates"]


def _state(module: Any) -> dict[str, Any]:
    """Copies, on the host, of what a training step changes."""
    schedulers = module.lr_schedulers()
    return {
        "network": [_host(tensor) for tensor in _changing(module)],
        "optimizer": _host(module.optimizers().optimizer.state_dict()),
        "scheduler": None if schedulers is None else _host(schedulers.state_dict()),
    }


@torch.no_grad()
def _restore(module: Any, snapshot: dict[str, Any]) -> None:
    for tensor, saved in zip(_changing(module), snapshot["network"], strict=True):
        tensor.copy_(saved)
    # a copy, since the optimizer would go on to write into the snapshot's tensors
    module.optimizers().optimizer.load_state_dict(_host(snapshot["optimizer"]))
    if snapshot["scheduler"] is not None:
        module.lr_schedulers().load_state_dict(_host(snapshot["scheduler"]))


def _changing(module: Any) -> list[Tensor]:
    trains = [p for p in module.network.parameters() if p.requires_grad]
    return [*trains, *module.network.buffers()]


def _host(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _host(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_host(item) for item in value)
    return value
