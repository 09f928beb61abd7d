"""The files of a run: mixture.yaml, mixture.png, trajectory.csv and the signal of its method."""

from __future__ import annotations

import csv
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

import tandem_pl

from .curves import MOST_CURVES
from .errors import InputError
from .files import csv_bytes, png_bytes, write_atomically
from .mixture import Mixture
from .plots import MOST_DOMAINS, draw_mixture
from .simplex import Array
from .text_tables import text_table

LISTING, PAGE = "clusters.csv", "clusters.html"  # of a corpus, from `tandem prepare --cluster`


def versions() -> dict[str, str]:
    """Return the versions that decide a run's numbers, for `mixture.yaml`."""
    return {
        "tandem_pl": tandem_pl.__version__,
        "torch": version("torch"),
        "lightning": version("lightning"),
        "python": platform.python_version(),
    }


class Signal(NamedTuple):
    """What a method measured for each domain before each of its updates.

    In a long run with many domains, a row is the mean over the updates since the row before. An
    update that was skipped has no row.
    """

    name: str  # of the file, without its suffix
    columns: tuple[str, ...]  # [C] names of the numbers
    steps: Sequence[int]  # [T] global steps of the updates
    values: Array  # [T, C, M] float64


def write_run_files(
    folder: Path,
    mixture: Mixture,
    steps: Sequence[int],
    trajectory: Sequence[Array] | None,
    signal: Signal | None = None,
) -> None:
    """Write the files of a run, each atomically.

    Args:
        folder: folder of the run.
        mixture: the result so far.
        steps: [T] global step of each row of the trajectory.
        trajectory: [T, M] weights; None if the files on disk are up to date, except mixture.yaml.
        signal: for `NAME.csv`; None for a method without one.
    """
    mixture.save(folder / "mixture.yaml")
    if trajectory is None:
        return
    rows = np.stack(trajectory)
    write_trajectory(folder / "trajectory.csv", mixture.domains, steps, rows)
    if signal is not None:
        write_signal(folder / f"{signal.name}.csv", mixture.domains, signal)
    picture = png_bytes(draw_mixture(mixture.domains, steps, rows, mixture.average_array))
    write_atomically(folder / "mixture.png", picture)


def mixture_table(mixture: Mixture, start: Array) -> str:
    """Return a table of each domain's first, average and last weight.

    It has columns for epochs, and for whether the move is significant, if these are known.

    If there are more than 30 domains, it shows the 20 with the largest averages. If the run drew
    from pools (`final_samples`), epochs are passes over them, and it shows their sizes.

    >>> print(mixture_table(Mixture({"code": 3, "books": 1}), np.array([0.5, 0.5])))
    domain   start  average     last  epochs
    code    0.5000   0.7500   0.7500
    books   0.5000   0.2500   0.2500
    """
    size, shown = len(mixture), list(range(len(mixture)))
    if size > MOST_CURVES:
        shown = np.argsort(-mixture.average_array, kind="stable")[:MOST_DOMAINS].tolist()
    weights = start, mixture.average_array, mixture.array
    epochs = {name: f"{value:.1f}" for name, value in mixture.about.get("epochs", {}).items()}
    data, beyond = mixture.about.get("data") or {}, mixture.about.get("significant", {})
    pool, header = data.get("pool") or {}, ["domain", "start", "average", "   last", "epochs"]
    header += ["pool"] * bool(pool) + ["significant"] * bool(beyond)
    rows = []
    for m in shown:
        name = mixture.domains[m]
        row = [name, *(f"{column[m]:.4f}" for column in weights), epochs.get(name, "")]
        row += [f"{pool[name]} of {data['samples'][name]}"] if pool else []
        rows.append(row + (["yes" if beyond[name] else "no"] if beyond else []))
    table = text_table(header, rows)
    if len(shown) < size:
        rest = 1.0 - mixture.average_array[shown].sum()
        table += f"\n... {size - len(shown)} more in mixture.yaml, with {rest:.4f} on average"
    return table


def write_trajectory(
    path: Path, domains: Sequence[str], steps: Sequence[int], trajectory: Array
) -> None:
    """Write a CSV file with a column `step` and a column for each domain."""
    rows = ([step, *row] for step, row in zip(steps, trajectory.tolist(), strict=True))
    write_atomically(path, csv_bytes(["step", *domains], rows))


def read_trajectory(path: Path) -> tuple[list[str], list[int], Array]:
    """Return the domains [M], steps [T] and weights [T, M] of a `trajectory.csv`.

    Raises:
        InputError: the file is missing or has another format.
    """
    try:
        header, *rows = _read_csv(path)
        steps = [int(row[0]) for row in rows]
        weights = np.array([[float(value) for value in row[1:]] for row in rows])
    except (OSError, ValueError, IndexError) as error:
        raise InputError(f"{path} is not a trajectory.csv of a run: {error}.") from None
    if header[:1] != ["step"] or not rows or weights.shape[1:] != (len(header) - 1,):
        raise InputError(f"{path} is not a trajectory.csv of a run: it needs a header 'step,...'.")
    return header[1:], steps, weights


def write_signal(path: Path, domains: Sequence[str], signal: Signal) -> None:
    """Write a CSV file with a row `step, domain, *columns` for each update and domain."""
    rows = (
        [step, name, *row]
        for step, values in zip(signal.steps, signal.values, strict=True)
        for name, row in zip(domains, values.T.tolist(), strict=True)
    )
    write_atomically(path, csv_bytes(["step", "domain", *signal.columns], rows))


def read_signal(path: Path) -> tuple[list[str], Signal]:
    """Return the domains [M] and the signal of a file that `write_signal` wrote.

    Raises:
        InputError: the file is missing or has another format.
    """
    try:
        header, *rows = _read_csv(path)
        domains = list(dict.fromkeys(row[1] for row in rows))
        size = max(len(domains), 1)
        names = [row[1] for row in rows]
        if header[:2] != ["step", "domain"] or names != domains * (len(rows) // size):
            raise ValueError("it needs a header 'step,domain,...' and all domains at each step")
        numbers = np.array([[float(value) for value in row[2:]] for row in rows])
        values = numbers.reshape(-1, len(domains), len(header) - 2) if rows else np.zeros((0, 0, 0))
        steps = [int(row[0]) for row in rows[::size]]
    except (OSError, ValueError, IndexError) as error:
        raise InputError(f"{path} is not a signal of a run: {error}.") from None
    return domains, Signal(path.stem, tuple(header[2:]), steps, values.transpose(0, 2, 1))


def _read_csv(path: Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def folder_of_clusters(mixture: Mixture) -> Path | None:
    """Return the folder of the clusters that a mixture's domains are; None if there are none.

    It is in a cache, or is that of a prepared corpus, and has the files `LISTING` and `PAGE`.
    """
    record = mixture.about.get("data")
    known = record if isinstance(record, dict) else {}
    folders = [Path(str(known[key])) for key in ("clusters", "folder") if known.get(key)]
    return next((folder for folder in folders if (folder / LISTING).is_file()), None)
