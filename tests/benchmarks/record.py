"""What every benchmark prints and takes: its command line, its goals and its record.

A benchmark is a script with `NAME` and `main(argv) -> record`. It prints ratios of medians of
alternating runs and, as its last line, the record as JSON:

    benchmark, quick, machine, settings   what was run, and on what machine
    rows                                  one map of numbers a setting
    plots                                 {title, x, y, by}: keys of the rows, for `all.py`
    goals                                 {figure, value, limit, reached}

`--quick` takes the smallest sizes: it shows that the script works, not how fast anything is.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from common import SIZES

import tandem_pl

Record = dict[str, Any]
Row = dict[str, Any]


def arguments(text: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """Return a parser with the options of all benchmarks."""
    parser = argparse.ArgumentParser(description=(text or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smallest sizes: does it work?")
    parser.add_argument("--repeats", type=int, default=5, help="alternating runs of each kind")
    parser.add_argument("--threads", type=int, help="of torch; default: its own choice")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.set_defaults(**defaults)
    return parser


def run_arguments(
    parser: argparse.ArgumentParser,
    free: int | list[int],
    size: str = "3m",
    block: int = 128,
    batch: int = 8,
) -> None:
    """Add the lengths of an episode's phases, the network and the batch, with their defaults."""
    parser.add_argument("--free", type=int, default=free, nargs="+" if type(free) is list else None)
    parser.add_argument("--probe", type=int, default=5)
    parser.add_argument("--measure", type=int, default=4)
    parser.add_argument("--size", choices=tuple(SIZES), default=size)
    parser.add_argument("--block", type=int, default=block)
    parser.add_argument("--batch", type=int, default=batch)


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, **quick: Any
) -> argparse.Namespace:
    """Return the options; `quick` replaces the defaults if `--quick` is given."""
    if parser.parse_known_args(argv)[0].quick:
        parser.set_defaults(repeats=1, **quick)
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        message = "device=cuda needs a GPU, and torch sees none: give --device cpu and small sizes."
        parser.exit(2, f"{parser.prog}: {message}\n")
    if options.threads:
        torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    options.machine = machine(options.device)
    print(", ".join(f"{key} {value}" for key, value in options.machine.items()), flush=True)
    return options


def machine(device: str = "cpu") -> dict[str, Any]:
    """Return what the figures depend on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.machine()
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),  # before the start: 0 if nothing else is running
        "torch": str(torch.__version__),
        "lightning": lightning.__version__,
        "tandem_pl": tandem_pl.__version__,
    }


def at_most(figure: str, value: float, limit: float) -> Row:
    """Return a goal: a figure and the limit that it should not pass."""
    return {"figure": figure, "value": value, "limit": limit, "reached": bool(value <= limit)}


def plot(title: str, x: str, *y: str, by: Sequence[str] = ()) -> Row:
    """Return a plot: the rows' keys `y` over their key `x`, a line for each value of `by`."""
    return {"title": title, "x": x, "y": list(y), "by": list(by)}


def show(row: Row) -> Row:
    """Print a row, and return it."""
    cells = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
    print("  ".join(cells), flush=True)
    return row


def finish(
    name: str,
    options: argparse.Namespace,
    rows: list[Row],
    goals: Sequence[Row] = (),
    plots: Sequence[Row] = (),
) -> Record:
    """Print the goals, and the record as one line of JSON; return the record."""
    for goal in goals:
        word = "reached" if goal["reached"] else "NOT REACHED"
        print(f"{goal['figure']}: {goal['value']:.4g}, at most {goal['limit']:g}: {word}")
    settings = {k: v for k, v in vars(options).items() if k not in ("quick", "machine", "child")}
    record = {
        "benchmark": name,
        "quick": options.quick,
        "machine": options.machine,
        "settings": settings,
        "rows": rows,
        "goals": list(goals),
        "plots": list(plots),
    }
    print(json.dumps(record, default=str), flush=True)
    return record


def child(script: str, *arguments: str) -> Row:
    """Run a script in a new process; return the JSON of the last line that it printed."""
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])
