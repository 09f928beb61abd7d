"""`tandem search run`: small runs on many mixtures, the table for `tandem search fit`."""

from __future__ import annotations

from .compare import stop_on_sigterm
from .early_checks import check_is_file


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

    Rows in the table are kept, so the same command continues.

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
    from tandem_pl.compare.executors import open_executor
    from tandem_pl.compare.locks import lock_folder
    from tandem_pl.search.swarm.rows import DONE, forget_failures
    from tandem_pl.search.swarm.run import (
        cell_lines,
        choose_more,
        prepare,
        read_prior,
        report,
        run_cell,
        run_swarm,
    )
    from tandem_pl.search.swarm.settings import Swarm, read_swarm

    from .configured_parts import build_parts

    work = {"executor": executor, "workers": workers, "threads": threads}
    numbers = {"proxies": proxies, "stack": stack}
    queued = cells or cell is not None
    swarm: Swarm = read_swarm(config, queued, folder=folder, devices=devices, **work, **numbers)
    if cell is not None:
        run_cell(swarm, cell, prepare(swarm, build_parts), build_parts, retry)
        return
    if cells:
        print("\n".join(cell_lines(swarm, prepare(swarm, build_parts))))
        return
    with lock_folder(swarm.folder) as lock, stop_on_sigterm():
        mixtures = prepare(swarm, build_parts)
        if retry:
            forget_failures(swarm.folder, range(swarm.proxies))
        settings = (swarm.executor, swarm.workers, swarm.on_cpu, swarm.devices)
        try:
            with open_executor(*settings, [lock]) as runner:
                rows = run_swarm(swarm, mixtures, runner)
                prior = None
                while len(mixtures) < swarm.proxies:
                    prior = prior or read_prior(swarm, build_parts)
                    mixtures = choose_more(swarm, mixtures, prior)
                    rows = run_swarm(swarm, mixtures, runner)
        except KeyboardInterrupt:
            print("\nstopped: run the same command to continue.")
            raise SystemExit(130) from None
    print(report(swarm, rows))
    if any(row["status"] != DONE for row in rows.values()):
        raise SystemExit(1)
