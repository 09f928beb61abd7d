"""`tandem compare`: methods and seeds under one budget, with tables and pictures."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, NoReturn

from .arguments import run_verb
from .early_checks import check_is_file


def compare(
    *,
    config: list[str],
    folder: str | None = None,
    methods: list[str] | None = None,
    seeds: list[int] | None = None,
    executor: str | None = None,
    workers: int | None = None,
    devices: list[int] | None = None,
    cell: int | None = None,
    cells: bool = False,
    overwrite: bool = False,
) -> None:
    """Learn a mixture by each method, train a fresh network with it, and test it, for each seed.

    Finished runs are kept, so the same command continues.

    Args:
        config: YAML file of the comparison, such as configs/compare_restricted.yaml; several make
            a suite with a summary, such as `--config configs/suite/*.yaml`.
        folder: where its runs and tables go; of several files, each to a folder of its name there.
        methods: run only these, such as `--methods tandem dga`, and the baseline.
        seeds: run only these, such as `--seeds 0 1`.
        executor: local, or ray for the machines of a Ray cluster.
        workers: number of runs at a time.
        devices: numbers of the GPUs to use; more workers than GPUs share them.
        cell: run only the cell of this number, here; for a queue.
        cells: print the command of each cell that is not done, for a queue, and run none.
        overwrite: run cells again if their settings have changed.

    Raises:
        SystemExit: 130 if stopped; 1 if a cell failed.
    """
    for path in config:
        check_is_file(path)
    from tandem_pl.compare.numbered import cell_lines, run_cell
    from tandem_pl.compare.suite import read_comparisons, run_suite, write_suite

    options = {"seeds": seeds, "workers": workers, "devices": devices, "only": methods}
    queued = cells or cell is not None
    comparisons = read_comparisons(
        config, folder, options | {"executor": executor, "queued": queued}
    )
    if cells:
        same = {"config": config, "folder": folder, "methods": methods, "seeds": seeds}
        command = ["tandem", "compare", *as_options(same | {"devices": devices}, overwrite)]
        print("\n".join(cell_lines(comparisons, command, overwrite)))
        return
    try:
        if cell is not None:
            failure = run_cell(comparisons, cell, devices or (), overwrite)
            if failure is not None:
                print(f"cell {cell} failed: {failure}", file=sys.stderr)
                raise SystemExit(1)
            return
        finished = run_suite(comparisons, overwrite)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    if not write_suite(comparisons, folder, *finished):
        raise SystemExit(1)


def as_options(values: Mapping[str, Any], overwrite: bool) -> list[str]:
    """Return the options that give these values again.

    >>> as_options({"config": ["a b.yaml"], "folder": None, "seeds": [0, 1]}, False)
    ['--config', "'a b.yaml'", '--seeds', '0', '1']
    """
    options: list[str] = []
    for key, value in values.items():
        if value is not None:
            given = value if isinstance(value, list) else [value]
            options += [f"--{key}", *(shlex.quote(str(one)) for one in given)]
    return [*options, "--overwrite"] if overwrite else options


def main(arguments: Sequence[str]) -> None:
    """Run the verb; `arguments[0]` is its name. SIGTERM stops it as Ctrl-C does."""
    with stop_on_sigterm():
        run_verb(compare, arguments[1:])


@contextlib.contextmanager
def stop_on_sigterm() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM inside, in the main thread, which alone may set it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
