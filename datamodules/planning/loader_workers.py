"""Loader workers that exit with their parent, and not at SIGTERM."""

import multiprocessing
import os
import signal
import threading


def outlive_sigterm(worker: int = 0) -> None:
    """Exit at the parent's SIGTERM only: the `worker_init_fn` of a DataLoader.

    Clusters signal every process of a job. A worker that exits then ends the run before the run has
    saved its state. Workers exit when the run ends them, or with their parent. This has no effect
    on systems that do not tell who sent a signal (macOS, Windows).

    Args:
        worker: its number, not used.
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
