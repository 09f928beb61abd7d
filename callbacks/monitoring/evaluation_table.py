"""`EvaluationTable`: losses and other metrics by domain, printed and kept as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from tandem_pl.files import write_atomically

PREFIX = {"validate": "validation", "test": "test"}  # verb -> first part of the metric's name


class Row(NamedTuple):
    """A line of the table; a loss in nats, or None where there is none."""

    name: str
    loss: float | None
    perplexity: float
    more: tuple[float | None, ...] = ()  # further columns


class EvaluationTable(Callback):
    """Shows what `trainer.test`, `validate` and `predict` found, domain by domain.

    After `test` (and `validate`) rank zero prints, and writes to `test.csv` (`validation.csv`) in
    the trainer's log folder, loss and perplexity exp(loss) of each domain, and two averages that
    weigh domains equally:

    - "mean": the mean loss, and the mean of perplexities, which the worst domains dominate;
    - "exp(mean loss)": the perplexity of the mean loss, their geometric mean.

    Whatever else was logged by domain, as `test/accuracy/D` (see `ClassificationMetrics`), has a
    column of its own after these, with its mean over domains.

    After `predict` it writes `predictions.csv` there: domain and loss of each test sample, in the
    order of the data. Validation inside of training prints nothing.
    """

    def __init__(self) -> None:
        self._domains: list[torch.Tensor] = []
        self._losses: list[torch.Tensor] = []

    # ---- test and validate ----

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints and writes the table."""
        self._report(trainer, "test")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints and writes the table, after `trainer.validate`."""
        if trainer.state.fn == "validate":
            self._report(trainer, "validate")

    def _report(self, trainer: Trainer, verb: str) -> None:
        folder = _folder(trainer)
        if not trainer.is_global_zero:
            return
        prefix = f"{PREFIX[verb]}/loss/"
        found = {
            name: float(trainer.callback_metrics[prefix + name])
            for name in _names(trainer, verb)
            if prefix + name in trainer.callback_metrics
        }
        if not found:
            return
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        more = further_columns(metrics, PREFIX[verb], list(found))
        rows = evaluation_rows(found, more)
        path = folder / f"{PREFIX[verb]}.csv"
        lines = ((*row[:3], *map(_short, row.more)) for row in rows)
        write_atomically(path, _csv(("domain", "loss", "perplexity", *more), lines))
        print(f"\n{format_table(rows, list(more))}\nwritten to {path}")

    # ---- predict ----

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts empty."""
        self._domains, self._losses = [], []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps what `MixtureModule.predict_step` gives."""
        if isinstance(outputs, Mapping) and {"domains", "losses"} <= outputs.keys():
            self._domains.append(outputs["domains"])
            self._losses.append(outputs["losses"])

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gathers the ranks' samples and writes them."""
        folder = _folder(trainer)
        mine = np.zeros(0, np.int64), np.zeros(0, np.float32)
        if self._domains:
            losses = torch.cat(self._losses).cpu()
            if losses.dtype != torch.float64:
                losses = losses.float()  # numpy has no bfloat16
            mine = torch.cat(self._domains).cpu().numpy(), losses.numpy()
        self._domains, self._losses = [], []
        domains, values = gather_rows(mine, trainer.world_size)
        if not trainer.is_global_zero or not len(domains):
            return
        names = _names(trainer, "predict")
        path = folder / "predictions.csv"
        rows = ((names[m], str(loss)) for m, loss in zip(domains, values, strict=True))
        write_atomically(path, _csv(("domain", "loss"), rows))
        print(f"\nlosses of {len(domains)} samples written to {path}")


