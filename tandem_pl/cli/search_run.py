"""`tandem search run`: small runs on many mixtures, the table for `tandem search fit`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .compare import stop_on_sigterm
from .early_checks import check_is_file

if TYPE_CHECKING:
    from tandem_pl.compare.executors import Executor
    from tandem_pl.search.swarm.settings import Swarm


def search_run(
    config: str,
    folder: str | None = None,
    proxies: int | None = None,
    stack: int | None = None,
    executor: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    devices: list[int] | None = None,
    cell: int | None = None,
    cells: bool = False,
    retry: bool = False,
) -> None:
    """Train small networks, each on its own mixture, and write their losses to runs.csv.

    Rows in the table are kept, so the same command continues. With `fidelities` in the file, cheap
    runs choose which dear ones are made, until the budget is spent.

    Args:
        config: YAML file of the swarm, such as configs/search_restricted.yaml.
        folder: where the table goes.
        proxies: how many networks; more of them may be added later.
        stack: how many a process trains together.
        executor: local, or ray for the machines of a Ray cluster.
        workers: processes at a time.
        threads: of each process.
        devices: numbers of the GPUs to use; more workers than GPUs share them.
        cell: train only the proxies of this process, here; for a queue.
        cells: print the command of each process that has work, for a queue, and run none.
        retry: run failed proxies again.

    Raises:
        SystemExit: 130 if stopped; 1 if a proxy failed.
    """
    check_is_file(config)
    from tandem_pl.errors import InputError
    from tandem_pl.search.swarm.bayesian import check_installed
    from tandem_pl.search.swarm.fidelities import read_ladder, search_fidelities
    from tandem_pl.search.swarm.rows import DONE, forget_failures, read_rows
    from tandem_pl.search.swarm.run import (
        cell_lines,
        choose_more,
        prepare,
        read_prior,
        report,
        run_cell,
        run_swarm,
    )
    from tandem_pl.search.swarm.settings import read_swarm

    from .configured_parts import build_parts

    options: dict[str, Any] = {"folder": folder, "proxies": proxies, "stack": stack}
    options |= {"executor": executor, "workers": workers, "threads": threads, "devices": devices}
    queued = cells or cell is not None
    ladder = read_ladder(config, **options)
    if ladder is not None:
        if queued:
            raise InputError(
                "--cell and --cells cannot be used with fidelities, whose runs are chosen by the "
                "results so far: leave them out."
            )
        with _running(ladder.target, ladder.folder) as runner:
            if retry:
                for level in ladder.swarms.values():
                    forget_failures(level.folder, read_rows(level.folder))
            text, failed = search_fidelities(ladder, build_parts, runner)
        print(text)
        if failed:
            raise SystemExit(1)
        return
    swarm = read_swarm(config, queued, **options)
    if cell is not None:
        run_cell(swarm, cell, prepare(swarm, build_parts), build_parts, retry)
        return
    if cells:
        print("\n".join(cell_lines(swarm, prepare(swarm, build_parts))))
        return
    with _running(swarm, swarm.folder) as runner:
        mixtures = prepare(swarm, build_parts)
        if len(mixtures) < swarm.proxies:  # before any proxy is trained
            check_installed()
        if retry:
            forget_failures(swarm.folder, range(swarm.proxies))
        rows = run_swarm(swarm, mixtures, runner)
        prior = None
        while len(mixtures) < swarm.proxies:
            prior = prior or read_prior(swarm, build_parts)
            mixtures = choose_more(swarm, mixtures, prior)
            rows = run_swarm(swarm, mixtures, runner)
    print(report(swarm, rows))
    if any(row["status"] != DONE for row in rows.values()):
        raise SystemExit(1)


@contextmanager
def _running(swarm: Swarm, folder: Path) -> Iterator[Executor]:
    """Lock the folder, and start what runs its cells; Ctrl-C and SIGTERM end with code 130."""
    from tandem_pl.compare.executors import open_executor
    from tandem_pl.compare.locks import lock_folder

    settings = (swarm.executor, swarm.workers, swarm.on_cpu, swarm.devices)
    with lock_folder(folder) as lock, stop_on_sigterm():
        try:
            with open_executor(*settings, [lock]) as runner:
                yield runner
        except KeyboardInterrupt:
            print("\nstopped: run the same command to continue.")
            raise SystemExit(130) from None
