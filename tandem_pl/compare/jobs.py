"""A running cell: its process, and what is kept of it at its end."""

from __future__ import annotations

import contextlib
import csv
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from tandem_pl.files import write_atomically
from tandem_pl.yaml_files import read_yaml

from .cells import FAILED, FINAL, Cell, dump, write_config
from .forks import Forks, Process

TAIL_LINES = 40  # lines kept of what a failed cell printed
WORKER = (sys.executable, "-m", "tandem_pl.cli.compare_worker")


def cell_environment(threads: int, device: int | None = None) -> dict[str, str]:
    """Return the environment variables of a cell."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    if device is not None:
        environment["CUDA_VISIBLE_DEVICES"] = str(device)
    return environment


def spawn(
    command: Sequence[str], log: Path, environment: Mapping[str, str], lock: IO | None
) -> Process:
    """Start a process with its output in `log`; it keeps `lock` if this process is killed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # so that `end` reaches its data workers
            pass_fds=() if lock is None else (lock.fileno(),),
        )


class FolderJob:
    """A running process whose folder has its output, `log.txt`, and `failed.txt` if it failed.

    Attributes:
        failure: why it failed, one line; None as long as it did not.
    """

    def __init__(self, folder: Path, device: int | None, process: Process) -> None:
        self.folder, self.device, self._process = folder, device, process
        self.failure: str | None = None

    def finish(self) -> None:
        """Keep what a process that ended well has left."""

    def poll(self) -> bool:
        """Return whether the process has ended, after writing its result or its failure."""
        code = self._process.poll()
        if code is None:
            return False
        if code == 0:
            try:
                self.finish()
                return True
            except (OSError, KeyError, ValueError, TypeError) as error:
                self.failure = f"its results cannot be read: {error}"
        text = (self.folder / "log.txt").read_text(errors="replace")
        self.failure = self.failure or reason_of(text, code)
        tail = "\n".join(text.splitlines()[-TAIL_LINES:])
        write_atomically(self.folder / FAILED, f"{self.failure}\n\n{tail}\n".encode())
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


class Job(FolderJob):
    """A running cell: `tandem fit` and `tandem test` in one process."""

    command = WORKER

    def __init__(
        self,
        cell: Cell,
        threads: int,
        device: int | None,
        lock: IO | None,
        forks: Forks | None = None,
    ) -> None:
        self.cell = cell
        write_config(cell)
        paths = (cell.folder / "cell.yaml", cell.checkpoint, cell.folder / "seconds.txt")
        log = cell.folder / "log.txt"
        process = None if forks is None else forks.start(paths, log)
        if process is None:
            command = [*self.command, *map(str, paths)]
            process = spawn(command, log, cell_environment(threads, device), lock)
        super().__init__(cell.folder, device, process)

    def finish(self) -> None:
        """Write `result.yaml`."""
        write_atomically(self.cell.result, dump(read_result(self.cell)).encode())


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
