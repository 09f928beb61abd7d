"""`RunSummary`: what a run says before its first step and after its last."""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from tandem_pl.callbacks.measures.target_evaluation import TargetEvaluation
from tandem_pl.callbacks.monitoring.trainer_parts import reweighting_of
from tandem_pl.episode import MixtureData
from tandem_pl.machine import choose_threads, count_cores, share_of_busy_cores
from tandem_pl.report.run import read_run
from tandem_pl.simplex import Array
from tandem_pl.text_tables import counted
from tandem_pl.training.connection import find_data
from tandem_pl.training.mixture_module import MixtureModule
from tandem_pl.training.run_folder import run_folder
from tandem_pl.training.trainer_flags import is_dry_run, total_steps

from .run_end import losses_table, mixture_lines, sample_line
from .run_start import read_start, start_lines
from .text_sample import write_sample

MOST_SAMPLES, LEAST_SAMPLES = 64, 8  # of a target domain in an evaluation
MOST_IN_ALL = 1024
SHARE = 0.02  # of the run's samples, for an evaluation: a forward of each


class RunSummary(Callback):
    """Print what a run will do and cost, and at its end what it learned and how to use it.

    The target's losses, by domain, are those of a few target samples, the same at both ends. The
    weights of the network and all random numbers are those of a run without this callback.

    On one CPU process it lowers torch's number of threads if most cores are busy, unless
    OMP_NUM_THREADS is set. Sums of floating-point numbers depend on the number of threads, so
    checkpoints keep it and a resumed run takes it.
    """

    def __init__(self) -> None:
        self._evaluation: TargetEvaluation | None = None
        self._first: tuple[int, Array] = 0, np.zeros(0)  # step and losses

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose the number of threads."""
        if stage == "fit" and _chooses_threads(trainer):
            threads, busy = torch.get_num_threads(), share_of_busy_cores()
            chosen = choose_threads(threads, count_cores(), busy)
            if chosen != threads:
                torch.set_num_threads(chosen)
                rank_zero_info(
                    f"{counted(chosen, 'thread')} in place of {threads}, because "
                    f"{min(busy, 1):.0%} of the machine is busy; set OMP_NUM_THREADS to choose "
                    "yourself."
                )

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the number of threads."""
        checkpoint["threads"] = torch.get_num_threads()

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the number of threads of the run that is resumed."""
        if "threads" in checkpoint and _chooses_threads(trainer):
            torch.set_num_threads(min(checkpoint["threads"], count_cores()))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the start, and evaluate the target."""
        data = find_data(trainer)
        if data is None or is_dry_run(trainer):
            return
        rank_zero_info("\n".join(start_lines(read_start(trainer))))
        self._evaluation = None
        if isinstance(pl_module, MixtureModule) and data.target_sets:
            self._evaluation = TargetEvaluation(samples_of_a_domain(data, total_steps(trainer)))
            self._evaluation.prepare(data, "the summary")
            losses = self._evaluation.losses(trainer, data, pl_module)
            self._first = trainer.global_step, losses

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the end."""
        data = find_data(trainer)
        if data is None or is_dry_run(trainer):
            return
        lines = []
        if self._evaluation is not None and isinstance(pl_module, MixtureModule):
            last = self._evaluation.losses(trainer, data, pl_module)
            step, first = self._first
            tokens = bool(getattr(pl_module.objective, "of_tokens", False))
            steps = step, trainer.global_step
            table = losses_table(self._evaluation.names, steps, (first, last), tokens)
            samples = counted(self._evaluation.samples or 0, "sample")
            lines += ["", table, f"(means of at most {samples} of each target domain)"]
        folder = run_folder(trainer)
        if not trainer.is_global_zero:
            return
        if reweighting_of(trainer) is not None:
            lines += mixture_lines(read_run(folder))
        sample = _sample(trainer, pl_module, data)
        lines += [sample_line(*sample)] if sample else []
        if lines:
            rank_zero_info("\n".join(lines))


def samples_of_a_domain(data: MixtureData, steps: int | None) -> int:
    """Return how many samples of each target domain to evaluate: few in a short run."""
    domains = len(data.target_sets)
    total = MOST_IN_ALL if steps is None else int(SHARE * steps * data.batch_size)
    total = min(max(total, LEAST_SAMPLES * domains), MOST_IN_ALL)
    return max(1, min(MOST_SAMPLES, total // domains))


def _chooses_threads(trainer: Trainer) -> bool:
    cpu = trainer.strategy.root_device.type == "cpu"
    return cpu and trainer.world_size == 1 and "OMP_NUM_THREADS" not in os.environ


def _sample(trainer: Trainer, module: LightningModule, data: Any) -> tuple[str, str] | None:
    try:
        return write_sample(trainer, module, data)
    except Exception as error:  # networks and data of others; the run is not to fail at its end
        warnings.warn(f"no sample of text: {type(error).__name__}: {error}", stacklevel=2)
        return None