def further_columns(
    metrics: Mapping[str, float], stage: str, domains: Sequence[str]
) -> dict[str, list[float | None]]:
    """Metric -> its values of the domains, of `STAGE/METRIC/DOMAIN` -> value; without the loss.

    >>> metrics = {"test/loss/a/b": 2.0, "test/accuracy/a/b": 0.5, "test/accuracy": 0.5}
    >>> further_columns(metrics, "test", ["a/b", "c"])
    {'accuracy': [0.5, None]}
    """
    columns: dict[str, list[float | None]] = {}
    known = set(domains)
    for key in metrics:
        first, _, rest = key.partition("/")
        metric, _, domain = rest.partition("/")
        if metric in columns or metric == "loss":
            continue
        if first == stage and domain in known:
            columns[metric] = [metrics.get(f"{stage}/{metric}/{name}") for name in domains]
    return columns


def evaluation_rows(
    losses: Mapping[str, float], more: Mapping[str, Sequence[float | None]] | None = None
) -> list[Row]:
    """The table of domain -> loss, with its two averages below; `more` are further columns.

    >>> [row.perplexity for row in evaluation_rows({"code": 0.0, "books": 2.0})[-2:]]
    [4.194528049465325, 2.718281828459045]
    """
    values = np.array(list(losses.values()), np.float64)
    with np.errstate(over="ignore"):  # inf is the honest answer
        perplexities = np.exp(values)
        geometric = float(np.exp(values.mean()))
    columns = [list(column) for column in (more or {}).values()]
    rest = list(zip(*columns, strict=True)) or [()] * len(losses)
    rows = [Row(*row) for row in zip(losses, values, perplexities, rest, strict=True)]
    means = tuple(_mean(column) for column in columns)
    rows.append(Row("mean", float(values.mean()), float(perplexities.mean()), means))
    rows.append(Row("exp(mean loss)", None, geometric, (None,) * len(columns)))
    return rows


def _mean(column: Sequence[float | None]) -> float | None:
    known = [value for value in column if value is not None]
    return float(np.mean(known)) if known else None


def format_table(rows: Sequence[Row], more: Sequence[str] = ()) -> str:
    """Aligned plain text, which a pipe takes as well as a terminal does.

    >>> print(format_table([Row("code", 0.5, 1.64872), Row("exp(mean loss)", None, 1.64872)]))
    domain            loss  perplexity
    code            0.5000       1.649
    exp(mean loss)               1.649
    """

    def cell(value: float | None, form: str = ".4f") -> str:
        return "" if value is None else format(value, form)

    cells = [("domain", "loss", "perplexity", *more)]
    for row in rows:
        rest = map(cell, row.more)
        cells.append((row.name, cell(row.loss), cell(row.perplexity, ".4g"), *rest))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for name, *texts in cells:
        padded = (f"{text:>{width}}" for text, width in zip(texts, widths[1:], strict=True))
        lines.append("  ".join((f"{name:{widths[0]}}", *padded)).rstrip())
    return "\n".join(lines)


def gather_rows(mine: tuple[np.ndarray, ...], world_size: int) -> tuple[np.ndarray, ...]:
    """Puts together the rows of all ranks, of which rank r has every world-th from the r-th.

    Args:
        mine: columns of this rank's rows; every rank must call this together.
        world_size: number of ranks.
    """
    if world_size == 1:
        return mine
    parts: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(parts, mine)
    return tuple(interleave(column) for column in zip(*parts, strict=True))


def interleave(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The array of which part r is `array[r::len(parts)]`.

    >>> interleave([np.array([0, 2, 4]), np.array([1, 3])]).tolist()
    [0, 1, 2, 3, 4]
    """
    whole = np.empty(sum(map(len, parts)), parts[0].dtype)
    for rank, part in enumerate(parts):
        whole[rank :: len(parts)] = part
    return whole


def _short(value: float | None) -> float | None:
    """Without the digits that a metric of single precision has by chance."""
    return None if value is None else float(f"{value:.7g}")


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def _folder(trainer: Trainer) -> Path:
    """Where the run's files are; every rank must ask."""
    return Path(trainer.log_dir or trainer.default_root_dir)


def _names(trainer: Trainer, stage: str) -> tuple[str, ...]:
    return tuple(trainer.datamodule.domain_names(stage))  # type: ignore[attr-defined]
