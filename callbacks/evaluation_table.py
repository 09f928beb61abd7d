"""`EvaluationTable`: losses and perplexities by domain, printed and kept as CSV."""

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


class EvaluationTable(Callback):
    """Shows what `trainer.test`, `validate` and `predict` found, domain by domain.

    After `test` (and `validate`) rank zero prints, and writes to `test.csv` (`validation.csv`) in
    the trainer's log folder, loss and perplexity exp(loss) of each domain, and two averages that
    weigh domains equally:

    - "mean": the mean loss, and the mean of perplexities, which the worst domains dominate;
    - "exp(mean loss)": the perplexity of the mean loss, their geometric mean.

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
        rows = evaluation_rows(found)
        path = folder / f"{PREFIX[verb]}.csv"
        write_atomically(path, _csv(("domain", "loss", "perplexity"), rows))
        print(f"\n{format_table(rows)}\nwritten to {path}")

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


def evaluation_rows(losses: Mapping[str, float]) -> list[Row]:
    """The table of domain -> loss, with its two averages below.

    >>> [row.perplexity for row in evaluation_rows({"code": 0.0, "books": 2.0})[-2:]]
    [4.194528049465325, 2.718281828459045]
    """
    values = np.array(list(losses.values()), np.float64)
    with np.errstate(over="ignore"):  # inf is the honest answer
        perplexities = np.exp(values)
        geometric = float(np.exp(values.mean()))
    rows = [Row(name, *pair) for name, *pair in zip(losses, values, perplexities, strict=True)]
    rows.append(Row("mean", float(values.mean()), float(perplexities.mean())))
    rows.append(Row("exp(mean loss)", None, geometric))
    return rows


def format_table(rows: Sequence[Row]) -> str:
    """Aligned plain text, which a pipe takes as well as a terminal does.

    >>> print(format_table([Row("code", 0.5, 1.64872), Row("exp(mean loss)", None, 1.64872)]))
    domain            loss  perplexity
    code            0.5000       1.649
    exp(mean loss)               1.649
    """
    cells = [("domain", "loss", "perplexity")]
    for name, loss, perplexity in rows:
        cells.append((name, "" if loss is None else f"{loss:.4f}", f"{perplexity:.4g}"))
    widths = [max(len(row[column]) for row in cells) for column in range(3)]
    return "\n".join(
        f"{name:{widths[0]}}  {loss:>{widths[1]}}  {perplexity:>{widths[2]}}"
        for name, loss, perplexity in cells
    )


def gather_rows(
    mine: tuple[np.ndarray, np.ndarray], world_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Puts together the rows of all ranks, of which rank r has every world-th from the r-th."""
    if world_size == 1:
        return mine
    parts: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(parts, mine)
    return interleave([part[0] for part in parts]), interleave([part[1] for part in parts])


def interleave(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The array of which part r is `array[r::len(parts)]`.

    >>> interleave([np.array([0, 2, 4]), np.array([1, 3])]).tolist()
    [0, 1, 2, 3, 4]
    """
    whole = np.empty(sum(map(len, parts)), parts[0].dtype)
    for rank, part in enumerate(parts):
        whole[rank :: len(parts)] = part
    return whole


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
