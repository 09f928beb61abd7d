"""`tandem compare`: methods and seeds under one budget, and the tables of what came out."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from .arguments import Parser

if TYPE_CHECKING:
    from tandem_pl.compare.config import Comparison
    from tandem_pl.compare.statistics import Row


def parser() -> Parser:
    """The options."""
    made = Parser(
        prog="tandem compare",
        description="Learns a mixture by each method, trains a fresh network with it, tests it on "
        "held-out documents, for each seed. What is finished is kept: the same command goes on.",
        epilog="Start with: tandem compare --config configs/compare_restricted.yaml",
        allow_abbrev=False,
    )
    made.add_argument("--config", metavar="FILE", required=True, help="the comparison")
    made.add_argument("--folder", metavar="FOLDER", help="where its runs and tables go")
    made.add_argument("--methods", nargs="+", metavar="NAME", help="only these, and the baseline")
    made.add_argument("--seeds", nargs="+", type=int, metavar="N", help="only these")
    made.add_argument("--workers", type=int, metavar="N", help="cells that run at once")
    made.add_argument(
        "--overwrite", action="store_true", help="run cells again whose settings have changed"
    )
    return made


def main(arguments: Sequence[str]) -> None:
    """Runs `tandem compare ...`; `arguments[0]` is the verb.

    Raises:
        SystemExit: 130 when stopped; 1 when a cell failed.
    """
    options = parser().parse_args(arguments[1:])
    if threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGTERM, _stop)
        try:
            compare(options)
        finally:
            signal.signal(signal.SIGTERM, before)
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Runs what is left to run, then writes and prints the tables."""
    from tandem_pl.compare.cells import build_cells
    from tandem_pl.compare.config import read_comparison
    from tandem_pl.compare.run import locked, pending_cells, run_cells, try_out
    from tandem_pl.compare.statistics import collect

    comparison = read_comparison(
        options.config,
        folder=options.folder,
        seeds=options.seeds,
        workers=options.workers,
        only=options.methods,
    )
    cells = build_cells(comparison)
    try:
        with locked(comparison.folder) as lock:
            pending = pending_cells(cells, options.overwrite)
            print(
                f"{len(comparison.entries)} methods, {len(comparison.seeds)} seeds: {len(cells)} "
                f"cells, {len(cells) - len(pending)} of them done; in {comparison.folder}"
            )
            if len(pending) == len(cells):
                print("trying one step, and building the data where it is not built yet")
                name = f"{comparison.baseline}/seed-{comparison.seeds[0]}/"
                try_out(comparison, next(c for c in cells if c.name.startswith(name)), lock)
            if pending:
                run_cells(comparison, cells, pending, lock)
    except KeyboardInterrupt:
        done = sum(cell.result.exists() for cell in cells)
        print(
            f"\nstopped: {done} of {len(cells)} cells are done; the same command goes on from "
            "there.",
            file=sys.stderr,
        )
        raise SystemExit(130) from None
    rows = collect(comparison, cells)
    page, files = write_results(comparison, rows)
    print(f"\n{page}\nwritten to {', '.join(map(str, files))}")
    if any(row.failures for row in rows):
        raise SystemExit(1)


def write_results(comparison: Comparison, rows: Sequence[Row]) -> tuple[str, list[Path]]:
    """Writes tables and pictures; gives the page that is printed, and the paths."""
    from tandem_pl.compare.plots import draw_differences, draw_mixtures, to_png
    from tandem_pl.compare.tables import markdown, results_csv, summary_csv
    from tandem_pl.files import write_atomically

    page = markdown(comparison, rows)
    pictures = "\n![Differences to the baseline](comparison.png)\n\n![The mixtures](mixtures.png)\n"
    contents = {
        "comparison.md": (page + pictures).encode(),
        "comparison.png": to_png(draw_differences(comparison, rows)),
        "mixtures.png": to_png(draw_mixtures(rows)),
        "results.csv": results_csv(rows),
        "summary.csv": summary_csv(comparison, rows),
    }
    for name, content in contents.items():
        write_atomically(comparison.folder / name, content)
    return page, [comparison.folder / name for name in contents]


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
