"""Running a swarm: its mixtures, its cells in processes of their own, and its table."""

from __future__ import annotations

import csv
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tandem_pl.compare.cells import FAILED
from tandem_pl.compare.executors import Executor
from tandem_pl.compare.jobs import FolderJob
from tandem_pl.compare.locks import in_use, lock_cell
from tandem_pl.compare.numbered import spans
from tandem_pl.compare.pending import first_difference
from tandem_pl.data_weights import resolve_data_weights
from tandem_pl.errors import InputError
from tandem_pl.files import csv_bytes, write_atomically
from tandem_pl.yaml_files import dump_yaml, parse_yaml, read_yaml

from .bayesian import choose_next
from .mixtures import draw_mixtures
from .proxies import Build, Weights, check_target, train_proxies
from .rows import (
    DONE,
    Row,
    check_results,
    failed_row,
    forget_failures,
    read_rows,
    write_row,
    write_shared,
    write_table,
)
from .settings import WORK, Swarm

SETTINGS, MIXTURES, NOTE = "swarm.yaml", "mixtures.csv", "note.txt"
COMMAND = (sys.executable, "-m", "tandem_pl", "search", "run")
POLL_SECONDS = 0.2
LOCK_SECONDS = 10.0  # that data workers of a killed process may still hold its lock
POOL = 2000  # mixtures that the next ones are chosen from


def prepare(swarm: Swarm, build: Build) -> list[Weights]:
    """Return the mixtures that are known; write them, and the settings, to the swarm's folder.

    The first mixtures of a larger swarm are those of a smaller one, so that `proxies` may grow.

    Raises:
        InputError: the folder holds rows of other settings, or the data have no target.
    """
    path = swarm.folder / SETTINGS
    rows = parse_yaml(dump_yaml(swarm.rows))
    if path.exists():
        content = read_yaml(path)
        key = first_difference({key: content.get(key) for key in rows}, rows)
        if key is not None:
            raise InputError(
                f"{swarm.folder} holds rows of other settings ({key}): give another --folder."
            )
    known = _read_mixtures(swarm.folder / MIXTURES)
    if len(known) < swarm.drawn:
        prior = read_prior(swarm, build)
        drawn = draw_mixtures(list(prior.values()), swarm.drawn, **swarm.draw)
        old = np.array([list(weights.values()) for weights in known]).reshape(-1, len(prior))
        if not np.allclose(old, drawn[: len(old)], rtol=0, atol=1e-9):
            raise InputError(
                f"{swarm.folder / MIXTURES} has other mixtures than are drawn now, from another "
                "prior or with more at the start: give another --folder."
            )
        known = [dict(zip(prior, row, strict=True)) for row in drawn.tolist()]
        _write_mixtures(swarm, known)
    work = {key: getattr(swarm, key) for key in WORK} | {"folder": str(swarm.folder)}
    work["devices"] = None if swarm.devices is None else list(swarm.devices)
    write_shared(path, dump_yaml(rows | work).encode())
    return known[: swarm.proxies]


def read_prior(swarm: Swarm, build: Build) -> Weights:
    """Return domain -> share of the prior, in the order of the data.

    Raises:
        InputError: the data have no target, or the prior other domains.
    """
    data = build(swarm.config()).data
    check_target(data)
    return resolve_data_weights(swarm.prior, data, "prior", data.pools.budget).weights


def choose_more(swarm: Swarm, known: Sequence[Weights], prior: Weights) -> list[Weights]:
    """Return the known mixtures and those to train on next, a stack for each worker.

    They are chosen by Bayesian optimisation of `metric/loss` from `POOL` more draws of the swarm.

    Raises:
        InputError: botorch is not installed, or fewer than two runs ended well.
    """
    done = [(n, row) for n, row in read_rows(swarm.folder).items() if row["status"] == DONE]
    check_results(len(done), len(known), swarm.folder)
    pool = draw_mixtures(list(prior.values()), swarm.drawn + POOL, **swarm.draw)[swarm.drawn :]
    old = np.array([list(weights.values()) for weights in known])
    pool = pool[[not np.isclose(old, row, atol=1e-9).all(axis=1).any() for row in pool]]
    count = min(swarm.stack * swarm.workers, swarm.proxies - len(known))
    values = [float(row["metric/loss"]) for _, row in done]
    chosen = choose_next(old[[n for n, _ in done]], values, pool, count, len(known))
    more = [dict(zip(prior, row, strict=True)) for row in pool[chosen].tolist()]
    _write_mixtures(swarm, [*known, *more])
    return [*known, *more]


def run_cell(
    swarm: Swarm, cell: int, mixtures: Sequence[Weights], build: Build, retry: bool = False
) -> None:
    """Train the proxies of a cell that have no row yet, and add their rows to the table.

    Args:
        swarm: its settings.
        cell: its number.
        mixtures: those that are known; others are chosen later.
        build: of a configuration.
        retry: run failed proxies again.

    Raises:
        InputError: there is no such cell, it runs elsewhere, or no proxy can be trained.
    """
    if not 0 <= cell < swarm.cells:
        raise InputError(f"--cell {cell}: there are the cells 0 to {swarm.cells - 1}.")
    numbers = swarm.numbers(cell)
    known = [number for number in numbers if number < len(mixtures)]
    if not known:
        raise InputError(
            f"cell {cell} has no mixtures yet, which the results of the others decide: run the "
            "same command without --cell."
        )
    with lock_cell(cell_folder(swarm, cell) / ".lock", f"cell {cell}", LOCK_SECONDS):
        if retry:
            forget_failures(swarm.folder, numbers)
        rows = read_rows(swarm.folder)
        left = {number: mixtures[number] for number in known if number not in rows}
        if not left:
            print(f"cell {cell} is done")
            return
        note = cell_folder(swarm, cell) / NOTE
        note.unlink(missing_ok=True)

        def tell(text: str) -> None:
            print(text, flush=True)
            write_atomically(note, f"{text}\n".encode())

        for row in train_proxies(swarm, left, build, tell):
            write_row(swarm.folder, row)
            print(f"proxy {row['run']}: {row.get('reason') or row['metric/loss']}", flush=True)
        write_table(swarm.folder)


