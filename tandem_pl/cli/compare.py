"""`tandem compare`: methods and seeds under one budget, with tables and pictures."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from .arguments import run_verb
from .early_checks import check_is_file


def compare(
    *,
    config: str,
    folder: str | None = None,
    methods: list[str] | None = None,
    seeds: list[int] | None = None,
    workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Learn a mixture by each method, train a fresh network with it, and test it, for each seed.

    Finished runs are kept, so the same command continues.

    Args:
        config: YAML file of the comparison, such as configs/compare_restricted.yaml.
        folder: where its runs and tables go.
        methods: run only these, such as `--methods tandem dga`, and the baseline.
        seeds: run only these, such as `--seeds 0 1`.
        workers: number of runs at a time.
        overwrite: run cells again if their settings have changed.

    Raises:
        SystemExit: 130 if stopped; 1 if a cell failed.
    """
    check_is_file(config)
    from tandem_pl.compare.cells import build_cells
    from tandem_pl.compare.config import read_comparison
    from tandem_pl.compare.run import locked, pending_cells, run_cells, try_out

    comparison = read_comparison(config, folder=folder, seeds=seeds, workers=workers, only=methods)
    cells = build_cells(comparison)
    try:
        with locked(comparison.folder) as lock:
            pending = pending_cells(cells, overwrite)
            print(
                f"{len(comparison.entries)} methods, {len(comparison.seeds)} seeds: {len(cells)} "
                f"cells, {len(cells) - len(pending)} of them done; in {comparison.folder}"
            )
            if len(pending) == len(cells):
                print("trying one step, and building the data if it is not built yet")
                name = f"{comparison.baseline}/seed-{comparison.seeds[0]}/"
                try_out(comparison, next(c for c in cells if c.name.startswith(name)), lock)
            if pending:
                run_cells(comparison, cells, pending, lock)
    except KeyboardInterrupt:
        done = sum(cell.result.exists() for cell in cells)
        print(
            f"\nstopped: {done} of {len(cells)} cells are done; run the same command to continue.",
            file=sys.stderr,
        )
        raise SystemExit(130) from None
    from tandem_pl.compare.files import write_results
    from tandem_pl.compare.results import collect

    runs = collect(comparison, cells)
    page, files = write_results(comparison, runs)
    print(f"\n{page}\nwritten to {', '.join(map(str, files))}")
    if runs.failures:
        raise SystemExit(1)


def main(arguments: Sequence[str]) -> None:
    """Run the verb; `arguments[0]` is its name. SIGTERM stops it as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        return run_verb(compare, arguments[1:])  # only the main thread may set signal handlers
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        run_verb(compare, arguments[1:])
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
