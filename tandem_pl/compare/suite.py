"""One comparison, or several with a summary: running all of their cells, and writing the tables."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tandem_pl.errors import InputError

from .cells import Cell
from .config import Comparison, read_comparison
from .files import write_results
from .pending import pending_cells, remove
from .results import collect
from .run import Study, open_studies, run_cells, try_out
from .summary import summarize, write_summary


def read_comparisons(
    paths: Sequence[str], folder: str | None, options: Mapping[str, Any]
) -> list[Comparison]:
    """Read and check the files of comparisons; `options` replace what they say.

    Raises:
        InputError: see `read_comparison`; two files have one name or folder, folders without a
            common one, or different executors or devices.
    """
    several = len(paths) > 1
    comparisons: list[Comparison] = []
    for path in paths:
        own = str(Path(folder) / Path(path).stem) if folder and several else folder
        comparisons.append(read_comparison(path, folder=own, **options))
    name = _first_repeated(comparison.name for comparison in comparisons)
    if name is not None:
        raise InputError(
            f"--config has two files with the name {name!r}, which the summary could not tell "
            "apart: rename one."
        )
    found = _first_repeated(str(comparison.folder.resolve()) for comparison in comparisons)
    if found is not None:
        raise InputError(f"folder={found!r} is that of two comparisons: give each its own.")
    shared = common_folder(comparisons)
    if several and not folder and shared == shared.parent:
        raise InputError("the folders have no common one for the summary: give --folder.")
    for key in ("executor", "devices"):
        if len({getattr(comparison, key) for comparison in comparisons}) > 1:
            raise InputError(f"{key} must be the same in all files: give --{key}.")
    return comparisons


def _first_repeated(values: Iterable[str]) -> str | None:
    return next((value for value, count in Counter(values).items() if count > 1), None)


def common_folder(comparisons: Sequence[Comparison]) -> Path:
    """Return the deepest folder that holds those of all comparisons."""
    return Path(os.path.commonpath([comparison.folder.resolve() for comparison in comparisons]))


def run_suite(
    comparisons: Sequence[Comparison], overwrite: bool
) -> tuple[list[Study], dict[str, str]]:
    """Run what is not done yet of all comparisons.

    Returns:
        The studies, and why a comparison was left out, by name: its data cannot be built here. One
        comparison alone raises an error instead.

    Raises:
        InputError: a comparison cannot be run, or had other settings.
        KeyboardInterrupt: the run was stopped; how far it got was printed.
    """
    skipped: dict[str, str] = {}
    with open_studies(comparisons) as studies:
        queues = [pending_cells(study.cells, overwrite) for study in studies]
        remove(cell for queue in queues for cell in queue)
        pending: list[tuple[Study, Cell]] = []
        kept: list[Study] = []
        try:
            for study, queue in zip(studies, queues, strict=True):
                _announce(study, len(queue))
                try:
                    if len(queue) == len(study.cells):
                        print("trying one step, and building the data if it is not built yet")
                        try_out(study, rows=len(studies) == 1)  # a row may fail in a suite
                except InputError as error:
                    if len(studies) == 1:
                        raise
                    skipped[study.comparison.name] = str(error)
                    print(f"{study.comparison.name} is left out: {error}", file=sys.stderr)
                    continue
                kept.append(study)
                pending += [(study, cell) for cell in queue]
            if pending:
                run_cells(kept, pending)
        except KeyboardInterrupt:
            cells = [cell for study in studies for cell in study.cells]
            done = sum(cell.result.exists() for cell in cells)
            print(
                f"\nstopped: {done} of {len(cells)} cells are done; run the same command to "
                "continue.",
                file=sys.stderr,
            )
            raise
    if not kept:
        raise InputError("no comparison can be run on this installation.")
    return kept, skipped


def _announce(study: Study, pending: int) -> None:
    comparison, cells = study.comparison, study.cells
    print(
        f"{len(comparison.entries)} methods, {len(comparison.seeds)} seeds: {len(cells)} "
        f"cells, {len(cells) - pending} of them done; in {comparison.folder}",
        flush=True,
    )


def write_suite(
    comparisons: Sequence[Comparison],
    folder: str | None,
    studies: Sequence[Study],
    skipped: Mapping[str, str],
) -> bool:
    """Write and print the tables of each study, and the summary of several.

    The summary lies in `folder`, by default the folder that all have in common.

    Returns:
        Whether all cells were run without a failure.
    """
    runs = []
    for study in studies:
        runs.append(collect(study.comparison, study.cells))
        page, files = write_results(study.comparison, runs[-1])
        print(f"\n{page}\nwritten to {', '.join(map(str, files))}")
    if len(comparisons) > 1:
        shared = Path(folder) if folder else common_folder(comparisons)
        summary = summarize([study.comparison for study in studies], runs, skipped)
        page, files = write_summary(shared, summary)
        print(f"\n{page}\nwritten to {', '.join(map(str, files))}")
    return not any(one.failures for one in runs)
