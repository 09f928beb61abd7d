"""Locks of folders and cells, on one machine or on a file system that several share.

They are `flock`'s: a process that is killed has no lock any more, unless another that it started
holds the file open. NFS takes them too; if a file system has no locks, nothing is locked.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tandem_pl.errors import InputError

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
WAIT_SECONDS = 0.2


@contextlib.contextmanager
def locked(path: Path, reason: str, shared: bool = False, wait: float = 0.0) -> Iterator[IO | None]:
    """Lock a file, which is made if it is not there.

    Args:
        path: the file.
        reason: what the error says.
        shared: whether others may lock it in this way at the same time.
        wait: seconds to wait for another lock to end.

    Raises:
        InputError: it is locked, or its folder cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {path.parent} cannot be made: {error.strerror}.") from None
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield None
        return
    last = time.monotonic() + wait
    with open(path, "a+") as file:
        while True:
            try:
                fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno in NO_LOCKS:
                    break
                if time.monotonic() >= last:
                    raise InputError(reason) from None
            time.sleep(WAIT_SECONDS)
        yield file


def lock_folder(folder: Path, shared: bool = False) -> contextlib.AbstractContextManager[IO | None]:
    """Lock a folder of cells: for all of them, or shared with others that run one cell each.

    Raises:
        InputError: another command uses it, or cells of one that was killed.
    """
    reason = (
        f"folder={str(folder)!r} is in use by another command or its cells: wait for them to end, "
        "or give another folder."
    )
    return locked(folder / ".lock", reason, shared)


def lock_cell(
    path: Path, name: str, wait: float = 0.0
) -> contextlib.AbstractContextManager[IO | None]:
    """Lock a cell by a file.

    Raises:
        InputError: another process runs it, here or on another machine.
    """
    return locked(path, in_use(name), wait=wait)


def in_use(name: str) -> str:
    """Return what the error of a locked cell says."""
    return f"{name} is run by another process, here or on another machine."
