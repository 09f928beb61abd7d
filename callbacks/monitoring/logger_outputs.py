"""Pictures, tables, histograms and files in TensorBoard, Weights & Biases and MLflow.

Scalars need none of this: every logger takes `log_metrics`. Other loggers, such as CSVLogger,
have no place for the rest, and get nothing. All functions do their work on rank zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger
from numpy.typing import NDArray

from tandem_pl.errors import InputError
from tandem_pl.files import csv_bytes
from tandem_pl.text_tables import markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_stores(trainer: Trainer) -> None:
    """Raise an error for MLflow's store of plain files, a file a metric, the default of its logger.

    A file `train/loss` and one `train/loss/D` cannot both exist: training would fail when it logs.
    """
    for logger in _of_kind(trainer, MLFlowLogger):
        if logger.save_dir is not None:  # the folder of a file store; None for other stores
            raise InputError(
                f"MLFlowLogger writes metrics as files in {logger.save_dir!r}, which cannot hold "
                "both train/loss and train/loss/DOMAIN: give it tracking_uri: sqlite:///mlflow.db, "
                "or the address of a server."
            )


def experiments(trainer: Trainer, method: str) -> Iterator[Any]:
    """Yield the loggers' writers that have `method`, TensorBoard's for example, on rank zero."""
    for logger in trainer.loggers if trainer.is_global_zero else []:
        experiment = getattr(logger, "experiment", None)
        if getattr(experiment, method, None) is not None:
            yield experiment


def takes_figures(trainer: Trainer) -> bool:
    """Return whether this is rank zero and a logger shows pictures."""
    others = trainer.is_global_zero and any(_of_kind(trainer, WandbLogger, MLFlowLogger))
    return others or any(experiments(trainer, "add_figure"))


def log_figure(trainer: Trainer, tag: str, draw: Callable[[], Figure]) -> None:
    """Show a picture at the present step; `draw` is called only if a logger shows pictures."""
    if not takes_figures(trainer):
        return
    step = trainer.global_step
    for experiment in experiments(trainer, "add_figure"):
        experiment.add_figure(tag, draw(), global_step=step)  # which closes the figure
    others = list(_of_kind(trainer, WandbLogger, MLFlowLogger))
    pixels = _pixels(draw()) if others else None
    for logger in others:
        if isinstance(logger, WandbLogger):
            logger.log_image(tag, [pixels], step=step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, pixels, key=tag, step=step)


def log_table(
    trainer: Trainer, tag: str, header: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    """Show a table at the present step: as text in TensorBoard, as `TAG.csv` in MLflow."""
    step = trainer.global_step
    cells = [[f"{v:.4f}" if isinstance(v, float) else str(v) for v in row] for row in rows]
    for experiment in experiments(trainer, "add_text"):
        experiment.add_text(tag, markdown_table(header, cells), global_step=step)
    for logger in _of_kind(trainer, WandbLogger, MLFlowLogger):
        if isinstance(logger, WandbLogger):
            logger.log_table(tag, columns=list(header), data=[list(row) for row in rows], step=step)
        elif isinstance(logger, MLFlowLogger):
            text = csv_bytes(header, rows).decode()
            logger.experiment.log_text(logger.run_id, text, f"{tag}.csv")


def log_histograms(trainer: Trainer, histograms: Mapping[str, NDArray]) -> None:
    """Show histograms [values] at the present step; MLflow has none."""
    for experiment in experiments(trainer, "add_histogram"):
        for tag, values in histograms.items():
            experiment.add_histogram(tag, values, trainer.global_step)
    for logger in _of_kind(trainer, WandbLogger):
        import wandb

        shown: dict[str, Any] = {tag: wandb.Histogram(v) for tag, v in histograms.items()}
        logger.log_metrics(shown, step=trainer.global_step)


def log_files(trainer: Trainer, paths: Sequence[Path]) -> None:
    """Upload files that exist; TensorBoard has no place for files."""
    for logger in _of_kind(trainer, WandbLogger, MLFlowLogger):
        for path in paths:
            if not path.is_file():
                continue
            if isinstance(logger, WandbLogger):
                logger.experiment.save(str(path), base_path=str(path.parent), policy="now")
            elif isinstance(logger, MLFlowLogger):
                logger.experiment.log_artifact(logger.run_id, str(path))


def _of_kind(trainer: Trainer, *kinds: type[Logger]) -> Iterator[Logger]:
    for logger in trainer.loggers if trainer.is_global_zero else []:
        if isinstance(logger, kinds):
            yield logger


def _pixels(figure: Figure) -> NDArray[np.uint8]:
    """Return the picture as RGB [height, width, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
