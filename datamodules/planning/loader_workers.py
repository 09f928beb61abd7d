"""Loader workers that live as long as the run does."""

import multiprocessing
import os
import signal
import threading


def outlive_sigterm(worker: int = 0) -> None:
    """Lets this process end at its parent's SIGTERM only: the `worker_init_fn` of a DataLoader.

    Clusters signal every process of a job. A worker that dies of it takes the run with it before
    the run has saved its state. Workers go when the run asks them to, or when it is no more.
    Without effect where the system does not tell who sent a signal (macOS, Windows).

    Args:
        worker: its number, which makes no difference.
    """
    process = multiprocessing.parent_process()
    parent = process.pid if process is not None else os.getppid()
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # threads to come inherit it
        threading.Thread(target=_wait_for_parent, args=(parent,), daemon=True).start()


def _wait_for_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
