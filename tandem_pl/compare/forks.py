"""Processes of cells that are forked from one that has the imports, which take seconds.

Ours rather than `multiprocessing`'s forkserver, which runs the caller's main module in each child
and cannot hand over the locks of folders.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Forks:
    """A process that imports once and forks for each cell; use it as a context.

    Args:
        environment: of the cells.
        locks: file descriptors that the cells keep open.
    """

    command = (sys.executable, "-m", "tandem_pl.cli.compare_worker", "--fork")

    def __init__(self, environment: Mapping[str, str], locks: Sequence[int]) -> None:
        self._environment, self._locks = environment, locks
        self._server: subprocess.Popen[str] | None = None

    def start(self, paths: Sequence[Path], log: Path) -> Fork | None:
        """Start the worker on `paths` with its output in `log`; None if it cannot be forked."""
        if self._server is None:
            self._server = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=self._environment,
                start_new_session=True,  # Ctrl-C is for the process that runs the comparison
                pass_fds=self._locks,
                text=True,
            )
        request = {"paths": [str(Path(p).absolute()) for p in paths], "log": str(log.absolute())}
        pid = self.ask(request)
        return None if pid is None else Fork(pid, self)

    def ask(self, request: Mapping[str, Any]) -> Any:
        """Return the answer to a request; None if the process is gone."""
        server = self._server
        assert server is not None
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            server.stdin.write(f"{json.dumps(request)}\n")
            server.stdin.flush()
            return json.loads(server.stdout.readline())
        except (OSError, ValueError):
            return None
        except BaseException:  # interrupted: the next answer would be that to this request
            self.__exit__()
            raise

    @property
    def gone(self) -> bool:
        """Whether the process has ended."""
        return self._server is not None and self._server.poll() is not None

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process, which ends the cells that still run."""
        if self._server is not None and self._server.stdin is not None:
            with contextlib.suppress(OSError):
                self._server.stdin.close()
            self._server.wait()


class Fork:
    """A forked process, with some of the parts of `subprocess.Popen`."""

    def __init__(self, pid: int, forks: Forks) -> None:
        self.pid = pid
        self._forks = forks
        self._code: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None if it still runs."""
        if self._code is None:
            self._code = self._forks.ask({"pid": self.pid})
            if self._code is None and self._forks.gone and not _alive(self.pid):
                self._code = -9  # the process that knows is gone
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, at most `timeout` seconds."""
        start = time.monotonic()
        while (code := self.poll()) is None:
            if timeout is not None and time.monotonic() - start > timeout:
                raise subprocess.TimeoutExpired("fork", timeout)
            time.sleep(0.02)
        return code

    def end(self) -> None:
        """Stop the processes of its session."""
        end_group(self)


def end_group(process: subprocess.Popen | Fork) -> None:
    """Stop a process and the others of its group; kill those that do not stop in 5 seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        try:
            process.wait(5)
            break
        except subprocess.TimeoutExpired:
            continue


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
