"""An input error on one rank ends all ranks within seconds, with its sentence and no stack trace.

Without this, the other ranks wait for the one that ended, or fail with a trace of their backend,
and Lightning kills rank zero if a process that it started ends with an error.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any

from lightning.pytorch import Trainer
from torch import distributed

from tandem_pl.errors import InputError, find_input_error

ERROR, SEEN = "tandem_pl/input_error", "tandem_pl/input_error_seen"
POLL = 0.25  # seconds between two looks at what other ranks tell
PATIENCE = 2.0  # seconds in which a rank hears why its peer is gone
GRACE = 5.0  # seconds until a rank that waits for its peers is ended


@contextmanager
def one_error_for_all_ranks(trainer: Trainer) -> Iterator[None]:
    """Run a verb of the trainer; if any rank raises an input error, end all with that error.

    Rank zero raises it, and the others exit without a word: with code 2, or 0 if Lightning started
    them, since it kills rank zero otherwise.

    Raises:
        InputError: on rank zero, that of any rank.
        SystemExit: on the others.
    """
    if trainer.world_size == 1:
        yield
        return
    ranks = _Ranks(trainer)
    ranks.start()
    try:
        yield
    except Exception as error:
        ranks.end_all(error)
        raise
    finally:
        ranks.done = True


class _Ranks(threading.Thread):
    """Tells the other ranks of an error, and hears of theirs, by the store of the process group.

    A thread, because a rank that waits for others in a collective operation does nothing else.
    """

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(daemon=True, name="input-errors-of-ranks")
        self.trainer = trainer
        self.done = False
        self._store: Any = None
        self._sentence = ""  # of another rank's error
        self._code = 2  # exit code of this rank

    def run(self) -> None:
        while not self.done and not self._hear():
            sleep(POLL)
        end = monotonic() + GRACE
        while not self.done and monotonic() < end:
            sleep(POLL)
        if not self.done:  # the main thread waits for a rank that is gone
            if self.trainer.is_global_zero:
                print(f"tandem: error: {self._sentence}", file=sys.stderr)
                self._end_children()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self._code)

    def end_all(self, error: Exception) -> None:
        """Raise what ends this rank, unless the error is no input error of any rank."""
        own = find_input_error(error)
        if self._connect() is None:
            return
        if own is not None:
            self._call(lambda store: store.set(ERROR, str(own)))
        elif not self._wait(self._hear, PATIENCE):
            return
        if self.trainer.is_global_zero:
            self._call(lambda store: store.set(SEEN, self._codes()))
            if not self._end_children():
                sleep(4 * POLL)  # the store is this process's: others must have heard of the error
            if own is None:
                raise InputError(self._sentence) from error
            return
        if own is None or self._wait(self._hear_code, GRACE):
            raise SystemExit(self._code)

    def _hear(self) -> bool:
        """Return whether any rank has told of an error; rank zero says that it knows."""
        if not self._sentence and self._call(lambda store: store.check([ERROR])):
            self._sentence = self._call(lambda store: store.get(ERROR)).decode()
            if self.trainer.is_global_zero:
                self._call(lambda store: store.set(SEEN, self._codes()))
        if self._sentence:
            self._hear_code()
        return bool(self._sentence)

    def _hear_code(self) -> bool:
        """Return whether rank zero knows of the error, and note the exit code of this rank."""
        if not self._call(lambda store: store.check([SEEN])):
            return False
        if self.trainer.local_rank > 0:
            self._code = int(self._call(lambda store: store.get(SEEN)))
        return True

    def _codes(self) -> str:
        return "0" if self._children() else "2"

    def _children(self) -> list[Any]:
        """Return the processes that Lightning started for the other ranks."""
        return getattr(self.trainer.strategy.launcher, "procs", None) or []

    def _end_children(self) -> bool:
        for process in self._children():
            process.kill()
        return bool(self._children())

    def _wait(self, heard: Callable[[], bool], seconds: float) -> bool:
        end = monotonic() + seconds
        while not heard():
            if monotonic() > end:
                return False
            sleep(POLL)
        return True

    def _call(self, action: Callable[[Any], Any]) -> Any:
        """Return what the store says; None if there is no store, or rank zero has ended."""
        store = self._connect()
        try:
            return None if store is None else action(store)
        except RuntimeError:
            return None

    def _connect(self) -> Any:
        if self._store is None and distributed.is_initialized():
            store = distributed.distributed_c10d._get_default_store()
            try:
                self._store = store.clone()  # the main thread may block the other for long
            except (AttributeError, RuntimeError):
                self._store = store
        return self._store
