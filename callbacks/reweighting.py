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
from tandem_pl.episode import MEASURE, TRAIN, MixtureBatch, Plan
from tandem_pl.errors import InputError
from tandem_pl.mixture import Mixture
from tandem_pl.mixture_module import Handler
from tandem_pl.simplex import Array

from .run_files import Signal, mixture_table, write_run_files


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
    """

    method = "fixed"
    signal_name: str | None = None  # file of what the method measures, without its suffix
    signal_columns: tuple[str, ...] = ()  # names of the C numbers that it keeps for a domain

    def __init__(self) -> None:
        self.domains: tuple[str, ...] = ()
        self.weights: Array = np.zeros(0)
        self.trajectory: list[Array] = []  # weights at the start and after each episode
        self.steps: list[int] = []  # global step of each
        self.signals: list[Array] = []  # [C, M] of each update that measured
        self.signal_steps: list[int] = []  # global step of each
        self.metrics: dict[str, float] = {}  # what the last update logged
        self._seen: dict[str, dict[str, float]] = {}
        self._folder: Path | None = None
        self._written = -1

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
        self.signals.append(np.stack(columns).astype(np.float64))
        self.signal_steps.append(trainer.global_step)

    def settings(self) -> dict[str, Any]:
        """The method's settings, for `mixture.yaml`."""
        return {}

    def initial(self, trainer: Trainer) -> Array:
        """Weights of the first episode: the datamodule's."""
        return trainer.datamodule.mixture.array  # type: ignore[attr-defined]

    # ---- the result ----

    def averaged(self) -> Array:
        """[M] `mixture.average`: here the mean over the second half of the trajectory."""
        return np.stack(self.trajectory[len(self.trajectory) // 2 :]).mean(axis=0)

    @property
    def mixture(self) -> Mixture:
        """The weights now, and their average (`averaged`)."""
        if not self.domains:
            raise InputError("there is no mixture yet: call trainer.fit first.")
        about = {
            "method": self.method,
            "settings": self.settings(),
            "episodes": len(self.trajectory) - 1,
            "steps": self.steps[-1],
        }
        for key in ("samples", "tokens", "epochs"):
            if all(key in row for row in self._seen.values()) and self._seen:
                about[key] = {name: row[key] for name, row in self._seen.items()}
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
        values = np.stack(self.signals) if self.signals else np.zeros(shape)
        return Signal(self.signal_name, self.signal_columns, self.signal_steps, values)

    # ---- when ----

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Plans the first episode."""
        self._folder = Path(trainer.log_dir or trainer.default_root_dir)
        if stage != "fit":
            return
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
        self.weights = self.initial(trainer)
        self.trajectory, self.steps = [self.weights], [0]
        self.signals, self.signal_steps = [], []
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
        self.trajectory.append(self.weights)
        self.steps.append(trainer.global_step)
        trainer.datamodule.begin_episode(self.plan())  # type: ignore[attr-defined]
        for logger in trainer.loggers:
            logger.log_metrics(self.values(), step=trainer.global_step)

    def values(self) -> dict[str, float]:
        """What is logged after an update: the weights, and what the method adds."""
        weights = dict(zip(self.domains, self.weights.tolist(), strict=True))
        return {f"mixture/weight/{name}": value for name, value in weights.items()} | self.metrics

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
        self._seen = trainer.datamodule.seen()  # type: ignore[attr-defined]
        if trainer.is_global_zero:
            grown = self._written != len(self.trajectory)  # a picture takes longer than a batch
            self._written = len(self.trajectory)
            trajectory = self.trajectory if grown else None
            write_run_files(self._folder, self.mixture, self.steps, trajectory, self.history)

    # ---- checkpoints ----

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain Python."""
        if not self.domains:
            return {}
        state = {
            "domains": list(self.domains),
            "trajectory": torch.from_numpy(np.stack(self.trajectory)),
            "steps": list(self.steps),
        }
        if self.signals:
            state["signals"] = torch.from_numpy(np.stack(self.signals))
            state["signal_steps"] = list(self.signal_steps)
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
        self.trajectory = list(state_dict["trajectory"].double().numpy())
        self.weights = self.trajectory[-1]
        self.steps = list(state_dict["steps"])
        signals = state_dict.get("signals")  # absent before the first update, and in old files
        self.signals = [] if signals is None else list(signals.double().numpy())
        self.signal_steps = list(state_dict.get("signal_steps", []))
