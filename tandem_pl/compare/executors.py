"""Where cells run: what an executor and its processes do, and the one that a file asks for."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Protocol

EXECUTORS = ("local", "ray")


class Process(Protocol):
    """A running cell."""

    def poll(self) -> int | None:
        """Return the exit code, negative if it was killed; None if it still runs."""
        ...

    def end(self) -> None:
        """Stop it, and what it has started."""
        ...


class Executor(Protocol):
    """Starts cells; a cell whose process is killed is started again, at most `retries` times."""

    retries: int

    def start(self, command: Sequence[str], log: Path, threads: int) -> Process:
        """Start a Python command, with its output in `log`."""
        ...


def open_executor(
    name: str,
    workers: int,
    on_cpu: bool,
    devices: Sequence[int] | None,
    locks: Sequence[IO | None] = (),
) -> AbstractContextManager[Executor]:
    """Return an executor; use it as a context.

    Args:
        name: one of `EXECUTORS`.
        workers: cells at a time.
        on_cpu: whether cells use the CPU alone.
        devices: numbers of the GPUs of this machine that cells may use.
        locks: files that processes of this machine keep open.

    Raises:
        InputError: Ray is not installed, or its cluster cannot be reached.
    """
    if name == "ray":
        from .ray_tasks import RayTasks

        return RayTasks(workers, on_cpu)
    from .local import LocalProcesses

    return LocalProcesses(locks, devices or (), on_cpu)
