"""Running the cells of comparisons, as many at a time as are allowed."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from tandem_pl.errors import InputError
from tandem_pl.yaml_files import parse_yaml

from .cells import Cell, build_cells, dump
from .config import Comparison
from .entries import Entry
from .executors import Executor, open_executor
from .jobs import Job
from .locks import lock_folder

POLL_SECONDS = 0.2


class Study(NamedTuple):
    """A comparison with all its cells, and where they run."""

    comparison: Comparison
    cells: list[Cell]
    executor: Executor

    def start(self, cell: Cell) -> Job:
        """Start a cell."""
        return Job(cell, self.comparison.threads, self.executor)


def run_cells(studies: Sequence[Study], pending: Sequence[tuple[Study, Cell]]) -> None:
    """Run the pending cells of all studies, with a bar over all cells.

    Seeds are run one after the other, at most `workers` cells at a time, the fewest that a study
    asks for. A cell that fails leaves `failed.txt`, and cells that need it are not run; the others
    are. On Ctrl-C or SIGTERM the running cells are stopped.
    """
    waiting = sorted(pending, key=lambda pair: pair[1].seed)
    left = {cell.folder for _, cell in pending}
    total = sum(len(study.cells) for study in studies)
    workers = min(study.comparison.workers for study in studies)
    failed = set[Path]()
    running: list[Job] = []
    with tqdm(total=total, initial=total - len(left), unit="cell") as bar:
        try:
            while waiting or running:
                for pair in list(waiting):
                    study, cell = pair
                    needs = {study.comparison.folder / name for name in cell.needs}
                    if failed & needs:
                        waiting.remove(pair)
                        failed.add(cell.folder)
                        bar.update()
                    elif len(running) < workers and not left & needs:
                        waiting.remove(pair)
                        running.append(study.start(cell))
                        _show(bar, running)
                time.sleep(POLL_SECONDS)
                for job in [job for job in running if job.poll()]:
                    running.remove(job)
                    if job.failure is None:
                        left.discard(job.cell.folder)
                    else:
                        failed.add(job.cell.folder)
                        bar.write(f"{job.cell.name} failed: {job.failure}", file=sys.stderr)
                    bar.update()
                    _show(bar, running)
        finally:
            for job in running:
                job.end()


def _show(bar: tqdm, running: Sequence[Job]) -> None:
    bar.set_postfix_str(", ".join(job.cell.name for job in running))


@contextlib.contextmanager
def open_studies(comparisons: Sequence[Comparison]) -> Iterator[list[Study]]:
    """Lock the folder of each comparison, and open the executors that they ask for.

    Raises:
        InputError: a folder is locked, or an executor cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        cells = [build_cells(comparison) for comparison in comparisons]
        locks = [stack.enter_context(lock_folder(comparison.folder)) for comparison in comparisons]
        executors: dict[bool, Executor] = {}
        workers = min(comparison.workers for comparison in comparisons)
        for one in comparisons:
            if one.on_cpu not in executors:
                opened = open_executor(one.executor, workers, one.on_cpu, one.devices, locks)
                executors[one.on_cpu] = stack.enter_context(opened)
        yield [
            Study(comparison, own, executors[comparison.on_cpu])
            for comparison, own in zip(comparisons, cells, strict=True)
        ]


def try_out(study: Study, rows: bool) -> None:
    """Run one step and one test batch, to check the base and build the data's cache.

    Args:
        study: to try.
        rows: whether to try the rows too whose weights depend on the data's target.

    Raises:
        InputError: a run failed; the message says why.
    """
    comparison = study.comparison
    labels = [entry.label for entry in comparison.entries if rows and of_target(entry)]
    for label in dict.fromkeys([comparison.baseline, *labels]):
        what = "the base configuration" if label == comparison.baseline else f"methods.{label}"
        _try(study, f"{label}/seed-{comparison.seeds[0]}/", what)


def of_target(entry: Entry) -> bool:
    """Return whether a row's weights are the target's shares of the training domains."""
    return str(entry.settings.get("weights")).split(":")[-1] == "target"


def _try(study: Study, name: str, what: str) -> None:
    comparison = study.comparison
    cell = next(cell for cell in study.cells if cell.name.startswith(name))
    folder = comparison.folder / ".try"
    shutil.rmtree(folder, ignore_errors=True)
    config = parse_yaml(dump(cell.config))
    config["trainer"] |= {"max_steps": 1, "limit_test_batches": 1}
    config["trainer"]["callbacks"][-1]["init_args"]["every_n_train_steps"] = 1
    config["trainer"]["logger"]["init_args"]["save_dir"] = str(folder)
    trial = cell._replace(folder=folder, config=config)
    job = study.start(trial)
    try:
        while not job.poll():
            time.sleep(POLL_SECONDS)
        if job.failure is not None:
            text = (folder / "log.txt").read_text(errors="replace")
            if "tandem: error:" not in text:
                print(text, file=sys.stderr)
            raise InputError(f"{what} cannot be run: {job.failure}")
    finally:
        job.end()
        shutil.rmtree(folder, ignore_errors=True)
