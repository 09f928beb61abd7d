"""The executor `local`: cells are processes of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from tandem_pl.errors import InputError

from .executors import Process
from .forks import Forks, end_group

WORKER = (sys.executable, "-m", "tandem_pl.cli.compare_worker")
#: a GPU cannot be used after a fork, and macOS' libraries do not survive one
CAN_FORK = hasattr(os, "fork") and sys.platform != "darwin"


class LocalProcesses:
    """Starts processes, each on the GPU with the fewest; forks those of `WORKER` on the CPU.

    Args:
        locks: files that the processes keep open, so that they stay locked if this one is killed.
        devices: numbers of the GPUs; without any, the environment decides.
        on_cpu: whether cells use the CPU alone.
    """

    retries = 0  # what kills a process here, such as too little memory, does so again

    def __init__(
        self, locks: Sequence[IO | None] = (), devices: Sequence[int] = (), on_cpu: bool = False
    ) -> None:
        self._locks = [lock.fileno() for lock in locks if lock is not None]
        self._devices, self._fork = devices, on_cpu and CAN_FORK
        self._forks: dict[int, Forks] = {}
        self._running: list[Child] = []

    def start(self, command: Sequence[str], log: Path, threads: int) -> Process:
        """Start a command, with its output in `log`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        if self._fork and tuple(command[: len(WORKER)]) == WORKER:
            paths = [Path(path) for path in command[len(WORKER) :]]
            if threads not in self._forks:
                self._forks[threads] = Forks(cell_environment(threads), self._locks)
            forked = self._forks[threads].start(paths, log)
            if forked is not None:
                return forked
        device = self._free_device()
        with open(log, "wb") as file:
            return Child(
                command,
                device,
                self._running,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=cell_environment(threads, device),
                start_new_session=True,  # so that `end` reaches its data workers
                pass_fds=self._locks,
            )

    def _free_device(self) -> int | None:
        self._running = [child for child in self._running if child.runs]
        used = [child.device for child in self._running]
        return min(self._devices, key=used.count, default=None)

    def __enter__(self) -> LocalProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        """End processes that still run, also one that was being started."""
        for child in self._running:
            if child.runs:
                child.end()
        for forks in self._forks.values():
            forks.__exit__()


class Child(subprocess.Popen):
    """A process with a session of its own, on a GPU or none.

    It joins those that run before it starts, so that an interrupted start leaves no process.
    """

    def __init__(
        self, command: Sequence[str], device: int | None, running: list[Child], **options: Any
    ) -> None:
        self.device = device
        running.append(self)
        super().__init__(command, **options)

    @property
    def runs(self) -> bool:
        """Whether it was started and has not ended."""
        return getattr(self, "pid", None) is not None and self.poll() is None

    def end(self) -> None:
        """Stop the processes of its session."""
        end_group(self)


def cell_environment(threads: int, device: int | None = None) -> dict[str, str]:
    """Return the environment variables of a cell; `device` is one of those that are visible here.

    Raises:
        InputError: it is not.

    >>> cell_environment(2)["OMP_NUM_THREADS"]
    '2'
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    if device is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")  # a queue may have set it
        numbers = visible.split(",")
        if visible and device >= len(numbers):
            raise InputError(
                f"devices={device} asks for more GPUs than the {len(numbers)} of "
                f"CUDA_VISIBLE_DEVICES={visible}: number those from 0 on, or leave devices out."
            )
        environment["CUDA_VISIBLE_DEVICES"] = numbers[device] if visible else str(device)
    return environment
