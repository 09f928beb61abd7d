"""Runs a test file as a program on two processes over gloo, under a hard limit of time."""

import contextlib
import json
import os
import random
import socket
from pathlib import Path
from typing import Any

from programs import exit_codes, start


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


def run_ranks(
    arguments: list[str], folder: Path, fresh: bool = False
) -> tuple[list[int], list[str]]:
    """Run `python ARGUMENTS` on two ranks, see `start`; return exit codes, and what each printed.

    Every rank must end, also if another one fails.
    """
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": "2",
        "NODE_RANK": "0",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    outputs = [folder / f"rank{rank}.log" for rank in (0, 1)]
    codes = exit_codes(
        [
            start(arguments, output, fresh=fresh, **shared, LOCAL_RANK=str(rank))
            for rank, output in enumerate(outputs)
        ]
    )
    return codes, [output.read_text() for output in outputs]


def run_program(program: str, folder: Path, *arguments: str, fresh: bool = False) -> list[Any]:
    """Run `python PROGRAM FOLDER ARGUMENTS` on both ranks; return what each kept."""
    codes, texts = run_ranks([program, str(folder), *arguments], folder, fresh)
    tails = "\n".join(f"--- rank {rank}\n{text[-3000:]}" for rank, text in enumerate(texts))
    assert not any(codes), f"the ranks ended with {codes}:\n{tails}"
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
