"""Running the cells of a comparison in processes of their own; finished cells are kept."""

from __future__ import annotations

import contextlib
import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import yaml
from tqdm import tqdm

from tandem_pl.errors import InputError
from tandem_pl.files import write_atomically
from tandem_pl.yaml_files import parse_yaml, read_yaml

from .cells import FINAL, Cell, dump, write_config
from .config import Comparison

POLL_SECONDS = 0.2
TAIL_LINES = 40  # lines kept of what a failed cell printed


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


def run_cells(
    comparison: Comparison, cells: Sequence[Cell], pending: Sequence[Cell], lock: IO | None
) -> None:
    """Run the pending cells, at most `workers` at a time, with a bar over all cells.

    A cell that fails leaves `failed.txt`, and cells that need it are not run; the others are. On
    Ctrl-C or SIGTERM the running cells are stopped. `lock` comes from `locked`.
    """
    done = {cell.name for cell in cells} - {cell.name for cell in pending}
    waiting, failed = list(pending), set[str]()
    running: list[Job] = []
    devices = list(comparison.devices or [])
    with tqdm(total=len(cells), initial=len(done), unit="cell") as bar:
        try:
            while waiting or running:
                for cell in list(waiting):
                    if failed & set(cell.needs):
                        waiting.remove(cell)
                        failed.add(cell.name)
                        bar.update()
                    elif len(running) < comparison.workers and done.issuperset(cell.needs):
                        waiting.remove(cell)
                        device = devices.pop(0) if devices else None
                        running.append(Job(cell, comparison.threads, device, lock))
                        _show(bar, running)
                time.sleep(POLL_SECONDS)
                for job in [job for job in running if job.poll()]:
                    running.remove(job)
                    if job.device is not None:
                        devices.append(job.device)
                    if job.failure is None:
                        done.add(job.cell.name)
                    else:
                        failed.add(job.cell.name)
                        bar.write(f"{job.cell.name} failed: {job.failure}", file=sys.stderr)
                    bar.update()
                    _show(bar, running)
        finally:
            for job in running:
                job.end()


def _show(bar: tqdm, running: Sequence[Job]) -> None:
    bar.set_postfix_str(", ".join(job.cell.name for job in running))


class Job:
    """A running cell: `tandem fit` and `tandem test` in one process, with output in `log.txt`."""

    command = (sys.executable, "-m", "tandem_pl.cli.compare_worker")

    def __init__(self, cell: Cell, threads: int, device: int | None, lock: IO | None) -> None:
        self.cell = cell
        self.device = device
        self.failure: str | None = None
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = str(device)
        write_config(cell)
        paths = (cell.folder / "cell.yaml", cell.checkpoint, cell.folder / "seconds.txt")
        with open(cell.folder / "log.txt", "wb") as log:
            self._process = subprocess.Popen(
                [*self.command, *map(str, paths)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # so that `end` reaches its data workers
                pass_fds=() if lock is None else (lock.fileno(),),
            )

    def poll(self) -> bool:
        """Return whether the cell has ended, after writing its result or its failure."""
        code = self._process.poll()
        if code is None:
            return False
        if code == 0:
            try:
                write_atomically(self.cell.result, dump(read_result(self.cell)).encode())
                return True
            except (OSError, KeyError, ValueError, TypeError) as error:
                self.failure = f"its results cannot be read: {error}"
        text = (self.cell.folder / "log.txt").read_text(errors="replace")
        self.failure = self.failure or reason_of(text, code)
        tail = "\n".join(text.splitlines()[-TAIL_LINES:])
        write_atomically(self.cell.failure, f"{self.failure}\n\n{tail}\n".encode())
        return True

    def end(self) -> None:
        """Stop the processes that still run."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)
            try:
                self._process.wait(5)
                break
            except subprocess.TimeoutExpired:
                continue


def read_result(cell: Cell) -> dict[str, Any]:
    """Return losses by domain, weights, epochs, settings and seconds of a finished run."""
    with open(cell.run / "test.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["domain"] != "exp(mean loss)"]
    losses = {row["domain"]: float(row["loss"]) for row in rows[:-1]}  # the last is their mean
    mixture = read_yaml(cell.run / "mixture.yaml")
    return {
        "losses": losses,
        "weights": mixture["weights" if cell.stage == FINAL else "average"],
        "epochs": mixture.get("epochs"),
        "settings": mixture["settings"],
        "seconds": float((cell.folder / "seconds.txt").read_text()),
    }


def reason_of(text: str, code: int) -> str:
    r"""Return one line on why a run failed, from what it printed.

    >>> reason_of("...\ntandem: error: floor=2 must be below 1/M.\n", 2)
    'floor=2 must be below 1/M.'
    >>> reason_of("", -9)
    'it was killed by signal 9.'
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in reversed(lines):
        if line.startswith("tandem: error:"):
            return line.removeprefix("tandem: error:").strip()
    if code < 0:
        return f"it was killed by signal {-code}."
    return lines[-1] if lines else f"it ended with code {code}."


def try_out(comparison: Comparison, cell: Cell, lock: IO | None) -> None:
    """Run one step and one test batch of a cell, to check the base and build the data's cache.

    Raises:
        InputError: the run failed; the message says why.
    """
    folder = comparison.folder / ".try"
    shutil.rmtree(folder, ignore_errors=True)
    config = parse_yaml(dump(cell.config))
    config["trainer"] |= {"max_steps": 1, "limit_test_batches": 1}
    config["trainer"]["callbacks"][-1]["init_args"]["every_n_train_steps"] = 1
    config["trainer"]["logger"]["init_args"]["save_dir"] = str(folder)
    trial = cell._replace(folder=folder, config=config)
    device = comparison.devices[0] if comparison.devices else None
    job = Job(trial, comparison.threads, device, lock)
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
