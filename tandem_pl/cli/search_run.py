"""`tandem search run`: small runs on many mixtures, the table for `tandem search fit`."""

from __future__ import annotations

from .compare import stop_on_sigterm
from .early_checks import check_is_file


def search_run(
    config: str,
    folder: str | None = None,
    proxies: int | None = None,
    stack: int | None = None,
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
        workers: processes at a time.
        threads: of each process.
        devices: numbers of the GPUs to use; more workers than GPUs share them.
        cell: train only the proxies of this process, here; for a queue.
        cells: print the command of each process, for a queue, and run none.
        retry: run failed proxies again.

    Raises:
        SystemExit: 130 if stopped; 1 if a proxy failed.
    """
    check_is_file(config)
    from tandem_pl.compare.run import locked
    from tandem_pl.errors import InputError
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
    from tandem_pl.search.swarm.settings import Swarm, read_swarm

    from .configured_parts import build_parts

    numbers = {"proxies": proxies, "stack": stack, "workers": workers, "threads": threads}
    ladder = read_ladder(config, folder=folder, devices=devices, **numbers)
    if ladder is not None:
        if cell is not None or cells:
            raise InputError(
                "--cell and --cells cannot be used with fidelities, whose runs are chosen by the "
                "results so far: leave them out."
            )
        with locked(ladder.folder) as lock, stop_on_sigterm():
            if retry:
                for level in ladder.swarms.values():
                    forget_failures(level.folder, read_rows(level.folder))
            try:
                text, failed = search_fidelities(ladder, build_parts, lock)
            except KeyboardInterrupt:
                print("\nstopped: run the same command to continue.")
                raise SystemExit(130) from None
        print(text)
        if failed:
            raise SystemExit(1)
        return
    swarm: Swarm = read_swarm(config, folder=folder, devices=devices, **numbers)
    if cell is not None:
        mixtures = prepare(swarm, build_parts)
        if retry:
            forget_failures(swarm.folder, swarm.numbers(cell))
        run_cell(swarm, cell, mixtures, build_parts)
        return
    with locked(swarm.folder) as lock, stop_on_sigterm():
        mixtures = prepare(swarm, build_parts)
        if cells:
            print("\n".join(cell_lines(swarm)))
            return
        if retry:
            forget_failures(swarm.folder, range(swarm.proxies))
        try:
            rows = run_swarm(swarm, mixtures, lock)
            prior = None
            while len(mixtures) < swarm.proxies:
                prior = prior or read_prior(swarm, build_parts)
                mixtures = choose_more(swarm, mixtures, prior)
                rows = run_swarm(swarm, mixtures, lock)
        except KeyboardInterrupt:
            print("\nstopped: run the same command to continue.")
            raise SystemExit(130) from None
    print(report(swarm, rows))
    if any(row["status"] != DONE for row in rows.values()):
        raise SystemExit(1)
