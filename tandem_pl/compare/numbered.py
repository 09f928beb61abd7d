"""Cells by number, for a queue that runs each by a command of its own, on any machine."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from tandem_pl.errors import InputError

from .cells import Cell, build_cells
from .config import Comparison
from .jobs import Job
from .local import LocalProcesses
from .locks import lock_cell, lock_folder
from .pending import pending_cells, remove
from .run import POLL_SECONDS


class Numbered(NamedTuple):
    """A cell of a comparison, and the numbers of all cells that it needs, others' needs too.

    Numbers are the order of all cells, so that they stay while cells get done.
    """

    comparison: Comparison
    cell: Cell
    needs: frozenset[int]


def number_cells(comparisons: Sequence[Comparison]) -> list[Numbered]:
    """Return the cells of all comparisons in the order of their numbers."""
    numbered: list[Numbered] = []
    for comparison in comparisons:
        numbers: dict[str, int] = {}
        for cell in build_cells(comparison):
            direct = {numbers[name] for name in cell.needs}
            numbers[cell.name] = len(numbered)
            further = (numbered[number].needs for number in direct)
            numbered.append(Numbered(comparison, cell, frozenset(direct.union(*further))))
    return numbered


def cell_lines(
    comparisons: Sequence[Comparison], command: Sequence[str], overwrite: bool
) -> Iterator[str]:
    """Yield a command for each cell that is not done, and the numbers that can run at once.

    Raises:
        InputError: see `pending_cells`.
    """
    numbered = number_cells(comparisons)
    left = _pending(numbered, comparisons, overwrite)
    depths: dict[int, int] = {}
    for number in sorted(left):
        depths[number] = max((depths[n] + 1 for n in numbered[number].needs & left), default=0)
    first = "# "
    for _, wave in groupby(sorted(left, key=lambda n: (depths[n], n)), key=depths.__getitem__):
        numbers = list(wave)
        yield f"{first}--array={spans(numbers)}"
        for number in numbers:
            _, cell, needs = numbered[number]
            waits = f", needs {spans(sorted(needs & left))}" if needs & left else ""
            yield f"{' '.join(command)} --cell {number}  # {cell.name}{waits}"
        first = "# then "
    if not left:
        yield f"# all {len(numbered)} cells are done"


def spans(numbers: Sequence[int]) -> str:
    """Return ascending numbers as Slurm's `--array` takes them.

    >>> spans([0, 1, 2, 5, 7, 8])
    '0-2,5,7-8'
    """
    parts = []
    for _, pairs in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        run = [number for _, number in pairs]
        parts.append(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}")
    return ",".join(parts)


def run_cell(
    comparisons: Sequence[Comparison],
    number: int,
    devices: Sequence[int] = (),
    overwrite: bool = False,
) -> str | None:
    """Run one cell in a process of this machine, if it is not done.

    Args:
        comparisons: whose cells are numbered.
        number: of the cell.
        devices: the GPU to use; without one, that which the environment names.
        overwrite: run it again if its settings have changed.

    Returns:
        Why it failed, or None.

    Raises:
        InputError: there is no such cell, it runs elsewhere, or cells that it needs are not done.
    """
    numbered = number_cells(comparisons)
    if not 0 <= number < len(numbered):
        raise InputError(f"--cell {number}: there are the cells 0 to {len(numbered) - 1}.")
    comparison, cell, needs = numbered[number]
    lock = lock_file(cell)
    with lock_folder(comparison.folder, shared=True) as shared, lock_cell(lock, cell.name) as own:
        left = _pending(numbered, [comparison], overwrite)
        if number not in left:
            print(f"{cell.name} is done")
            return None
        missing = [f"{numbered[n].cell.name} (--cell {n})" for n in sorted(needs & left)]
        if missing:
            verb = "is" if len(missing) == 1 else "are"
            raise InputError(f"{cell.name} needs {', '.join(missing)}, which {verb} not done.")
        remove(other.cell for other in numbered if number in other.needs)  # of an earlier result
        with LocalProcesses([shared, own], devices) as executor:
            job = Job(cell, comparison.threads, executor)
            try:
                while not job.poll():
                    time.sleep(POLL_SECONDS)
            finally:
                job.end()
    if job.failure is None:
        print(f"{cell.name} is done")
    return job.failure


def lock_file(cell: Cell) -> Path:
    """Return the file that is locked while a cell runs, beside its folder."""
    return cell.folder.with_name(f".{cell.stage}.lock")


def _pending(
    numbered: Sequence[Numbered], comparisons: Sequence[Comparison], overwrite: bool
) -> set[int]:
    """Return the numbers of the cells of some comparisons that are to run."""
    left: set[int] = set()
    for comparison in comparisons:
        own = {n: one.cell for n, one in enumerate(numbered) if one.comparison is comparison}
        names = {cell.name for cell in pending_cells(list(own.values()), overwrite)}
        left |= {number for number, cell in own.items() if cell.name in names}
    return left
