"""`tandem compare`: methods and seeds under one budget, with tables and pictures."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import NoReturn

from .arguments import run_verb
from .early_checks import check_is_file


def compare(
    *,
    config: list[str],
    folder: str | None = None,
    methods: list[str] | None = None,
    seeds: list[int] | None = None,
    workers: int | None = None,
    devices: list[int] | None = None,
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
        workers: number of runs at a time.
        devices: numbers of the GPUs to use; more workers than GPUs share them.
        overwrite: run cells again if their settings have changed.

    Raises:
        SystemExit: 130 if stopped; 1 if a cell failed.
    """
    for path in config:
        check_is_file(path)
    from tandem_pl.compare.suite import read_comparisons, run_suite, write_suite

    options = {"seeds": seeds, "workers": workers, "devices": devices, "only": methods}
    comparisons = read_comparisons(config, folder, options)
    try:
        finished = run_suite(comparisons, overwrite)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    if not write_suite(comparisons, folder, *finished):
        raise SystemExit(1)


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
