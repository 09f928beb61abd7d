"""`ReweightingCallback`: when weights change. What they change to is a method's own."""

from __future__ import annotations

import platform
from abc import abstractmethod
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

import tandem_pl
from tandem_pl.curves import Places, by_name, domain_tags, with_curves
from tandem_pl.episode import MEASURE, TRAIN, MixtureBatch, Plan
from tandem_pl.errors import InputError
from tandem_pl.mixture import Mixture
from tandem_pl.run_files import Signal, mixture_table, write_run_files
from tandem_pl.simplex import Array
from tandem_pl.training.mixture_module import Handler

from .history import Blocks, Trajectory


class ReweightingCallback(Callback):
    """Learns or sets the domain weights, episode by episode.

    An episode is the plan that the datamodule serves as one epoch: `plan` says what to draw,
    `observe` collects what the module put out in measure batches, and when the plan's last batch
    is done `update` gives the next weights. The new plan is handed over at once, so a checkpoint
    taken at any batch resumes exactly.

    A method implements `plan` and `update`, and `observe` where it measures. Every rank must come
    to the same weights: gather what is measured (`observe` shows how). A method that sets
    `signal_name` and `signal_columns`, and calls `keep_signal` in `update`, has what it measured
    kept in the checkpoint and in a file of that name.

    Beside the logger's files (or in the trainer's default folder) the run keeps `mixture.yaml`,
    `mixture.png`, `trajectory.csv` and the signal, written at each checkpoint and at the end.

    Of more than 30 domains only the largest have curves (see `scalars.with_curves`). Where the
    trajectory would grow beyond 2^20 numbers (1048 updates of 1000 domains), every second row of
    it is kept, then every fourth and so on, with the last; what was measured becomes means of two,
    four, ... updates in a row. The average still counts every update (see `averaged`).
    """

    method = "fixed"
    signal_name: str | None = None  # file of what the method measures, without its suffix
    signal_columns: tuple[str, ...] = ()  # names of the C numbers that it keeps for a domain

    def __init__(self) -> None:
        self.domains: tuple[str, ...] = ()
        self.tags: tuple[str, ...] = ()  # last parts of the domains' tags
        self.weights: Array = np.zeros(0)
        self.metrics: dict[str, float] = {}  # what the last update logged
        self.curves: Places = np.zeros(0, np.int64)  # numbers of the domains that have curves
        self._trajectory, self._signals = Trajectory(), Blocks()
        self._measured: tuple[int, Array] | None = None  # step and signal of the last that measured
        self._seen: dict[str, Array] = {}
        self._folder: Path | None = None
        self._written = -1

    @property
    def trajectory(self) -> list[Array]:
        """Weights [M] at the start and after each episode; of many, see above."""
        return self._trajectory.rows

    @property
    def steps(self) -> list[int]:
        """The global step of each row of the trajectory."""
        return self._trajectory.row_steps

    @property
    def signals(self) -> list[Array]:
        """What was measured [C, M] before each update; of many, means of updates in a row."""
        return self._signals.means()

    @property
    def signal_steps(self) -> list[int]:
        """The global step of each signal, or of the last of those that it is the mean of."""
        return self._signals.steps

    @property
    def episodes(self) -> int:
        """Updates so far."""
        return self._trajectory.count - 1

    # ---- what a method defines ----

    @abstractmethod
    def plan(self) -> Plan:
        """The segments of the coming episode, drawn with `self.weights`."""

    def observe(self, trainer: Trainer, outputs: Any, batch: MixtureBatch) -> None:
        """Takes what the module put out for a measure batch."""

    def observe_training(self, trainer: Trainer, outputs: Any, batch: MixtureBatch) -> None:
        """Takes what the module put out for a training batch; keep it on the device."""

    @abstractmethod
    def update(self, trainer: Trainer, module: Any) -> tuple[Array, dict[str, float]]:
        """The next weights [M], and named values to log."""

    def handlers(self) -> dict[str, Handler]:
        """Phase -> what the method does itself with such batches, in place of the module."""
        return {}

    def keep_signal(self, trainer: Trainer, *columns: Array) -> None:
        """Adds what this update measured: one [M] array for each of `signal_columns`."""
        row = np.stack(columns).astype(np.float64)
        self._signals.add(trainer.global_step, row)
        self._measured = trainer.global_step, row

    def measured(self, step: int) -> Array | None:
        """The signal [C, M] that the update at this step kept, or None."""
        return self._measured[1] if self._measured and self._measured[0] == step else None

    def by_domain(self, tag: str, values: Array) -> dict[str, float]:
        """`tag/DOMAIN` -> value of [M], for the domains that have curves; not where it is NaN."""
        return by_name(tag, self.tags, values, self.curves)

    def lowest(self) -> float:
        """The least weight that the method gives a domain."""
        return 0.0

    def settings(self) -> dict[str, Any]:
        """The method's settings, for `mixture.yaml`."""
        return {}

    def initial(self, trainer: Trainer) -> Array:
        """Weights of the first episode: the datamodule's."""
        return trainer.datamodule.mixture.array  # type: ignore[attr-defined]

    # ---- the result ----

    def averaged(self) -> Array:
        """[M] `mixture.average`: here the mean over the second half of the run.

        It counts the weights after every episode, and those before the first. Where rows of the
        trajectory are left out, the half begins with a row that is kept, at most one before it.
        """
        return self.mean_since(0)

    def mean_since(self, episode: int) -> Array:
        """[M] mean over the second half of the episodes from this one on."""
        rows = max(self._trajectory.count - episode, 1)
        return self._trajectory.mean_since(self._trajectory.count - rows + rows // 2)

    @property
    def mixture(self) -> Mixture:
        """The weights now, and their average (`averaged`)."""
        if not self.domains:
            raise InputError("there is no mixture yet: call trainer.fit first.")
        about = {
            "method": self.method,
            "settings": self.settings(),
            "episodes": self.episodes,
            "steps": self.steps[-1],
        }
        series = {"trajectory": self._trajectory.stride, self.signal_name: self._signals.stride}
        thinned = {name: stride for name, stride in series.items() if stride > 1}
        if thinned:  # file -> updates that a row of it stands for
            about["thinned"] = thinned
        for key in ("samples", "tokens", "epochs"):
            if key in self._seen and not np.isnan(self._seen[key]).any():
                about[key] = dict(zip(self.domains, self._seen[key].tolist(), strict=True))
        about["versions"] = {
            "tandem_pl": tandem_pl.__version__,
            "torch": str(torch.__version__),
            "lightning": lightning.__version__,
            "python": platform.python_version(),
        }
        average = dict(zip(self.domains, self.averaged().tolist(), strict=True))
        return Mixture.from_array(self.domains, self.weights, average=average, about=about)

    @property
    def history(self) -> Signal | None:
        """What was measured before each update; None for a method that keeps nothing."""
        if self.signal_name is None:
            return None
        shape = (0, len(self.signal_columns), len(self.domains))
        values = np.stack(self.signals) if self._signals.count else np.zeros(shape)
        return Signal(self.signal_name, self.signal_columns, self.signal_steps, values)

    # ---- when ----

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Plans the first episode."""
        self._folder = Path(trainer.log_dir or trainer.default_root_dir)
        if stage != "fit":
            return
        if not hasattr(pl_module, "phase_step"):
            raise InputError(
                f"{type(self).__name__} needs a MixtureModule or a TandemModule, and "
                f"{type(pl_module).__name__} is neither: wrap your network in one, or set the "
                "datamodule's weights instead."
            )
        datamodule: Any = getattr(trainer, "datamodule", None)
        if not hasattr(datamodule, "begin_episode"):
            raise InputError(
                f"{type(self).__name__} sets the shares of a MixtureDataModule: pass one as "
                "datamodule to trainer.fit."
            )
        others = [c for c in trainer.callbacks if isinstance(c, ReweightingCallback)]  # type: ignore[attr-defined]
        if len(others) > 1:
            names = ", ".join(type(callback).__name__ for callback in others)
            raise InputError(f"callbacks has {names}, which all set the weights: keep one.")
        self.domains = datamodule.domain_names()
        self.tags = domain_tags(self.domains)
        self.weights = self.initial(trainer)
        self._trajectory, self._signals, self._measured = Trajectory(), Blocks(), None
        self._trajectory.add(0, self.weights)
        self.curves = with_curves(self.weights)
        self._written = -1
        pl_module.handlers = self.handlers()  # type: ignore[assignment]
        datamodule.begin_episode(self.plan())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Observes measure batches; after the plan's last batch, updates and plans."""
        if batch.phase == MEASURE:
            self.observe(trainer, outputs, batch)
        elif batch.phase == TRAIN:
            self.observe_training(trainer, outputs, batch)
        if not batch.last:
            return
        self.weights, self.metrics = self.update(trainer, pl_module)
        self._trajectory.add(trainer.global_step, self.weights)
        self.curves = with_curves(self.weights, self.curves if self.episodes > 1 else ())
        trainer.datamodule.begin_episode(self.plan())  # type: ignore[attr-defined]
        for logger in trainer.loggers:
            logger.log_metrics(self.values(), step=trainer.global_step)

    def values(self) -> dict[str, float]:
        """What is logged after an update: the weights, and what the method adds."""
        return self.by_domain("mixture/weight", self.weights) | self.metrics

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Writes the run's files."""
        self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the run's files, and says what came out."""
        self._write(trainer)
        if self._folder is not None:
            table = mixture_table(self.mixture, self.trajectory[0])
            rank_zero_info(f"\n{table}\nwritten to {self._folder / 'mixture.yaml'}")

    def _write(self, trainer: Trainer) -> None:
        if not self.domains or self._folder is None:
            return
        self._seen = trainer.datamodule.seen_arrays()  # type: ignore[attr-defined]
        if trainer.is_global_zero:
            grown = self._written != self.episodes  # a picture takes longer than a batch
            self._written = self.episodes
            trajectory = self.trajectory if grown else None
            write_run_files(self._folder, self.mixture, self.steps, trajectory, self.history)

    # ---- checkpoints ----

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain Python."""
        if not self.domains:
            return {}
        blocks = self._trajectory.state_dict()
        rows, steps = blocks.pop("rows"), blocks.pop("row_steps")
        state = {"domains": list(self.domains), "trajectory": rows, "steps": steps}
        if blocks:  # some rows are left out
            state["trajectory_blocks"] = blocks
        if len(self.curves) < len(self.domains):
            state["curves"] = self.curves.tolist()
        if self._signals.count:
            blocks = self._signals.state_dict()
            state["signals"], state["signal_steps"] = blocks.pop("sums"), blocks.pop("steps")
            if blocks:
                state["signal_blocks"] = blocks
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores weights, trajectory and signals, to the bit."""
        if not state_dict:
            return
        if self.domains and list(self.domains) != state_dict["domains"]:
            raise InputError(
                f"the checkpoint has weights for the domains {state_dict['domains']} and this run "
                f"has {list(self.domains)}: use the same to resume, or start without ckpt_path."
            )
        self.domains = tuple(state_dict["domains"])
        self.tags = domain_tags(self.domains)
        rows = {"rows": state_dict["trajectory"], "row_steps": state_dict["steps"]}
        self._trajectory = Trajectory()
        self._trajectory.load_state_dict(rows | state_dict.get("trajectory_blocks", {}))
        self.weights = self._trajectory.last
        self.curves = with_curves(self.weights, state_dict.get("curves", ()))
        self._signals, self._measured = Blocks(), None
        if "signals" in state_dict:  # absent before the first update, and in old files
            sums = {"sums": state_dict["signals"], "steps": state_dict["signal_steps"]}
            self._signals.load_state_dict(sums | state_dict.get("signal_blocks", {}))
