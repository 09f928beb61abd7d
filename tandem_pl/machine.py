"""What the machine offers."""

import os
import sys

MOSTLY_BUSY = 0.75  # share of the cores


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def choose_threads(threads: int, cores: int, busy: float) -> int:
    """Return how many threads to use: fewer than `threads` if most of the cores are busy.

    Threads wait for each other after each operation, so that more threads than idle cores make
    small networks many times slower: the quickstart on two busy cores takes 1.1 steps a second
    with two threads and 8.8 with one.

    Args:
        threads: that torch would use.
        cores: that this process may use.
        busy: share of the machine's cores that other processes use.

    >>> choose_threads(64, 64, 0.9), choose_threads(64, 64, 0.3), choose_threads(2, 2, 1.5)
    (6, 64, 1)
    """
    idle = max(int(cores * (1 - busy)), 1)
    return min(idle, threads) if busy >= MOSTLY_BUSY else threads


def share_of_busy_cores() -> float:
    """Return the load of the last minute over the machine's cores; 0 if it is not known."""
    return 0.0 if sys.platform == "win32" else os.getloadavg()[0] / (os.cpu_count() or 1)
