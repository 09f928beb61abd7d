"""`ClassificationMetrics`: accuracy, F1 and calibration by domain, in validation and test."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor

from tandem_pl import MixtureModule
from tandem_pl.checks import check_at_least
from tandem_pl.curves import Places, by_name, domain_tags, with_curves
from tandem_pl.episode import MixtureBatch
from tandem_pl.errors import InputError
from tandem_pl.files import csv_bytes, png_bytes, write_atomically
from tandem_pl.objectives.packed_forward import logits_of
from tandem_pl.objectives.samples import at_least_float32, inputs_and_labels
from tandem_pl.training.connection import find_data, mixture_data
from tandem_pl.training.domain_losses import mean_over_domains
from tandem_pl.training.run_folder import run_folder
from tandem_pl.training.trainer_flags import is_dry_run

from .classification_scores import Predictions, predict, scores_by_domain
from .confusion_matrix import draw_confusion
from .logger_outputs import log_figure
from .trainer_parts import gather_columns

MOST_CLASSES = 2000  # with a confusion matrix


class ClassificationMetrics(Callback):
    """Log accuracy, macro F1 and calibration of a classifier by domain, and its confusion matrix.

    The metrics are computed wherever losses by domain are (validation in fit, `validate`, `test`),
    for the proxy and, while a `TandemModule` fits, for the reference. They need no forward of
    their own, unless the objective calls only a part of the network.

    | metric | meaning |
    |---|---|
    | `accuracy` | share of samples whose largest logit is the label's |
    | `top5_accuracy` | share with the label among the 5 largest logits; for more than 5 classes |
    | `macro_f1` | mean F1 over the classes that a domain has as label or as prediction |
    | `calibration_error` | expected gap of confidence and accuracy, over 15 bins of confidence |

    Tags are `validation/accuracy/D`, `validation/accuracy_reference/D` and `test/accuracy/D` for
    domain D. Without D it is the mean over domains, as in `validation/loss`: by the shares of the
    target domains, and in `test` with equal weights.
    All are in `trainer.callback_metrics`, for `ModelCheckpoint(monitor="validation/accuracy")`,
    and go to every logger at `trainer.global_step`. If there are more than 30 domains, loggers
    (and in fit `callback_metrics`) get 30: those with the largest target weights, or without
    target weights those with the most samples.

    The confusion matrix, over all samples, goes to loggers with pictures as
    `validation/confusion` and `test/confusion`. `test` also writes `confusion.csv` (counts, one row
    for each label) and `confusion.png` to the run's folder. Networks with more than 2000 classes
    have none.

    Samples are as in `Classification`. Labels that are probabilities count as their largest class;
    samples with negative labels are left out. With several ranks the metrics are over the samples
    of all ranks, equal to those of one process.

    Args:
        confusion_every_n_validations: validations in fit between pictures of the confusion matrix;
            the last validation has one too.

    Raises:
        InputError: without a `MixtureModule` and a `MixtureDataModule`, or for a network whose
            output is not logits [B, classes].
    """

    def __init__(self, confusion_every_n_validations: int = 10) -> None:
        check_at_least("confusion_every_n_validations", confusion_every_n_validations, 1)
        self.confusion_every_n_validations = confusion_every_n_validations
        self._samples: dict[str, list[Predictions]] = {}  # label of the network -> one a batch
        self._classes = 0
        self._hooks = ExitStack()
        self._outputs: dict[str, list[Any]] = {}  # label of the network -> of the current batch
        self._confusion: NDArray | None = None  # [classes, classes], until it is drawn
        self._validations = 0
        self._curves: Places = np.zeros(0, np.int64)

    # ---- when ----

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raise an error for modules and data without domains."""
        if not isinstance(pl_module, MixtureModule) or find_data(trainer) is None:
            raise InputError(
                "ClassificationMetrics goes by domain: give the trainer a MixtureModule or a "
                "TandemModule, and a MixtureDataModule as datamodule."
            )
        self._samples, self._confusion, self._validations = {}, None, 0
        self._curves = np.zeros(0, np.int64)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Start to record the outputs of the networks, in batches of a MixtureDataModule."""
        self._hooks.close()
        if not isinstance(batch, MixtureBatch):
            return
        for label, network in pl_module.evaluated_networks().items():
            outputs = self._outputs[label] = []
            handle = network.register_forward_hook(lambda *call, to=outputs: to.append(call[-1]))
            self._hooks.callback(handle.remove)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep what the metrics need on the device, without a sync."""
        self._hooks.close()
        if not isinstance(batch, MixtureBatch):
            return
        inputs, labels = inputs_and_labels(batch.samples)
        for label, network in pl_module.evaluated_networks().items():
            recorded = self._outputs.pop(label)
            if not recorded:  # the objective calls a part of the network, or skips its hooks
                with torch.no_grad(), trainer.precision_plugin.forward_context():
                    recorded = [network(inputs)]
            logits = _join_logits(recorded, len(batch.domains))
            self._classes = logits.shape[1]
            self._samples.setdefault(label, []).append(predict(batch.domains, labels, logits))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Log the metrics before checkpoints read them, and draw every n validations."""
        self._log(trainer, pl_module, "validation", "validate")
        if trainer.sanity_checking:
            return
        if trainer.state.fn != "fit" or self._validations % self.confusion_every_n_validations == 0:
            self._draw(trainer, "validation")
        self._validations += 1

    on_test_batch_start = on_validation_batch_start
    on_test_batch_end = on_validation_batch_end

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Log the metrics."""
        self._log(trainer, pl_module, "test", "test")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw and write the confusion matrix."""
        folder, counts = run_folder(trainer), self._confusion
        self._draw(trainer, "test")
        if counts is None or not trainer.is_global_zero or is_dry_run(trainer):
            return
        names = _class_names(trainer, len(counts))
        rows = ([name, *row] for name, row in zip(names, counts.tolist(), strict=True))
        write_atomically(folder / "confusion.csv", csv_bytes(["label", *names], rows))
        write_atomically(folder / "confusion.png", png_bytes(draw_confusion(counts, names)))
        print(f"\nconfusion matrix of {counts.sum()} samples written to {folder / 'confusion.csv'}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the matrix of the last validation."""
        self._draw(trainer, "validation")

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Remove the hooks from the networks."""
        self._hooks.close()

    # ---- what ----

    def _log(self, trainer: Trainer, module: Any, stage: str, verb: str) -> None:
        """Compute and log the metrics; all ranks call it and compute the same."""
        parts, self._samples = self._samples, {}
        if trainer.sanity_checking or not parts:
            return
        data = mixture_data(trainer, "metrics go by domain")
        names = list(data.domain_names(verb))
        shares = data.target_shares if stage == "validation" else None
        samples = {label: self._gather(trainer, parts[label], names) for label in parts}
        proxy = samples["loss"]  # all networks saw the same samples
        if self._classes <= MOST_CLASSES:
            shape = self._classes, self._classes
            cells = np.ravel_multi_index((proxy.labels, proxy.classes), shape)
            self._confusion = np.bincount(cells, minlength=self._classes**2).reshape(shape)
        counts = np.bincount(proxy.domains, minlength=len(names))
        self._curves = self._choose_curves(trainer, stage, counts)
        kept = self._curves if trainer.state.fn == "fit" else np.arange(len(names))
        metrics: dict[str, float] = {}
        curves: dict[str, float] = {}  # the same by tags that loggers can show
        for label, of in samples.items():
            for name, values in scores_by_domain(of, len(names), self._classes).items():
                tag = f"{stage}/{name}" + label.removeprefix("loss")
                seen = counts > 0
                mean = {tag: mean_over_domains(values, seen, shares)} if seen.any() else {}
                metrics |= mean | by_name(tag, names, values, kept)
                curves |= mean | by_name(tag, domain_tags(names), values, self._curves)
        for key, value in metrics.items():
            headline = key == f"{stage}/accuracy"
            module.log(key, value, logger=False, prog_bar=headline, rank_zero_only=False)
        for logger in trainer.loggers:
            logger.log_metrics(curves, step=trainer.global_step)

    def _gather(self, trainer: Trainer, parts: list[Predictions], names: list[str]) -> Predictions:
        """Return the labelled samples of all ranks, in the order of the data."""
        gathered = Predictions(*gather_columns(trainer, parts))
        known = gathered.labels >= 0
        samples = Predictions(*(column[known] for column in gathered))
        wrong = np.flatnonzero(samples.labels >= self._classes)
        if len(wrong):
            raise InputError(
                f"domain {names[samples.domains[wrong[0]]]!r} has label {samples.labels[wrong[0]]},"
                f" and the network gives logits of {self._classes} classes, 0 to "
                f"{self._classes - 1}: give it more classes, or correct the labels."
            )
        return samples

    def _choose_curves(self, trainer: Trainer, stage: str, counts: NDArray) -> Places:
        """Return the indices of the domains that loggers get."""
        data = find_data(trainer)
        weights = data.target_shares if data is not None and stage == "validation" else None
        if weights is None:
            weights = counts / max(counts.sum(), 1)
        return with_curves(np.asarray(weights, np.float64), self._curves)

    def _draw(self, trainer: Trainer, stage: str) -> None:
        counts, self._confusion = self._confusion, None
        if counts is None:
            return
        names = _class_names(trainer, len(counts))
        log_figure(trainer, f"{stage}/confusion", lambda: draw_confusion(counts, names))


def _join_logits(outputs: list[Any], size: int) -> Tensor:
    """Return the logits [size, classes] of a batch, at least float32."""
    parts = [logits_of(output) for output in outputs]
    flat = all(isinstance(part, Tensor) and part.dim() == 2 for part in parts)
    if not flat or sum(map(len, parts)) != size:
        got = [tuple(getattr(part, "shape", (type(part).__name__,))) for part in parts]
        raise InputError(
            f"ClassificationMetrics needs logits [{size}, classes], and the network gave "
            f"{', '.join(map(str, got))}: use a classifier, and an objective that gives each "
            "sample to the network once, or remove the callback."
        )
    return at_least_float32(torch.cat(parts).detach())


def _class_names(trainer: Trainer, size: int) -> list[str]:
    """Return the datamodule's names of the classes, or their numbers."""
    names = getattr(find_data(trainer), "classes", None)
    if names is None or len(names) != size:
        names = range(size)
    return [str(name) for name in names]