def cell_folder(swarm: Swarm, cell: int) -> Path:
    """Return the folder of a cell's log and lock."""
    return swarm.folder / "cells" / f"{cell:05}"


def cell_command(swarm: Swarm, cell: int) -> list[str]:
    """Return the arguments of `tandem search run` for a cell."""
    return [str(swarm.folder / SETTINGS), "--cell", str(cell)]


def cell_lines(swarm: Swarm, mixtures: Sequence[Weights]) -> list[str]:
    """Return a command for each cell that is not done, for a queue, after their numbers."""
    waiting = waiting_cells(swarm, mixtures)
    if not waiting:
        return [f"# all {swarm.cells} cells are done"]
    commands = (shlex.join(cell_command(swarm, cell)) for cell in waiting)
    lines = [f"tandem search run {command}" for command in commands]
    return [f"# --array={spans(waiting)}", *lines]


def waiting_cells(swarm: Swarm, mixtures: Sequence[Weights]) -> list[int]:
    """Return the cells of the proxies that have a mixture and no row yet."""
    rows = read_rows(swarm.folder)
    left = [number for number in range(len(mixtures)) if number not in rows]
    return sorted({number // swarm.stack for number in left})


class CellJob(FolderJob):
    """The process of a cell; proxies whose process fails are marked in the table."""

    def __init__(self, swarm: Swarm, cell: int, executor: Executor) -> None:
        self.cell = cell
        command = [*COMMAND, *cell_command(swarm, cell)]
        super().__init__(cell_folder(swarm, cell), command, swarm.threads, executor)

    def prepare(self) -> None:
        """Delete what an earlier process has said."""
        for name in (FAILED, NOTE):
            (self.folder / name).unlink(missing_ok=True)

    def note(self) -> str:
        """Return what its process says of how it trains the proxies, if anything."""
        path = self.folder / NOTE
        return path.read_text("utf-8", "replace").strip() if path.exists() else ""


def run_swarm(swarm: Swarm, mixtures: Sequence[Weights], executor: Executor) -> dict[int, Row]:
    """Run the cells of the proxies that have a mixture and no row yet, and return all rows.

    At most `workers` cells run at a time. Every such proxy has a row at the end, unless a queue
    runs it at the moment; on Ctrl-C or SIGTERM the running cells are stopped, and the same call
    continues.
    """
    waiting = waiting_cells(swarm, mixtures)
    running: list[CellJob] = []
    told = {""}
    with tqdm(total=len(mixtures), initial=len(read_rows(swarm.folder)), unit="proxy") as bar:
        try:
            while waiting or running:
                while waiting and len(running) < swarm.workers:
                    running.append(CellJob(swarm, waiting.pop(0), executor))
                time.sleep(POLL_SECONDS)
                ended = [job for job in running if job.poll()]
                for note in sorted({job.note() for job in running} - told):
                    bar.write(note, file=sys.stderr)
                    told.add(note)
                for job in ended:
                    running.remove(job)
                    if job.failure is not None:
                        bar.write(f"cell {job.cell} failed: {job.failure}", file=sys.stderr)
                        if job.failure != in_use(f"cell {job.cell}"):
                            _mark(swarm, job, mixtures)
                if new := len(read_rows(swarm.folder)) - bar.n:
                    bar.update(new)
        finally:
            for job in running:
                job.end()
    return write_table(swarm.folder)


def report(swarm: Swarm, rows: dict[int, Row]) -> str:
    """Return what a swarm says at its end: how many rows, the best one, and how to go on."""
    done = [row for row in rows.values() if row["status"] == DONE]
    table = swarm.folder / "runs.csv"
    lines = [f"{len(done)} of {swarm.proxies} proxies are done; the table is {table}"]
    if len(done) < len(rows):
        lines.append(f"{len(rows) - len(done)} failed; try them again with --retry")
    if done:
        best = min(done, key=lambda row: float(row["metric/loss"]))
        lines += [
            f"least loss {float(best['metric/loss']):.4f}, of run {best['run']}",
            f"next: tandem search fit {table} --metric metric/loss",
        ]
    return "\n".join(lines)


def _mark(swarm: Swarm, job: CellJob, mixtures: Sequence[Weights]) -> None:
    rows = read_rows(swarm.folder)
    for number in swarm.numbers(job.cell):
        if number not in rows and number < len(mixtures):
            write_row(swarm.folder, failed_row(number, mixtures[number], str(job.failure)))


def _write_mixtures(swarm: Swarm, known: Sequence[Weights]) -> None:
    table = csv_bytes(list(known[0]), [weights.values() for weights in known])
    write_shared(swarm.folder / MIXTURES, table)


def _read_mixtures(path: Path) -> list[Weights]:
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [{name: float(w) for name, w in row.items()} for row in csv.DictReader(file)]
