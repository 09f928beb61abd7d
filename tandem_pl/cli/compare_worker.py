"""The processes of cells: `tandem fit`, then `tandem test`, so that imports are paid once.

    python -m tandem_pl.cli.compare_worker CONFIG CHECKPOINT SECONDS
    python -m tandem_pl.cli.compare_worker --fork

The second form imports what cells need, once, and forks a process for each line of JSON that it
reads; see `tandem_pl.compare.forks`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from tandem_pl.compare.logged import run_logged

STOP_SECONDS = 5  # that a process has after SIGTERM


def main(config: str, checkpoint: str, seconds: str) -> int:
    """Run both, write the seconds of the first without imports, and return the exit code."""
    from tandem_pl import cli
    from tandem_pl.cli import lightning_cli  # noqa: F401  (the import that takes long)

    start = time.perf_counter()
    code = cli.main(["fit", "--config", config])
    if code:
        return code
    Path(seconds).write_text(f"{time.perf_counter() - start:.2f}\n")
    return cli.main(["test", "--config", config, "--ckpt_path", checkpoint])


def serve(requests: IO[str], answers: IO[str]) -> None:
    """Answer each request, a line of JSON, until there are no more.

    `{"paths": [...], "log": ...}` starts a process and answers its number, or null if this process
    has threads, which do not survive a fork. `{"pid": ...}` answers its exit code, or null if it
    still runs. Processes that run at the end are stopped.
    """
    from tandem_pl.cli import lightning_cli  # noqa: F401

    running: set[int] = set()
    try:
        for line in requests:
            request = json.loads(line)
            if "pid" in request:
                answer = _exit_code(request["pid"], running)
            elif answer := _fork(request["paths"], request["log"], (requests, answers)):
                running.add(answer)
            answers.write(f"{json.dumps(answer)}\n")
            answers.flush()
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in running:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, number)
            end = time.monotonic() + STOP_SECONDS
            while running and time.monotonic() < end:
                running = {pid for pid in running if _exit_code(pid, set(running)) is None}
                time.sleep(0.02)


def _exit_code(pid: int, running: set[int]) -> int | None:
    """Return the exit code of a process, and take it out of those that run."""
    if pid not in running:
        return None
    found, status = os.waitpid(pid, os.WNOHANG)
    if not found:
        return None
    running.discard(pid)
    return os.waitstatus_to_exitcode(status)


def _fork(paths: list[str], log: str, pipes: tuple[IO[str], IO[str]]) -> int | None:
    for module in dict.fromkeys(_modules(_read(paths[0]))):
        with contextlib.suppress(Exception):  # the cell will say
            import_module(module)
    if threading.active_count() > 1:
        return None
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()  # a group of its own, with its data workers
        for pipe in pipes:
            os.close(pipe.fileno())
        code = run_logged(lambda: main(*paths), log)
    finally:
        os._exit(code)


def _read(config: str) -> Any:
    from tandem_pl.yaml_files import read_yaml

    return read_yaml(Path(config))


def _modules(config: Any) -> Iterator[str]:
    """Yield the modules of the classes of a configuration, and of the kind of language model."""
    if isinstance(config, list):
        config = dict(enumerate(config))
    if not isinstance(config, dict):
        return
    for key, value in config.items():
        if key == "class_path" or (isinstance(value, str) and "." in value and key == "objective"):
            yield str(value).rpartition(".")[0]
        elif key == "model_type":
            yield f"transformers.models.{value}.modeling_{value}"
        yield from _modules(value)


if __name__ == "__main__":
    if sys.argv[1:] == ["--fork"]:
        own = [os.fdopen(os.dup(number), mode) for number, mode in ((0, "r"), (1, "w"))]
        os.dup2(2, 1)  # what an import prints is no answer
        serve(own[0], own[1])
    else:
        sys.exit(main(*sys.argv[1:]))
