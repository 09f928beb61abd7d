"""Work on batches in several threads, with results in order and few batches in flight."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Batch = TypeVar("Batch")
Result = TypeVar("Result")


def map_in_threads(
    function: Callable[[Batch], Result], batches: Iterable[Batch], threads: int
) -> Iterator[Result]:
    """Yield `function(batch)` in the order of batches; few more are taken than are at work.

    Threads suffice, since NumPy, hashlib and `tokenizers` release Python's lock.

    Example:
        >>> list(map_in_threads(len, ["a", "bcd"], 2))
        [1, 3]
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # these threads are the parallelism
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for batch in batches:
            waiting.append(pool.submit(function, batch))
            if len(waiting) >= 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
