"""The executor `ray`: cells are tasks of a Ray cluster, whose machines share the folder."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import runpy
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tandem_pl.errors import InputError

from .logged import run_logged

FORWARDED = ("PYTHONPATH", "TANDEM_CACHE")  # variables of this process that cells get


class RayTasks:
    """Starts cells as tasks, on the cluster of RAY_ADDRESS, or of this machine.

    A cell has a worker of its own, `threads` CPUs and, unless it is `on_cpu`, a GPU if the cluster
    has any; more cells at a time than GPUs share them.

    Args:
        workers: cells at a time.
        on_cpu: whether cells use the CPU alone.

    Raises:
        InputError: Ray is not installed.
    """

    retries = 1  # the machine of a worker may go

    def __init__(self, workers: int, on_cpu: bool) -> None:
        try:
            import ray
        except ImportError as error:
            raise InputError(
                f"executor='ray' needs Ray ({error}): pip install 'tandem_pl[ray]'."
            ) from None
        self._ray, self._workers, self._on_cpu = ray, workers, on_cpu
        self._gpus, self._started = 0.0, False

    def __enter__(self) -> RayTasks:
        """Connect to the cluster, or start one.

        Raises:
            InputError: it cannot be reached.
        """
        if not self._ray.is_initialized():
            handler = signal.getsignal(signal.SIGTERM)
            try:
                self._ray.init(include_dashboard=False)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise InputError(f"Ray cannot be reached: {' '.join(str(error).split())}") from None
            self._started = True
            with contextlib.suppress(ValueError, TypeError):  # of another thread than the main one
                signal.signal(signal.SIGTERM, handler)  # Ray has set its own
        if not self._on_cpu:
            self._gpus = gpu_share(self._workers, self._ray.cluster_resources().get("GPU", 0.0))
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the cluster, which ends the tasks that still run."""
        if self._started:
            self._ray.shutdown()

    def start(self, command: Sequence[str], log: Path, threads: int) -> RayTask:
        """Start a Python command, with its output in `log`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        forwarded = {name: os.environ[name] for name in FORWARDED if name in os.environ}
        task = self._ray.remote(  # `max_calls`: no worker runs two cells, which could share state
            num_cpus=threads, num_gpus=self._gpus, max_calls=1, max_retries=0
        )(run_in_worker)
        variables = forwarded | {"OMP_NUM_THREADS": str(threads)}
        reference = task.remote(list(command), str(log.absolute()), os.getcwd(), variables)
        return RayTask(self._ray, reference, log)


def gpu_share(workers: int, gpus: float) -> float:
    """Return the share of a GPU that each cell takes.

    >>> [gpu_share(workers, 8.0) for workers in (4, 8, 20)], gpu_share(4, 0.0)
    ([1.0, 1.0, 0.3333333333333333], 0.0)
    """
    return 1 / math.ceil(workers / gpus) if gpus else 0.0


class RayTask:
    """A running cell."""

    def __init__(self, ray: Any, reference: Any, log: Path) -> None:
        self._ray, self._reference, self._log = ray, reference, log
        self._code: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, negative if the worker was killed; None if it still runs."""
        if self._code is None and self._ray.wait([self._reference], timeout=0)[0]:
            self._code = self._exit_code()
        return self._code

    def end(self) -> None:
        """Cancel the task."""
        self._ray.cancel(self._reference, force=True)
        self._ray.wait([self._reference], timeout=5)

    def _exit_code(self) -> int:
        errors = self._ray.exceptions
        try:
            return int(self._ray.get(self._reference))
        except errors.RayTaskError as error:
            reason, code = str(error.cause), 1
        except errors.RayError as error:
            reason, code = f"its Ray worker was lost: {type(error).__name__}.", -signal.SIGKILL
        with open(self._log, "a") as file:
            file.write(f"\ntandem: error: {reason}\n")
        return code


def run_in_worker(
    command: Sequence[str], log: str, folder: str, variables: Mapping[str, str]
) -> int:
    """Run a Python command in this process, a worker of Ray, and return the exit code.

    Not in a process of its own, which would go on if the worker were killed.

    Raises:
        InputError: this machine does not have the folder.
    """
    if not os.path.isdir(folder) or not os.path.isdir(os.path.dirname(log)):
        raise InputError(
            f"{platform.node()} does not have the folder {folder} or {os.path.dirname(log)}, which "
            "all machines of the cluster must share."
        )
    os.chdir(folder)
    os.environ.update(variables)
    paths = [p for p in variables.get("PYTHONPATH", "").split(os.pathsep) if p]
    sys.path[:0] = [path for path in paths if path not in sys.path]
    return run_logged(partial(run_command, command), log)


def run_command(command: Sequence[str]) -> int:
    """Run what `python -m MODULE ARGUMENTS` or `python FILE ARGUMENTS` would, in this process."""
    if command[1] == "-m":
        sys.argv = list(command[2:])
        runpy.run_module(command[2], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(command[1:])
        runpy.run_path(command[1], run_name="__main__")
    return 0
