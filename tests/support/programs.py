"""Runs Python programs in processes that are forked from one that has the imports."""

import multiprocessing
import os
import runpy
import signal
import sys
import time
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from lightning_utilities.core.rank_zero import rank_zero_only

LIMIT = 300  # seconds: a hang fails; a starved machine does not
FORKS = multiprocessing.get_context("forkserver")  # each worker of pytest has one server
FORKS.set_forkserver_preload(["programs", "lightning.pytorch", "tandem_pl.cli.lightning_cli"])


def start(
    arguments: list[str], output: Path, *, fresh: bool = False, **environment: str
) -> BaseProcess:
    """Start `python ARGUMENTS`, with what it prints in a file, in a group of its own.

    Args:
        arguments: a file or `-m` and a module, then what `sys.argv` has.
        output: the file.
        fresh: start a new interpreter, which takes seconds. Forks have the same hashes of strings,
            so the same order of a set.
        environment: variables beside those of this process.
    """
    with pytest.MonkeyPatch.context() as patch:  # the server may not start threads or CUDA
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        forkserver.ensure_running()
    what = arguments, str(output), os.environ | environment, fresh
    process = FORKS.Process(target=_become, args=what, name=str(output))
    process.start()
    return process


def exit_codes(processes: list[BaseProcess]) -> list[int]:
    """Wait for the exit codes, negative for signals. Fail if one hangs, and leave none behind."""
    end = time.monotonic() + LIMIT
    try:
        for process in processes:
            process.join(max(end - time.monotonic(), 0))
    finally:
        hung = [process for process in processes if process.exitcode is None]
        for process in hung:
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
    if hung:
        texts = [Path(process.name).read_text()[-3000:] for process in processes]
        pytest.fail("\n".join([f"{len(hung)} processes hung", *texts]))
    return [process.exitcode for process in processes]


def _become(arguments: list[str], output: str, environment: dict[str, str], fresh: bool) -> None:
    """Be the process of the program."""
    os.setsid()
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if fresh:
        os.execve(sys.executable, [sys.executable, *arguments], environment)
    os.environ.clear()
    os.environ.update(environment)
    # What is read from the environment at a start or an import, and what multiprocessing has set.
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    rank_zero_only.rank = int(environment.get("LOCAL_RANK", "0"))
    multiprocessing.set_start_method(None, force=True)
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(arguments[0]).parent))
        runpy.run_path(arguments[0], run_name="__main__")
