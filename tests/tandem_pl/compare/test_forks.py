"""Processes forked from one with the imports: exit codes, output, signals, and the end of all."""

import os
import signal
import sys
import time

import pytest

from tandem_pl.compare.forks import Forks

#: the server, with a worker that does what its first argument says and without slow imports
SERVER = """
import os, sys, threading, time, types
from tandem_pl.cli import compare_worker as worker
sys.modules["tandem_pl.cli.lightning_cli"] = types.ModuleType("lightning_cli")
def work(config, *rest):
    print("working", os.environ["MARK"], os.getsid(0) == os.getpid(), flush=True)
    what = os.path.basename(config)
    if what == "break":
        raise OSError("it broke.")
    time.sleep(60 * (what == "sleep"))
    return 3 * (what == "three")
worker.main, worker._read = work, lambda config: {}
if "threads" in sys.argv:
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
with os.fdopen(os.dup(0)) as requests, os.fdopen(os.dup(1), "w") as answers:
    worker.serve(requests, answers)
"""


@pytest.fixture
def forks(tmp_path, monkeypatch):
    (tmp_path / "server.py").write_text(SERVER)
    monkeypatch.setattr(Forks, "command", (sys.executable, str(tmp_path / "server.py")))
    return Forks(os.environ | {"MARK": "here"}, ())


def run(forks, what, folder):
    process = forks.start([folder / what], folder / f"{what}.txt")
    return process.wait(30), (folder / f"{what}.txt").read_text()


def test_a_forked_process_ends_as_one_of_its_own(forks, tmp_path):
    with forks:
        assert run(forks, "nothing", tmp_path) == (0, "working here True\n")
        assert run(forks, "three", tmp_path)[0] == 3
        code, text = run(forks, "break", tmp_path)
        assert (code, text.splitlines()[-1]) == (1, "OSError: it broke.")
        sleeping = forks.start([tmp_path / "sleep"], tmp_path / "sleep.txt")
        assert sleeping.poll() is None
        while not (tmp_path / "sleep.txt").exists():
            time.sleep(0.01)
        os.killpg(sleeping.pid, signal.SIGTERM)
        assert sleeping.wait(30) == -signal.SIGTERM
        left = forks.start([tmp_path / "sleep"], tmp_path / "left.txt")
        while not (tmp_path / "left.txt").exists():
            time.sleep(0.01)
    assert left.wait(30) < 0  # stopped with the process that forked it
    with pytest.raises(ProcessLookupError):
        os.kill(left.pid, 0)


def test_a_process_with_threads_does_not_fork(forks, tmp_path, monkeypatch):
    monkeypatch.setattr(Forks, "command", (*Forks.command, "threads"))
    with forks:
        assert forks.start([tmp_path / "nothing"], tmp_path / "log.txt") is None
