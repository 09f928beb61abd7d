"""Executors: processes of this machine and tasks of Ray, killed, retried and cancelled."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import yaml
from small_study import BASE, SCRIPT, compare, in_folder, pretend, stamps, write_study

from tandem_pl.cli import main
from tandem_pl.compare.jobs import FolderJob
from tandem_pl.compare.local import LocalProcesses, cell_environment
from tandem_pl.errors import InputError
from tandem_pl.search.swarm import run as swarm_run

#: kills its process as often as its seed says
KILLED = """
import os, pathlib, signal, sys, yaml
config = yaml.safe_load(open(sys.argv[1]))
tries = pathlib.Path("tries" + str(config["seed_everything"]))
with open(tries, "a") as file:
    file.write("x")
if len(tries.read_text()) <= config["seed_everything"]:
    os.kill(os.getpid(), signal.SIGKILL)
"""
SLEEP = """
import os, pathlib, sys, time
pathlib.Path(f"pid{os.getpid()}").touch()
time.sleep(60)
"""
ROWS = """
import os, signal, sys, yaml
from pathlib import Path
from tandem_pl.search.swarm.rows import row_of, write_row
settings, cell = yaml.safe_load(open(sys.argv[1])), int(sys.argv[3])
if cell == 1:
    os.kill(os.getpid(), signal.SIGKILL)
print("trained", cell)
write_row(Path(settings["folder"]), row_of(cell, {"a": 1.0}, {"a": 2.0}, {"a": 1.0}, {}))
"""


def wait_for(condition):
    last = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < last
        time.sleep(0.02)


def test_the_gpu_with_the_fewest_processes_is_next(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")  # as a queue sets it
    code = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(60)"
    command, logs = [sys.executable, "-c", code], [tmp_path / f"{n}.txt" for n in range(4)]
    with LocalProcesses(devices=[0, 1]) as executor:
        processes = [executor.start(command, log, 1) for log in logs[:3]]
        wait_for(lambda: all(log.read_text() for log in logs[:3]))
        processes[1].end()
        processes.append(executor.start(command, logs[3], 1))
        wait_for(logs[3].read_text)
        for process in processes:
            process.end()
    assert [log.read_text() for log in logs] == ["4\n", "6\n", "4\n", "6\n"]
    assert [process.poll() for process in processes] == [-signal.SIGTERM] * 4


def test_a_process_whose_start_was_interrupted_is_stopped(tmp_path, monkeypatch):
    started = []

    def interrupted(process, *arguments, **options):
        execute(process, *arguments, **options)
        started.append(process)
        raise KeyboardInterrupt

    execute = subprocess.Popen._execute_child
    monkeypatch.setattr(subprocess.Popen, "_execute_child", interrupted)
    with pytest.raises(KeyboardInterrupt), LocalProcesses() as executor:
        executor.start([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log", 1)
    assert started[0].poll() == -signal.SIGTERM


def test_a_gpu_that_the_queue_did_not_give_is_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6")
    assert cell_environment(1, 0)["CUDA_VISIBLE_DEVICES"] == "6"
    with pytest.raises(InputError, match="devices=1 asks for more GPUs than the 1 of CUDA_VISIBLE"):
        cell_environment(1, 1)


class Scripted:
    """An executor whose processes have ended with these codes."""

    retries = 1

    def __init__(self, *codes):
        self.codes = list(codes)

    def start(self, command, log, threads):
        log.write_text("")
        code = self.codes.pop(0)
        return type("Ended", (), {"poll": lambda self: code})()


@pytest.mark.parametrize(
    ("codes", "failure"),
    [((-9, 0), None), ((-9, -9), "it was killed by signal 9."), ((3,), "it ended with code 3.")],
)
def test_a_killed_process_is_started_once_more(tmp_path, codes, failure):
    executor = Scripted(*codes)
    job = FolderJob(tmp_path, ["x"], 1, executor)
    for _ in codes[1:]:
        assert not job.poll()
    assert job.poll()
    assert executor.codes == []
    assert job.failure == failure
    assert (tmp_path / "failed.txt").exists() == (failure is not None)


def test_what_ray_needs_is_one_sentence(tmp_path, monkeypatch, capsys):
    in_folder(tmp_path, monkeypatch)
    write_study(tmp_path, methods=["uniform"], executor="ray", workers=None)
    assert compare() == 2
    assert "executor='ray' needs workers" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ray", None)
    assert compare("--workers", 2) == 2
    assert "pip install 'tandem_pl[ray]'" in capsys.readouterr().err
    assert compare("--executor", "slurm") == 2
    assert "executor='slurm' must be" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["file", "module"])
def test_a_worker_of_ray_runs_a_command_as_a_process_would(tmp_path, what):
    (tmp_path / "part.py").write_text("import sys; print(sys.argv[1:]); sys.exit('it broke.')")
    command = {"file": ["python", "part.py", "1"], "module": ["python", "-m", "part", "1"]}[what]
    arguments = command, str(tmp_path / "log.txt"), str(tmp_path), {"PYTHONPATH": str(tmp_path)}
    code = (
        "import sys; from tandem_pl.compare.ray_tasks import run_in_worker; "
        f"sys.exit(run_in_worker(*{arguments}))"
    )
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "elsewhere")
    assert done.returncode == 1
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert sorted(lines) == ["['1']", "it broke."]  # in either order: stdout is buffered


@pytest.fixture(scope="module")
def ray():
    """A cluster of this machine with two workers."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80 * 2**20)
    yield ray
    ray.shutdown()


