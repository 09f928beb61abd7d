"""`RunProgressBar`: one progress bar for the whole run, because episodes are short."""

from __future__ import annotations

import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm.auto import tqdm

from tandem_pl.training.trainer_flags import total_steps

from .trainer_parts import reweighting_of


class RunProgressBar(ProgressBar):
    """Count proxy batches (`global_step`) up to the end of training, with the time left.

    Beside the losses it shows whether the mixture is settled, and how many domains' moves are
    significant (see `steadiness.Steadiness`).

    Args:
        refresh_rate: proxy batches between updates; 0 hides the bar.
    """

    def __init__(self, refresh_rate: int = 10) -> None:
        super().__init__()
        self.refresh_rate = refresh_rate
        self._bar: tqdm | None = None
        self._enabled = refresh_rate > 0

    def enable(self) -> None:
        """Show the bar; Lightning calls it on rank zero."""
        self._enabled = self.refresh_rate > 0

    def disable(self) -> None:
        """Hide the bar; Lightning calls it on the other ranks."""
        self._enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar."""
        self._bar = tqdm(
            desc=str(getattr(trainer.logger, "name", None) or "training"),
            total=total_steps(trainer),
            initial=trainer.global_step,
            unit=" steps",
            file=sys.stderr,
            disable=not self._enabled,
            dynamic_ncols=True,
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar."""
        if self._bar is None or self._bar.disable:
            return
        behind = trainer.global_step - self._bar.n
        if behind >= self.refresh_rate or trainer.global_step == self._bar.total:
            metrics = self.get_metrics(trainer, pl_module)
            metrics.pop("v_num", None)
            reweighting = reweighting_of(trainer)
            if reweighting is not None and reweighting.steadiness is not None:
                metrics["mixture"] = str(reweighting.steadiness)
            self._bar.set_postfix(metrics, refresh=False)
            self._bar.update(behind)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar at its last state."""
        if self._bar is not None:
            self._bar.update(trainer.global_step - self._bar.n)
            self._bar.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Close the bar, so that the error message starts on a new line."""
        if self._bar is not None:
            self._bar.close()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        if self._enabled:
            tqdm.write(" ".join(map(str, args)), **kwargs)
