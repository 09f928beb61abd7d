"""The files of a run: mixture.yaml, mixture.png, trajectory.csv and what a method measured.

Each is written beside its place and renamed.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .curves import MOST_CURVES
from .errors import InputError
from .files import write_atomically
from .mixture import Mixture
from .plots import MOST_DOMAINS, draw_mixture
from .simplex import Array


class Signal(NamedTuple):
    """What a method measured before each of its updates, domain by domain.

    `name` is that of the file, `columns` [C] name the numbers, `steps` [T] are the global steps
    of the updates and `values` is [T, C, M] float64. An update that was skipped has no row. In a
    long run of many domains a row is the mean over the updates since the row before.
    """

    name: str
    columns: tuple[str, ...]
    steps: Sequence[int]
    values: Array


def write_run_files(
    folder: Path,
    mixture: Mixture,
    steps: Sequence[int],
    trajectory: Sequence[Array] | None,
    signal: Signal | None = None,
) -> None:
    """Writes the files of a run.

    Args:
        folder: where.
        mixture: the result so far.
        steps: [T] global step of each row of the trajectory.
        trajectory: [T, M] weights; None where they are written, and the signal with them.
        signal: for `NAME.csv`; None for a method without one.
    """
    mixture.save(folder / "mixture.yaml")
    if trajectory is None:
        return
    rows = np.stack(trajectory)
    write_trajectory(folder / "trajectory.csv", mixture.domains, steps, rows)
    if signal is not None:
        write_signal(folder / f"{signal.name}.csv", mixture.domains, signal)
    picture = io.BytesIO()
    draw_mixture(mixture.domains, steps, rows).savefig(picture, format="png")
    write_atomically(folder / "mixture.png", picture.getvalue())


def mixture_table(mixture: Mixture, start: Array) -> str:
    """The result as a person reads it: each domain's first, average and last weight, and epochs.

    Of more than 30 domains, the 20 with the largest averages.

    >>> print(mixture_table(Mixture({"code": 3, "books": 1}), np.array([0.5, 0.5])))
    domain   start  average     last  epochs
    code    0.5000   0.7500   0.7500
    books   0.5000   0.2500   0.2500
    """
    size, shown = len(mixture), list(range(len(mixture)))
    if size > MOST_CURVES:
        shown = np.argsort(-mixture.average_array, kind="stable")[:MOST_DOMAINS].tolist()
    width = max(len("domain"), *(len(mixture.domains[m]) for m in shown))
    lines = [f"{'domain':{width}}   start  average     last  epochs"]
    epochs = mixture.about.get("epochs", {})
    for m in shown:
        name = mixture.domains[m]
        passes = f"{epochs[name]:8.1f}" if name in epochs else ""
        average, last = mixture.average_array[m], mixture.array[m]
        lines.append(f"{name:{width}}  {start[m]:.4f}   {average:.4f}   {last:.4f}{passes}")
    if len(shown) < size:
        rest = 1.0 - mixture.average_array[shown].sum()
        lines.append(f"... {size - len(shown)} more in mixture.yaml, with {rest:.4f} on average")
    return "\n".join(lines)


def write_trajectory(
    path: Path, domains: Sequence[str], steps: Sequence[int], trajectory: Array
) -> None:
    """CSV: a column `step` and one for each domain; numbers read back bit for bit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", *domains])
    writer.writerows([step, *row] for step, row in zip(steps, trajectory.tolist(), strict=True))
    write_atomically(path, text.getvalue().encode())


def read_trajectory(path: Path) -> tuple[list[str], list[int], Array]:
    """Domains [M], steps [T] and weights [T, M] of a `trajectory.csv`.

    Raises:
        InputError: where it is missing or not such a file.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file))
        steps = [int(row[0]) for row in rows]
        weights = np.array([[float(value) for value in row[1:]] for row in rows])
    except (OSError, ValueError, IndexError) as error:
        raise InputError(f"{path} is not a trajectory.csv of a run: {error}.") from None
    if header[:1] != ["step"] or not rows or weights.shape[1:] != (len(header) - 1,):
        raise InputError(f"{path} is not a trajectory.csv of a run: it needs a header 'step,...'.")
    return header[1:], steps, weights


def write_signal(path: Path, domains: Sequence[str], signal: Signal) -> None:
    """CSV in long form: a row `step, domain, *columns` for each update and domain, bit for bit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", "domain", *signal.columns])
    for step, values in zip(signal.steps, signal.values, strict=True):
        rows = zip(domains, values.T.tolist(), strict=True)
        writer.writerows([step, name, *row] for name, row in rows)
    write_atomically(path, text.getvalue().encode())


def read_signal(path: Path) -> tuple[list[str], Signal]:
    """Domains [M] and the signal of a file that `write_signal` wrote.

    Raises:
        InputError: where it is missing or not such a file.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file))
        domains = list(dict.fromkeys(row[1] for row in rows))
        if header[:2] != ["step", "domain"] or [row[1] for row in rows] != domains * (
            len(rows) // max(len(domains), 1)
        ):
            raise ValueError("it needs a header 'step,domain,...' and all domains at each step")
        numbers = np.array([[float(value) for value in row[2:]] for row in rows])
        values = numbers.reshape(-1, len(domains), len(header) - 2) if rows else np.zeros((0, 0, 0))
        steps = [int(row[0]) for row in rows[:: max(len(domains), 1)]]
    except (OSError, ValueError, IndexError) as error:
        raise InputError(f"{path} is not a signal of a run: {error}.") from None
    return domains, Signal(path.stem, tuple(header[2:]), steps, values.transpose(0, 2, 1))
