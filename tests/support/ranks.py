"""Runs a test file as a program on several processes over gloo, under a hard limit of time."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

LIMIT = 240  # seconds; a busy machine makes small collectives slow


def free_port() -> int:
    """Return a port below those that systems hand out, since the ranks take it seconds later."""
    for port in random.SystemRandom().sample(range(20000, 30000), 100):
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")


def keep_result(folder: str | Path, result: Any) -> None:
    """Write a rank's result, which `run_program` reads."""
    Path(folder, f"rank{os.environ['LOCAL_RANK']}.json").write_text(json.dumps(result))


def run_ranks(command: list[str], folder: Path, ranks: int = 2) -> str:
    """Run the command on every rank; return rank 0's output. Fail if a rank hangs or fails."""
    shared = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(ranks),
        "NODE_RANK": "0",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    paths = [folder / f"log{rank}" for rank in range(ranks)]
    logs = [open(path, "w+") for path in paths]  # noqa: SIM115
    processes = [
        subprocess.Popen(
            command,
            env=shared | {"LOCAL_RANK": str(rank)},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        for rank, log in enumerate(logs)
    ]
    end = time.monotonic() + LIMIT
    try:  # a rank that failed leaves the others waiting, so end all of them
        while any(process.poll() is None for process in processes):
            if time.monotonic() > end or any(process.poll() for process in processes):
                break
            time.sleep(0.05)
    finally:
        for process, log in zip(processes, logs, strict=True):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            log.close()
    codes = [process.returncode for process in processes]
    if any(codes):
        tails = "\n".join(f"--- rank {path.name}\n{path.read_text()[-3000:]}" for path in paths)
        pytest.fail(f"the ranks ended with {codes}:\n{tails}")
    return paths[0].read_text()


def run_program(program: str, folder: Path, *arguments: str, ranks: int = 2) -> list[Any]:
    """Run `python PROGRAM FOLDER ARGUMENTS` on every rank; return what each wrote."""
    run_ranks([sys.executable, program, str(folder), *arguments], folder, ranks)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(ranks)]