@pytest.fixture
def ray_place(ray, tmp_path, monkeypatch):
    """A folder to work in."""
    in_folder(tmp_path, monkeypatch)
    return tmp_path


def test_ray_tries_a_killed_cell_once_more_and_the_rest_go_on(ray_place, monkeypatch, capsys):
    pretend(ray_place, monkeypatch, KILLED + SCRIPT)
    write_study(ray_place, methods=["uniform"], seeds=[0, 1, 2, 3], executor="ray", workers=2)
    with pytest.raises(SystemExit) as stopped:
        compare()
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert said.count("failed: its Ray worker was lost: WorkerCrashedError.") == 2
    first = stamps(ray_place / "out")
    assert {path.parent.name for path in first} == {"seed-0", "seed-1"}
    assert [len((ray_place / f"tries{n}").read_text()) for n in range(1, 4)] == [2, 2, 2]
    assert compare() == 0
    again = stamps(ray_place / "out")
    assert len(again) == 4
    assert all(again[path] == stamp for path, stamp in first.items())


def test_ray_tasks_end_on_ctrl_c(ray_place, monkeypatch):
    pretend(ray_place, monkeypatch, SLEEP)
    write_study(ray_place, methods=["uniform"], executor="ray", workers=2)

    def interrupt():
        wait_for(lambda: list(ray_place.glob("pid*")))
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(SystemExit) as stopped:
        compare()
    assert stopped.value.code == 130
    (path,) = ray_place.glob("pid*")
    wait_for(lambda: not os.path.exists(f"/proc/{path.name[3:]}"))


def test_a_swarm_on_ray(ray_place, monkeypatch, capsys):
    (ray_place / "script.py").write_text(ROWS)
    monkeypatch.setattr(swarm_run, "COMMAND", (sys.executable, "script.py"))
    content = {"base": BASE, "proxies": 3, "stack": 1, "prior": "uniform", "folder": "swarm"}
    (ray_place / "swarm.yaml").write_text(yaml.safe_dump(content | {"executor": "ray"}))
    with pytest.raises(SystemExit):
        main(["search", "run", "swarm.yaml", "--workers", "2"])
    said = capsys.readouterr()
    assert "cell 1 failed: its Ray worker was lost: WorkerCrashedError." in said.err
    assert "2 of 3 proxies are done" in said.out
    assert "trained 2" in (ray_place / "swarm/cells/00002/log.txt").read_text()
