"""Work on batches in several processes, with results in order and few batches in flight."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, TypeVar

from tandem_pl.errors import InputError

Batch = TypeVar("Batch")
Result = TypeVar("Result")

IN_FLIGHT = 3  # batches a worker: one at work, one waiting for it, one done


class Workers:
    """Processes that map a function over batches; one worker means this process.

    The results do not depend on the number of workers. Functions and batches are pickled, and the
    processes are fresh ones, which import only the module of the function.

    Args:
        count: how many processes; at least 1.

    Example:
        >>> with Workers(1) as workers:
        ...     list(workers.map(len, ["a", "bcd"]))
        [1, 3]
    """

    def __init__(self, count: int) -> None:
        if count < 1:
            raise InputError(f"workers is {count}; give at least 1.")
        self.count = count
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(
        self, function: Callable[[Batch], Result], batches: Iterable[Batch]
    ) -> Iterator[Result]:
        """Results in the order of `batches`, of which no more are taken than can be worked on.

        Raises:
            InputError: a process died, most likely of too little memory.
        """
        if self.count == 1:
            yield from map(function, batches)
            return
        waiting: deque[Future[Result]] = deque()
        try:
            for batch in batches:
                waiting.append(self._executor().submit(function, batch))
                if len(waiting) >= IN_FLIGHT * self.count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise InputError(
                f"one of workers={self.count} processes died, most likely for lack of memory; "
                "give fewer workers."
            ) from error

    def _executor(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.count, context, _begin)
        return self._pool


def default_workers() -> int:
    """The cores that this process may use."""
    affinity: Any = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _begin() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends them
