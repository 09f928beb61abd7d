"""What a search prints: how well the laws do, what is expected, and the weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tandem_pl.files import csv_bytes
from tandem_pl.text_tables import text_table

from .fitting import Law
from .proposal import Proposal

FIT_COLUMNS = ("spearman", "error", "regret", "random regret")


def fit_rows(laws: Mapping[str, Law]) -> tuple[list[str], list[list[float]]]:
    """Return the header and a row of numbers for each law; sizes that were left out come last."""
    sizes = sorted({size for law in laws.values() for size in law.validation.by_size})
    rows = []
    for law in laws.values():
        found = law.validation
        row = [found.spearman, found.error, found.regret, found.random_regret]
        rows.append([*row, *(found.by_size.get(size, np.nan) for size in sizes)])
    return [*FIT_COLUMNS, *(f"without size {size:g}" for size in sizes)], rows


def fit_table(laws: Mapping[str, Law]) -> str:
    """Return results on held-out runs, a line for each metric."""
    header, rows = fit_rows(laws)
    cells = [[name, *map(_short, row)] for name, row in zip(laws, rows, strict=True)]
    return text_table(["metric", *header], cells)


def fit_csv(laws: Mapping[str, Law]) -> bytes:
    """Return the same with all digits."""
    header, rows = fit_rows(laws)
    return csv_bytes(
        ["metric", "law", *header],
        ([name, law.name, *row] for (name, law), row in zip(laws.items(), rows, strict=True)),
    )


def metric_table(proposal: Proposal) -> str:
    """Return what is expected of each metric; gains are positive if the metric gets better."""
    rows = []
    for name, one in proposal.metrics.items():
        sign = -1.0 if proposal.metric_weights[name] < 0 else 1.0
        gain = sign * (one.reference - one.predicted)
        rows.append([name, *map(_short, (one.reference, one.predicted, gain, one.error))])
    if len(rows) > 1:
        total = (proposal.predicted_reference, proposal.predicted, proposal.gain, proposal.error)
        rows.append(["weighted sum", *map(_short, total)])
    return text_table(["metric", "at reference", "at proposal", "gain", "error"], rows)


def weight_table(proposal: Proposal, epochs: Mapping[str, float] | None = None) -> str:
    """Return the weights; `epochs` is domain -> passes of a run with all its tokens on it."""
    header = ["domain", "prior", "proposal"] + (["epochs"] if epochs else [])
    rows = []
    for name, share in proposal.expand(proposal.weights).items():
        cells = [name, f"{proposal.expand(proposal.prior)[name]:.4f}", f"{share:.4f}"]
        rows.append(cells + ([f"{share * epochs[name]:.2f}"] if epochs else []))
    return text_table(header, rows)


def _short(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.6g}"
