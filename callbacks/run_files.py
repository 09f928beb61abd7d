"""The files of a run: mixture.yaml, mixture.png and trajectory.csv, each renamed into place."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tandem_pl.errors import InputError
from tandem_pl.files import write_atomically
from tandem_pl.mixture import Mixture
from tandem_pl.simplex import Array

from .plots import draw_mixture


def write_run_files(
    folder: Path, mixture: Mixture, steps: Sequence[int], trajectory: Sequence[Array] | None
) -> None:
    """Args: steps [T] global step of each row of trajectory [T, M]; None where it is written."""
    mixture.save(folder / "mixture.yaml")
    if trajectory is None:
        return
    rows = np.stack(trajectory)
    write_trajectory(folder / "trajectory.csv", mixture.domains, steps, rows)
    picture = io.BytesIO()
    draw_mixture(mixture.domains, steps, rows).savefig(picture, format="png")
    write_atomically(folder / "mixture.png", picture.getvalue())


def mixture_table(mixture: Mixture, start: Array) -> str:
    """The result as a person reads it: each domain's first, average and last weight, and epochs.

    >>> print(mixture_table(Mixture({"code": 3, "books": 1}), np.array([0.5, 0.5])))
    domain   start  average     last  epochs
    code    0.5000   0.7500   0.7500
    books   0.5000   0.2500   0.2500
    """
    width = max(len("domain"), *map(len, mixture.domains))
    lines = [f"{'domain':{width}}   start  average     last  epochs"]
    epochs = mixture.about.get("epochs", {})
    for name, first in zip(mixture.domains, start.tolist(), strict=True):
        passes = f"{epochs[name]:8.1f}" if name in epochs else ""
        average, last = mixture.average[name], mixture.weights[name]
        lines.append(f"{name:{width}}  {first:.4f}   {average:.4f}   {last:.4f}{passes}")
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
