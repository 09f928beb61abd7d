"""`EvaluationTable`: losses and other metrics by domain, printed and kept as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor

from tandem_pl.data_record import with_target
from tandem_pl.domain_names import first_names, own_domains
from tandem_pl.episode import MixtureBatch
from tandem_pl.files import csv_bytes, write_atomically
from tandem_pl.text_tables import text_table
from tandem_pl.training.connection import mixture_data
from tandem_pl.training.domain_losses import DomainLosses, mean_over_domains
from tandem_pl.training.run_folder import run_folder
from tandem_pl.training.trainer_flags import is_dry_run

from .trainer_parts import gather_columns

Columns = dict[str, list[float | None]]  # metric -> values; None for what is not known
AVERAGES = ("mean", "exp(mean loss)")  # names of the last lines; the second is of perplexities
MOST_NAMES = 8  # in a sentence
ENOUGH = 30  # samples of a domain for a mean that two networks can be compared by

PURPOSE = "the table has a row for each domain of a MixtureDataModule"


class EvaluationTable(Callback):
    """Print and write what `trainer.test`, `validate` and `predict` found for each domain.

    After `test` (and `validate`) rank zero prints a table, and writes it to `test.csv`
    (`validation.csv`) in the run's folder. It has the loss of each domain, its perplexity
    exp(loss) if the objective is of tokens (`CausalLanguageModeling`, or has `of_tokens`), its
    number of samples, and averages with equal weights for domains (after `validate` with their
    shares of the target, see `target_weights`):

    - "mean": the mean loss, and the mean perplexity, which the worst domains dominate;
    - "exp(mean loss)": the perplexity of the mean loss, the geometric mean of the perplexities.

    Other metrics that were logged by domain, such as `test/accuracy/D` (see
    `ClassificationMetrics`), have columns before the samples, with their means over domains. A
    sentence names the domains with fewer than 30 samples. If target data have domains of their own,
    tested beside others, a sentence has the means over these.

    After `predict` it writes `predictions.csv` there: the domain and the loss of each test sample,
    in the order of the data. It does nothing for validation during training.
    """

    def __init__(self) -> None:
        self._predictions: list[tuple[Tensor, Tensor]] = []  # domains and losses of each batch
        self._samples = DomainLosses()  # of the batches so far; only their numbers are used

    # ---- test and validate ----

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the samples of each domain."""
        if isinstance(batch, MixtureBatch):
            self._samples.add(batch.domains, batch.domains)

    def on_validation_batch_end(self, trainer: Trainer, *rest: Any, **more: Any) -> None:
        """Count the samples of each domain in `trainer.validate`."""
        if trainer.state.fn == "validate":
            self.on_test_batch_end(trainer, *rest, **more)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print and write the table."""
        if not is_dry_run(trainer):
            self._report(trainer, "test", "test")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print and write the table after `trainer.validate`."""
        if trainer.state.fn == "validate" and not is_dry_run(trainer):
            self._report(trainer, "validation", "validate")

    def _report(self, trainer: Trainer, stage: str, verb: str) -> None:
        path = run_folder(trainer) / f"{stage}.csv"
        data = mixture_data(trainer, PURPOSE)
        names = data.domain_names(verb)
        counts = self._samples.reduce(len(names), trainer.strategy)[1]
        if not trainer.is_global_zero:
            return
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        keys = {name: f"{stage}/loss/{name}" for name in names}
        losses = {name: metrics[key] for name, key in keys.items() if key in metrics}
        if not losses:
            return
        shares = data.target_shares if stage == "validation" else None
        if shares is not None:
            shares = shares[[name in losses for name in names]]
        samples = dict(zip(names, counts.astype(int).tolist(), strict=True))
        samples = {name: samples[name] for name in losses}
        others = other_metrics(metrics, stage, list(losses))
        columns = table_columns(losses, others, samples, f"{stage}/perplexity" in metrics, shares)
        averages = AVERAGES if "perplexity" in columns else AVERAGES[:1]
        lines = zip([*losses, *averages], *columns.values(), strict=True)
        write_atomically(path, csv_bytes(["domain", *columns], lines))
        print(f"\n{format_table(list(losses), columns)}\nwritten to {path}")
        shared = [name for name, share in with_target(data).get("target", {}).items() if share]
        target = own_domains(shared, list(losses)) if stage == "test" else []
        if target:
            print(target_means({name: losses[name] for name in target}, columns, len(losses)))
        first = {name: samples[name] for name in target}  # of the domains that count most
        if few := too_few(first | samples):
            print(few)

    # ---- predict ----

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the samples of an earlier predict."""
        self._predictions = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the output of `MixtureModule.predict_step`."""
        if isinstance(outputs, Mapping) and {"domains", "losses"} <= outputs.keys():
            self._predictions.append((outputs["domains"], outputs["losses"]))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather the samples of all ranks and write them."""
        path = run_folder(trainer) / "predictions.csv"
        columns = gather_columns(trainer, self._predictions)
        self._predictions = []
        if not trainer.is_global_zero or not columns or is_dry_run(trainer):
            return
        domains, losses = columns
        names = mixture_data(trainer, PURPOSE).domain_names("predict")
        rows = ([names[m], str(loss)] for m, loss in zip(domains, losses, strict=True))
        write_atomically(path, csv_bytes(["domain", "loss"], rows))
        print(f"\nlosses of {len(domains)} samples written to {path}")


def target_means(losses: Mapping[str, float], columns: Columns, tested: int) -> str:
    """Return a sentence with the means over the target's domains, which count the same.

    >>> target_means({"exam": 0.5}, {"loss": [], "perplexity": []}, 9)
    'The target alone (exam): mean loss 0.5000, exp(mean loss) 1.649; the means above count all 9.'
    """
    mean = float(np.mean(list(losses.values())))
    perplexity = f", exp(mean loss) {np.exp(mean):.3f}" if "perplexity" in columns else ""
    return (
        f"The target alone ({first_names(list(losses), MOST_NAMES)}): mean loss {mean:.4f}"
        f"{perplexity}; the means above count all {tested}."
    )


def other_metrics(metrics: Mapping[str, float], stage: str, domains: Sequence[str]) -> Columns:
    """Return the metrics other than loss that have tags `STAGE/METRIC/DOMAIN`, one value a domain.

    >>> metrics = {"test/loss/a/b": 2.0, "test/accuracy/a/b": 0.5, "test/accuracy": 0.5}
    >>> other_metrics(metrics, "test", ["a/b", "c"])
    {'accuracy': [0.5, None]}
    """
    columns: Columns = {}
    for key in metrics:
        first, _, rest = key.partition("/")
        metric, _, domain = rest.partition("/")
        if first == stage and metric not in {"loss", *columns} and domain in domains:
            columns[metric] = [metrics.get(f"{stage}/{metric}/{name}") for name in domains]
    return columns


def table_columns(
    losses: Mapping[str, float],
    others: Columns,
    samples: Mapping[str, int],
    perplexity: bool,
    shares: NDArray | None = None,
) -> Columns:
    """Return loss, perplexity, other metrics and samples: a value for each domain and average.

    Args:
        losses: domain -> loss in nats.
        others: other metric -> one value for each domain.
        samples: domain -> number of samples.
        perplexity: whether exp(loss) means something.
        shares: of the domains in the averages; None for equal ones.

    >>> table_columns({"code": 0.0, "books": 2.0}, {}, {"code": 9, "books": 9}, True)["perplexity"]
    [1.0, 7.38905609893065, 4.194528049465325, 2.718281828459045]
    """
    values = np.array(list(losses.values()), np.float64)
    everything = np.ones(len(values), bool)
    mean_loss = mean_over_domains(values, everything, shares)
    columns: Columns = {"loss": [*values.tolist(), mean_loss]}
    if perplexity:
        with np.errstate(over="ignore"):  # inf is right
            perplexities, geometric = np.exp(values), float(np.exp(mean_loss))
        columns["loss"].append(None)
        mean = mean_over_domains(perplexities, everything, shares)
        columns["perplexity"] = [*perplexities.tolist(), mean, geometric]
    rest: list[float | None] = [None] * (len(columns["loss"]) - len(values))
    for name, column in others.items():
        known = np.array([value is not None for value in column])
        numbers = np.array(column, np.float64)  # None becomes NaN
        average = mean_over_domains(numbers, known, shares) if known.any() else None
        columns[name] = [_round_to_float32(value) for value in (*column, average, *rest[1:])]
    columns["samples"] = [*samples.values(), *rest]
    return columns


def format_table(domains: Sequence[str], columns: Columns) -> str:
    """Return the table as aligned text.

    >>> print(format_table(["code"], table_columns({"code": 0.5}, {}, {"code": 90}, True)))
    domain            loss  perplexity  samples
    code            0.5000       1.649       90
    mean            0.5000       1.649
    exp(mean loss)               1.649
    """
    decimals = {"perplexity": 3, "samples": 0}
    cells = (
        ["" if v is None else f"{v:.{decimals.get(name, 4)}f}" for v in column]
        for name, column in columns.items()
    )
    names = [*domains, *AVERAGES][: len(columns["loss"])]
    return text_table(["domain", *columns], zip(names, *cells, strict=True))


def too_few(samples: Mapping[str, int]) -> str:
    """Return a sentence on the domains whose means are of few samples, or nothing.

    >>> too_few({"code": 2, "books": 30})
    'few samples of code (2): with fewer than 30, differences between networks are mostly chance.'
    """
    few = [f"{name} ({size})" for name, size in samples.items() if size < ENOUGH]
    if not few:
        return ""
    more = f" and {len(few) - MOST_NAMES} more domains" if len(few) > MOST_NAMES else ""
    return (
        f"few samples of {', '.join(few[:MOST_NAMES])}{more}: with fewer than {ENOUGH}, "
        "differences between networks are mostly chance."
    )


def _round_to_float32(value: float | None) -> float | None:
    """Return a value without the digits that float32 metrics have by chance."""
    return None if value is None else float(f"{value:.7g}")
