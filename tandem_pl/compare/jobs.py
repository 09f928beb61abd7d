"""A running cell, and what is kept of it at its end."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tandem_pl.files import write_atomically
from tandem_pl.yaml_files import read_yaml

from .cells import FAILED, FINAL, Cell, dump, write_config
from .executors import Executor, Process
from .local import WORKER

TAIL_LINES = 40  # lines kept of what a failed cell printed


class FolderJob:
    """A running command whose folder has its output, `log.txt`, and `failed.txt` if it failed.

    Attributes:
        failure: why it failed, one line; None as long as it did not.
    """

    def __init__(
        self, folder: Path, command: Sequence[str], threads: int, executor: Executor
    ) -> None:
        self.folder = folder
        self.failure: str | None = None
        self._command, self._threads, self._executor = command, threads, executor
        self._starts = 0
        self._process = self._start()

    def prepare(self) -> None:
        """Make the folder ready for a start."""

    def finish(self) -> None:
        """Keep what a process that ended well has left."""

    def poll(self) -> bool:
        """Return whether the process has ended, after writing its result or its failure.

        If it was killed it is started again, as often as the executor says.
        """
        code = self._process.poll()
        if code is None:
            return False
        if code == 0:
            try:
                self.finish()
                return True
            except (OSError, KeyError, ValueError, TypeError) as error:
                self.failure = f"its results cannot be read: {error}"
        elif code < 0 and self._starts <= self._executor.retries:
            self._process = self._start()
            return False
        text = (self.folder / "log.txt").read_text(errors="replace")
        self.failure = self.failure or reason_of(text, code)
        tail = "\n".join(text.splitlines()[-TAIL_LINES:])
        write_atomically(self.folder / FAILED, f"{self.failure}\n\n{tail}\n".encode())
        return True

    def end(self) -> None:
        """Stop the processes that still run."""
        self._process.end()

    def _start(self) -> Process:
        self._starts += 1
        self.prepare()
        return self._executor.start(self._command, self.folder / "log.txt", self._threads)


class Job(FolderJob):
    """A running cell: `tandem fit` and `tandem test` in one process."""

    command: Sequence[str] = WORKER

    def __init__(self, cell: Cell, threads: int, executor: Executor) -> None:
        self.cell = cell
        paths = (cell.folder / "cell.yaml", cell.checkpoint, cell.folder / "seconds.txt")
        super().__init__(cell.folder, [*self.command, *map(str, paths)], threads, executor)

    def prepare(self) -> None:
        """Write the configuration into an empty folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        write_config(self.cell)

    def finish(self) -> None:
        """Write `result.yaml`."""
        write_atomically(self.cell.result, dump(read_result(self.cell)).encode())


def read_result(cell: Cell) -> dict[str, Any]:
    """Return losses by domain, target, weights, epochs, settings and seconds of a finished run."""
    with open(cell.run / "test.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["domain"] != "exp(mean loss)"]
    losses = {row["domain"]: float(row["loss"]) for row in rows[:-1]}  # the last is their mean
    mixture = read_yaml(cell.run / "mixture.yaml")
    return {
        "losses": losses,
        "target": mixture.get("data", {}).get("target", {}),
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
