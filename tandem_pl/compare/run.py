"""Running the cells of a comparison in processes of their own; finished cells are kept."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import yaml
from tqdm import tqdm

from tandem_pl.errors import InputError
from tandem_pl.yaml_files import parse_yaml, read_yaml

from .cells import Cell, build_cells, dump
from .config import Comparison
from .forks import Forks
from .jobs import WORKER, Job, cell_environment

POLL_SECONDS = 0.2


def pending_cells(cells: Sequence[Cell], overwrite: bool = False) -> list[Cell]:
    """Return the cells to run, and delete their folders.

    These are the cells without a result, and the cells that need one of them.

    Raises:
        InputError: a finished cell had another configuration, unless `overwrite`.
    """
    stale: dict[str, Cell] = {}
    for cell in cells:
        if not cell.result.exists() or any(name in stale for name in cell.needs):
            stale[cell.name] = cell
            continue
        key = first_difference(_read(cell.folder / "cell.yaml"), parse_yaml(dump(cell.config)))
        if key is None:
            continue
        if not overwrite:
            raise InputError(
                f"{cell.folder} holds a result of other settings ({key}): give another --folder, "
                "or --overwrite to run such cells again."
            )
        stale[cell.name] = cell
    for cell in stale.values():
        shutil.rmtree(cell.folder, ignore_errors=True)
    return list(stale.values())


def first_difference(old: Any, new: Any, key: str = "") -> str | None:
    """Return the first key at which two configurations differ, or None.

    >>> first_difference({"a": {"b": 1}}, {"a": {"b": 2}})
    'a.b'
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            path = f"{key}.{name}" if key else str(name)
            found = first_difference(old.get(name), new.get(name), path)
            if found is not None:
                return found
        return None
    return None if old == new else key


class Study(NamedTuple):
    """A comparison with all its cells, the lock on its folder and what starts its processes."""

    comparison: Comparison
    cells: list[Cell]
    lock: IO | None = None
    forks: Forks | None = None

    def start(self, cell: Cell, device: int | None) -> Job:
        """Start a cell."""
        return Job(cell, self.comparison.threads, device, self.lock, self.forks)


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
                        running.append(study.start(cell, _free_device(study, running)))
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


def _free_device(study: Study, running: Sequence[Job]) -> int | None:
    """Return the GPU with the fewest running cells; None without GPUs."""
    devices = study.comparison.devices or ()
    return min(devices, key=[job.device for job in running].count, default=None)


def _show(bar: tqdm, running: Sequence[Job]) -> None:
    bar.set_postfix_str(", ".join(job.cell.name for job in running))


@contextlib.contextmanager
def open_studies(comparisons: Sequence[Comparison]) -> Iterator[list[Study]]:
    """Lock the folder of each comparison, and fork its processes if they use the CPU.

    Raises:
        InputError: a folder is locked.
    """
    with contextlib.ExitStack() as stack:
        cells = [build_cells(comparison) for comparison in comparisons]
        locks = [stack.enter_context(locked(comparison.folder)) for comparison in comparisons]
        numbers = [lock.fileno() for lock in locks if lock is not None]
        forks: dict[int, Forks] = {}
        for comparison in comparisons:
            if _can_fork(comparison) and comparison.threads not in forks:
                started = Forks(cell_environment(comparison.threads), numbers)
                forks[comparison.threads] = stack.enter_context(started)
        yield [
            Study(*parts, forks.get(parts[0].threads) if _can_fork(parts[0]) else None)
            for parts in zip(comparisons, cells, locks, strict=True)
        ]


def _can_fork(comparison: Comparison) -> bool:
    """Return whether cells may be forked: a GPU cannot be used after a fork."""
    on_cpu = comparison.base["trainer"].get("accelerator") == "cpu"
    posix = hasattr(os, "fork") and sys.platform != "darwin"  # whose libraries do not survive it
    return posix and on_cpu and comparison.devices is None and Job.command == WORKER


def try_out(study: Study) -> None:
    """Run one step and one test batch, to check the base and build the data's cache.

    Raises:
        InputError: the run failed; the message says why.
    """
    comparison = study.comparison
    name = f"{comparison.baseline}/seed-{comparison.seeds[0]}/"
    cell = next(cell for cell in study.cells if cell.name.startswith(name))
    folder = comparison.folder / ".try"
    shutil.rmtree(folder, ignore_errors=True)
    config = parse_yaml(dump(cell.config))
    config["trainer"] |= {"max_steps": 1, "limit_test_batches": 1}
    config["trainer"]["callbacks"][-1]["init_args"]["every_n_train_steps"] = 1
    config["trainer"]["logger"]["init_args"]["save_dir"] = str(folder)
    trial = cell._replace(folder=folder, config=config)
    device = comparison.devices[0] if comparison.devices else None
    job = study.start(trial, device)
    try:
        while not job.poll():
            time.sleep(POLL_SECONDS)
        if job.failure is not None:
            text = (folder / "log.txt").read_text(errors="replace")
            if "tandem: error:" not in text:
                print(text, file=sys.stderr)
            raise InputError(f"the base configuration cannot be run: {job.failure}")
    finally:
        job.end()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[IO | None]:
    """Lock `folder` against another comparison; cells keep the lock if this process is killed.

    Raises:
        InputError: the folder is locked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield None
        return
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"folder={str(folder)!r} is in use by another comparison, or by cells of one that "
                "was killed: wait for them to end, or give another folder."
            ) from None
        yield file


def _read(path: Path) -> Any:
    try:
        return read_yaml(path)
    except (OSError, yaml.YAMLError):
        return None
