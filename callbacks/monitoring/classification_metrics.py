"""`ClassificationMetrics`: accuracy, F1 and calibration by domain, in validation and test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor, nn

from tandem_pl.curves import Places, by_name, domain_tags, with_curves
from tandem_pl.episode import MixtureBatch
from tandem_pl.errors import InputError
from tandem_pl.files import write_atomically
from tandem_pl.objectives.losses import at_least_float32, inputs_and_labels
from tandem_pl.objectives.packed_forward import logits_of
from tandem_pl.simplex import Array

from .classification_scores import Predictions, predict, scores_by_domain
from .confusion_matrix import confusion_csv, confusion_png, count_confusions, draw_confusion
from .evaluation_table import gather_rows
from .trainer_parts import experiments

MOST_CLASSES = 2000  # with a confusion matrix


class ClassificationMetrics(Callback):
    """Accuracy, macro F1 and calibration of a classifier by domain, and its confusion matrix.

    They are computed wherever losses by domain are (validation in fit, `validate`, `test`), for the
    proxy and, while `TandemModule` fits, for the reference. They take no forward of their own,
    unless the objective calls only a part of the network.

    | metric | meaning |
    |---|---|
    | `accuracy` | share of samples whose largest logit is the label's |
    | `top5_accuracy` | share with the label among the 5 largest logits; of more than 5 classes |
    | `macro_f1` | mean F1 over the classes that a domain has as label or as prediction |
    | `calibration_error` | expected gap of confidence and accuracy, over 15 bins of confidence |

    Tags are `validation/accuracy/D`, `validation/accuracy_reference/D` and `test/accuracy/D`.
    Without D it is the mean over domains, which weighs them equally, as `validation/loss` does.
    All are in `trainer.callback_metrics`, for `ModelCheckpoint(monitor="validation/accuracy")`,
    and go to every logger at `trainer.global_step`. Of more than 30 domains, loggers get 30 (the
    largest target weights; without such, the most samples), and so does `callback_metrics` in fit.

    The confusion matrix, over all samples alike, goes to TensorBoard as `validation/confusion` and
    `test/confusion`; `test` also writes `confusion.csv` (a row for each label, counts) and
    `confusion.png` to the run's folder. More than 2000 classes have none.

    Samples are as in `Classification`; labels that are probabilities count as their largest class,
    and negative labels are left out. Metrics are of all ranks' samples, as one process has them.

    Args:
        confusion_every_n_validations: validations in fit between pictures of the confusion matrix;
            the last validation has one too.

    Raises:
        InputError: without a `MixtureModule` and a `MixtureDataModule`, or for a network whose
            output is not logits [B, classes].
    """

    def __init__(self, confusion_every_n_validations: int = 10) -> None:
        if confusion_every_n_validations < 1:
            raise InputError(
                f"confusion_every_n_validations={confusion_every_n_validations} must be at least 1."
            )
        self.confusion_every_n_validations = confusion_every_n_validations
        self._rows: dict[str, list[Predictions]] = {}  # label of the network -> a part a batch
        self._size = 0  # number of classes
        self._recording = ExitStack()
        self._outputs: dict[str, list[Any]] = {}  # label of the network -> of the present batch
        self._confusion: NDArray | None = None  # [classes, classes], until it is drawn
        self._validations = 0
        self._curves: Places = np.zeros(0, np.int64)

    # ---- when ----

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses modules and data without domains."""
        datamodule = getattr(trainer, "datamodule", None)
        if not (hasattr(pl_module, "evaluated_networks") and hasattr(datamodule, "domain_names")):
            raise InputError(
                "ClassificationMetrics goes by domain: give the trainer a MixtureModule or a "
                "TandemModule, and a MixtureDataModule as datamodule."
            )
        self._rows, self._confusion, self._validations = {}, None, 0
        self._curves = np.zeros(0, np.int64)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts empty."""
        self._rows = {}

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Begins to keep what the networks give; nothing of loaders that are not of domains."""
        self._recording.close()
        if not isinstance(batch, MixtureBatch):
            return
        self._outputs = {
            label: self._recording.enter_context(recorded_outputs(network))
            for label, network in pl_module.evaluated_networks().items()
        }

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps what the metrics need, where it is: no wait for the device."""
        self._recording.close()
        if not isinstance(batch, MixtureBatch):
            return
        inputs, labels = inputs_and_labels(batch.samples)
        recorded, self._outputs = self._outputs, {}
        for label, network in pl_module.evaluated_networks().items():
            found = recorded.get(label)
            if not found:  # an objective that calls a part of the network; or hooks not compiled
                with torch.no_grad(), trainer.precision_plugin.forward_context():
                    found = [network(inputs)]
            logits = _logits(found, len(batch.domains))
            self._size = logits.shape[1]
            self._rows.setdefault(label, []).append(predict(batch.domains, labels, logits))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Logs the metrics, before checkpoints look at them, and draws now and then."""
        self._finish(trainer, pl_module, "validation", "validate")
        if trainer.sanity_checking:
            return
        fitting = trainer.state.fn == "fit"
        if not fitting or self._validations % self.confusion_every_n_validations == 0:
            self._draw(trainer, "validation")
        self._validations += 1

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_start = on_validation_batch_start
    on_test_batch_end = on_validation_batch_end

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Logs the metrics."""
        self._finish(trainer, pl_module, "test", "test")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws and writes the confusion matrix."""
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # every rank must ask
        counts = self._confusion
        self._draw(trainer, "test")
        if counts is None or not trainer.is_global_zero:
            return
        names = _class_names(trainer, len(counts))
        write_atomically(folder / "confusion.csv", confusion_csv(counts, names))
        write_atomically(folder / "confusion.png", confusion_png(counts, names))
        print(f"\nconfusion matrix of {counts.sum()} samples written to {folder / 'confusion.csv'}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the last validation's matrix, unless it is drawn."""
        self._draw(trainer, "validation")

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leaves the networks as they were."""
        self._recording.close()
        self._rows, self._outputs = {}, {}

    # ---- what ----

    def _finish(self, trainer: Trainer, module: Any, stage: str, verb: str) -> None:
        """Every rank comes here, and all compute the same from all samples."""
        rows, self._rows = self._rows, {}
        if trainer.sanity_checking or not rows:
            return
        names = list(trainer.datamodule.domain_names(verb))  # type: ignore[attr-defined]
        found, counts = {}, np.zeros(len(names), np.int64)
        for label in module.evaluated_networks():
            samples = self._gathered(rows[label], trainer.world_size, names)
            found[label] = scores_by_domain(samples, len(names), self._size)
            if label == "loss":  # all networks saw the same samples
                counts = np.bincount(samples.domains, minlength=len(names))
            if label == "loss" and self._size <= MOST_CLASSES:
                self._confusion = count_confusions(samples.labels, samples.classes, self._size)
        self._log(trainer, module, stage, names, found, counts)

    def _log(
        self,
        trainer: Trainer,
        module: Any,
        stage: str,
        names: list[str],
        found: dict[str, dict[str, Array]],
        counts: NDArray,
    ) -> None:
        places = self._places(trainer, stage, counts)
        kept = places if trainer.state.fn == "fit" else np.arange(len(names))
        metrics: dict[str, float] = {}
        curves: dict[str, float] = {}  # the same by tags that loggers can show
        for label, scores in found.items():
            for name, values in scores.items():
                tag = f"{stage}/{name}" + label.removeprefix("loss")
                mean = {tag: float(values[counts > 0].mean())} if counts.any() else {}
                metrics |= mean | by_name(tag, names, values, kept)
                curves |= mean | by_name(tag, domain_tags(names), values, places)
        for key, value in metrics.items():
            headline = key == f"{stage}/accuracy"
            module.log(key, value, logger=False, prog_bar=headline, rank_zero_only=False)
        for logger in trainer.loggers:
            logger.log_metrics(curves, step=trainer.global_step)

    def _gathered(self, parts: list[Predictions], ranks: int, names: list[str]) -> Predictions:
        """All ranks' samples, in the order of the data."""
        columns = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
        rows = gather_rows(tuple(columns), ranks)
        known = rows[1] >= 0
        samples = Predictions(*(column[known] for column in rows))
        if len(samples.labels) and samples.labels.max() >= self._size:
            worst = int(samples.labels.argmax())
            raise InputError(
                f"domain {names[samples.domains[worst]]!r} has label {samples.labels[worst]}, and "
                f"the network gives logits of {self._size} classes, 0 to {self._size - 1}: give it "
                "more classes, or mend the labels."
            )
        return samples

    def _places(self, trainer: Trainer, stage: str, counts: NDArray) -> Places:
        """Numbers of the domains that loggers get."""
        sampler = getattr(trainer.datamodule, "sampler", None)  # type: ignore[attr-defined]
        weights = getattr(sampler, "target_weights", None) if stage == "validation" else None
        if weights is None:
            weights = counts / max(counts.sum(), 1)
        self._curves = with_curves(np.asarray(weights, np.float64), self._curves)
        return self._curves

    def _draw(self, trainer: Trainer, stage: str) -> None:
        counts, self._confusion = self._confusion, None
        if counts is None:
            return
        for experiment in experiments(trainer, "add_figure"):
            figure = draw_confusion(counts, _class_names(trainer, len(counts)))
            experiment.add_figure(f"{stage}/confusion", figure, global_step=trainer.global_step)


@contextmanager
def recorded_outputs(network: nn.Module) -> Iterator[list[Any]]:
    """The outputs of the calls of `network` inside, in a list that fills.

    >>> layer = nn.Identity()
    >>> with recorded_outputs(layer) as outputs:
    ...     _ = layer(1), layer(2)
    >>> layer(3), outputs
    (3, [1, 2])
    """
    outputs: list[Any] = []
    handle = network.register_forward_hook(lambda module, inputs, out: outputs.append(out))
    try:
        yield outputs
    finally:
        handle.remove()


def _logits(outputs: list[Any], size: int) -> Tensor:
    """[size, classes], at least float32."""
    logits = [logits_of(output) for output in outputs]
    shapes = [tuple(one.shape) if isinstance(one, Tensor) else type(one).__name__ for one in logits]
    if any(isinstance(shape, str) or len(shape) != 2 for shape in shapes):
        raise InputError(
            f"ClassificationMetrics needs logits [{size}, classes], and the network gave "
            f"{shapes[0]}: give it a classifier, or take the callback out."
        )
    whole = at_least_float32(torch.cat(logits).detach())
    if len(whole) != size:
        raise InputError(
            f"ClassificationMetrics saw logits of {len(whole)} samples for a batch of {size}: the "
            "objective must give each sample to the network once, or take the callback out."
        )
    return whole


def _class_names(trainer: Trainer, size: int) -> list[str]:
    """Of the datamodule; numbers where it has none."""
    names = getattr(trainer.datamodule, "classes", None)  # type: ignore[attr-defined]
    if names is None or len(names) != size:
        return [str(number) for number in range(size)]
    return [str(name) for name in names]
