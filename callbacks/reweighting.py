"""`ReweightingCallback`: when weights change. A method says what they change to."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from tandem_pl.curves import by_name, domain_tags
from tandem_pl.data_record import with_target
from tandem_pl.episode import MEASURE, TRAIN, Handler, MixtureBatch, MixtureData, Plan
from tandem_pl.errors import InputError
from tandem_pl.mixture import Mixture
from tandem_pl.run_files import write_run_files
from tandem_pl.simplex import Array, check_weights
from tandem_pl.steadiness import Steadiness
from tandem_pl.text_tables import counted
from tandem_pl.training.connection import check_parts, connect
from tandem_pl.training.mixture_module import MixtureModule
from tandem_pl.training.run_folder import run_folder
from tandem_pl.training.trainer_flags import is_dry_run

from .anchor import Anchor, AnchorSetting
from .declared_state import DeclaredState
from .episode_end import finish_episode
from .freezing import check_length, frozen_plan, next_plan
from .record import Record, Recorded
from .result import Judge, end_text, learned_mixture

Update = tuple[Array, dict[str, float]]  # the next weights [M], and named values to log


class ReweightingCallback(DeclaredState, Recorded, Callback):
    """Learns or sets the domain weights, episode by episode.

    One epoch is one episode: the data module serves the batches that `plan` asked for, `observe`
    collects what the module returned for measure batches, and after the last batch `update` returns
    the next weights. The data module gets the next plan at once, so a checkpoint taken at any batch
    resumes exactly.

    To write a method, implement `plan` and `update`, and `observe` or `handlers` if it measures:

    - return weights of 0 or more that sum to 1, the same on every rank: gather what is measured;
    - declare what belongs to a run by `add_state`: it is reset when a fit starts, and saved;
    - set `signal_name` and `signal_columns`, and call `keep_signal` in `update`, to keep what was
      measured in the checkpoint and in a file of that name;
    - return `keep_weights(reason)` from an update that cannot be made.

    Beside the logger's files (or in the trainer's default folder) the run keeps `mixture.yaml`,
    `mixture.png`, `trajectory.csv` and the signal, written at each checkpoint and at the end.

    Of more than 30 domains only the largest have curves (see `curves.with_curves`). A trajectory
    beyond 2^20 numbers (1048 updates of 1000 domains) is thinned: every 2nd row stays, then every
    4th and so on, always the last. Signals are averaged over as many updates instead. The average
    of the weights still counts every update (see `averaged`).

    Args:
        anchor: share of a prior in the weights, of all methods; see `anchor`.
    """

    method = "fixed"
    learns = True  # whether the weights are not known before the run
    anchors_updates = True  # whether weights are to be anchored here, after each update
    stop_when_settled = False  # options of methods that have them: see `freezing`
    freeze_after: float | None = None
    signal_name: str | None = None  # file of what the method measures, without its suffix
    signal_columns: tuple[str, ...] = ()  # names of the C numbers that it keeps for a domain

    def __init__(self, anchor: AnchorSetting = 0.0) -> None:
        super().__init__()
        self.anchor = anchor
        self._anchor = Anchor(anchor)
        self.data: MixtureData  # of the run; set by `setup`
        self.domains: tuple[str, ...] = ()
        self.tags: tuple[str, ...] = ()  # last parts of the domains' tags
        self.weights: Array = np.zeros(0)
        self.metrics: dict[str, float] = {}  # what the last update logged
        self.record = Record(self.signal_name, self.signal_columns)
        self._seen: dict[str, Array] = {}
        self._record_of_data: dict[str, Any] = {}
        self._folder: Path | None = None
        self._written = -1  # updates in the files
        self._judge = Judge()
        self.skipped_updates = self.add_state("skipped_updates", int)
        # the global step at which weights were frozen; the update since which the average stays
        self.frozen_at: int | None = self.add_state("frozen_at", lambda: None)
        self.settled_since: int | None = self.add_state("settled_since", lambda: None)

    # ---- what a method defines ----

    @abstractmethod
    def plan(self) -> Plan:
        """Return the segments of the coming episode, drawn with `self.weights`."""

    @abstractmethod
    def update(self, trainer: Trainer, module: Any) -> Update:
        """Return the next weights [M], and named values to log."""

    def observe(self, trainer: Trainer, outputs: Any, batch: MixtureBatch) -> None:
        """Take what the module returned for a measure batch."""

    def observe_training(self, trainer: Trainer, outputs: Any, batch: MixtureBatch) -> None:
        """Take what the module returned for a training batch; keep it on the device."""

    def handlers(self) -> Mapping[str, Handler]:
        """Return phase -> what the method does itself with such batches, in place of the module."""
        return {}

    def check(self, trainer: Trainer, module: MixtureModule) -> None:
        """Raise an error for a run that this method cannot be used in."""

    def initial(self, trainer: Trainer) -> Array:
        """Return the weights of the first episode: the data module's."""
        return self.data.mixture.array

    def averaged(self) -> Array:
        """Return `mixture.average` [M]: here the mean over the second half of the run."""
        return self.record.mean_since(0)

    def lowest(self) -> float:
        """Return the least weight that the method gives a domain."""
        return 0.0

    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments, for `mixture.yaml`.

        An argument is the attribute of its name, or of NAME_rule if a method has that name.
        """
        mine = vars(self)
        names = [name for name in inspect.signature(type(self)).parameters if name != "self"]
        return {name: mine[name] if name in mine else mine[f"{name}_rule"] for name in names}

    # ---- what a method calls ----

    def keep_signal(self, trainer: Trainer, *columns: Array) -> None:
        """Keep what this update measured: one [M] array for each of `signal_columns`."""
        self.record.add_signal(trainer.global_step, columns)

    def keep_weights(self, trainer: Trainer, reason: str, domains: str = "") -> Update:
        """Count, warn if the count has doubled, and return the weights; see `bad_domains`."""
        self.skipped_updates += 1
        if self.skipped_updates.bit_count() == 1:
            rank_zero_warn(
                f"step {trainer.global_step}: {reason}, so the weights do not change "
                f"({domains}{counted(self.skipped_updates, 'update')} skipped so far)."
            )
        return self.weights, {"mixture/skipped_updates": float(self.skipped_updates)}

    def by_domain(self, tag: str, values: Array) -> dict[str, float]:
        """Return `tag/DOMAIN` -> value of [M], for domains that have curves and unless NaN."""
        return by_name(tag, self.tags, values, self.curves)

    def anchored(self, weights: Array) -> Array:
        """Return weights [M] with the share of the prior that the `anchor` option asks for."""
        return self._anchor(weights, self.lowest())

    # ---- the result ----

    def tried(self) -> int:
        """Return how many updates there were, with those that were skipped."""
        return self.episodes

    @property
    def mixture(self) -> Mixture:
        """The weights now, and their average (`averaged`)."""
        if not self.domains:
            raise InputError("there is no mixture yet: call trainer.fit first.")
        return learned_mixture(self, self._seen, self._record_of_data)

    @property
    def steadiness(self) -> Steadiness | None:
        """Whether the weights are significant and settled, after the last update judged."""
        return self._judge.steadiness(self)

    # ---- when ----

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the parts of the run, connect them, and plan the first episode."""
        self._folder = run_folder(trainer)
        if stage != "fit":
            return
        module, self.data = check_parts(trainer, pl_module, self)
        self.domains = self.data.domain_names()
        self.tags = domain_tags(self.domains)
        self.reset_state()
        check_length(self.freeze_after, trainer)
        self.check(trainer, module)
        self._anchor.prepare(self.data)
        self.weights = self.initial(trainer)
        if self.anchors_updates:
            self.weights = self.anchored(self.weights)
        self.record.start(self.weights)
        self._written, self._judge = -1, Judge()
        connect(module, self.data, self)
        self._record_of_data = with_target(self.data)  # the plan decides on the pools in it

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move what a checkpoint brought to the device of the run."""
        self.move_tensors(pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Observe measure batches; after the plan's last batch, update and plan."""
        if self.frozen_at is not None:
            if batch.last:
                self.data.begin_episode(frozen_plan(self))
            return
        if batch.phase == MEASURE:
            self.observe(trainer, outputs, batch)
        elif batch.phase == TRAIN:
            self.observe_training(trainer, outputs, batch)
        if not batch.last:
            return
        weights, self.metrics = self.update(trainer, pl_module)
        check_weights(weights, len(self.domains), f"{type(self).__name__}.update")
        if self.anchors_updates and weights is not self.weights:  # not of a skipped update
            weights = self.anchored(weights)
        self.weights = weights
        self.record.add_weights(trainer.global_step, self.weights)
        self.data.begin_episode(next_plan(self, trainer))
        values = self.by_domain("mixture/weight", self.weights) | self.metrics
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write the run's files."""
        self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finish the last episode if it can be, write the run's files, and print the result."""
        finish_episode(self, trainer, pl_module)
        self._write(trainer)
        if self._folder is not None:
            rank_zero_info(end_text(self, None if is_dry_run(trainer) else self._folder))

    def _write(self, trainer: Trainer) -> None:
        if not self.domains or self._folder is None:
            return
        self._seen = self.data.seen_arrays()
        if trainer.is_global_zero and not is_dry_run(trainer):
            grown = self._written != self.episodes  # drawing a picture takes longer than a batch
            self._written = self.episodes
            rows = self.trajectory if grown else None
            write_run_files(self._folder, self.mixture, self.steps, rows, self.history)

    # ---- checkpoints ----

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain Python."""
        if not self.domains:
            return {}
        return {"domains": list(self.domains)} | self.record.state_dict() | self.declared_values()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore weights, record and declared state, to the bit."""
        if not state_dict:
            return
        if self.domains and list(self.domains) != state_dict["domains"]:
            raise InputError(
                f"the checkpoint has weights for the domains {state_dict['domains']} and this run "
                f"has {list(self.domains)}: use the same to resume, or start without ckpt_path."
            )
        self.domains = tuple(state_dict["domains"])
        self.tags = domain_tags(self.domains)
        self.record.load_state_dict(state_dict)
        self.weights = self.record.trajectory.last
        self.load_declared(self.upgrade_state(dict(state_dict)))

    def upgrade_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """Rename what checkpoints of older versions call otherwise; subclasses add to it."""
        for old in ("skipped_episodes", "skipped_steps"):
            if old in state:
                state["skipped_updates"] = state.pop(old)
        return state
