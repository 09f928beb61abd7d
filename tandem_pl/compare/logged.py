"""Running a function as the main program of its process, with the output in a file."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable


def run_logged(work: Callable[[], int], log: str) -> int:
    """Return the exit code of a function, as a process of its own would.

    The process reads nothing and writes to `log` from then on.

    Raises:
        OSError: the log cannot be written.
    """
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (file, 1), (file, 2)):
        os.dup2(source, target)
    code: int | str | None = 1
    try:
        code = work()
    except SystemExit as stop:
        code = stop.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)
