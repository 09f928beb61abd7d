"""A tiny comparison: its file, its data and objective, and a worker that pretends to train."""

import csv
import sys

import yaml

from tandem_pl.cli import main
from tandem_pl.compare.jobs import Job

MODULE = """
import torch
from tandem_pl.datamodules import MixtureDataModule

class Rows(torch.utils.data.Dataset):
    def __init__(self, size, seed):
        self.rows = torch.randn(size, 4, generator=torch.Generator().manual_seed(seed))
    def __len__(self):
        return len(self.rows)
    def __getitem__(self, index):
        return self.rows[index]

class Data(MixtureDataModule):
    def __init__(self, target: bool = True, seed: int = 0):
        sets = [{name: Rows(20, 3 * part + m) for m, name in enumerate("ab")} for part in range(3)]
        train, held_out, test = sets
        super().__init__(train, held_out if target else None, test, batch_size=6, seed=seed)

def squares(network, samples):
    return (network(samples[:, :3]).squeeze(1) - samples[:, 3]).square()
"""
BASE = {
    "trainer": {"max_steps": 20, "accelerator": "cpu", "log_every_n_steps": 10},
    "model": {
        "class_path": "tandem_pl.MixtureModule",
        "init_args": {
            "network": {
                "class_path": "torch.nn.Linear",
                "init_args": {"in_features": 3, "out_features": 1},
            },
            "objective": "small.squares",
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
        },
    },
    "data": {"class_path": "small.Data", "init_args": {}},
}
TANDEM = {"free_steps": 3, "probe_steps": 2, "measure_batches": 1}
SCRIPT = """
import pathlib, sys, time, yaml
config = yaml.safe_load(open(sys.argv[1]))
folder = pathlib.Path(sys.argv[1]).parent
callback, data = config["trainer"]["callbacks"][0], config["data"]["init_args"]
(folder / "started").touch()
time.sleep(data.get("sleep", 0))
if data.get("broken") and "trial" not in data:
    print("something long")
    sys.exit("tandem: error: broken=true was asked for.")
(folder / "run").mkdir()
loss = 1.0 + config["seed_everything"] / 10 - ("Tandem" in callback["class_path"]) / 4
(folder / "run" / "test.csv").write_text(
    f"domain,loss,perplexity\\na,{loss},1\\nb,{loss + 1},1\\nmean,0,1\\nexp(mean loss),,1\\n")
weights = {"a": 0.25, "b": 0.75}
settings = {"free_steps": 3, "probe_steps": 2, "measure_batches": 1}
(folder / "run" / "mixture.yaml").write_text(yaml.safe_dump(
    {"weights": weights, "average": weights, "steps": 20, "settings": settings}))
(folder / "seconds.txt").write_text("6.0")
"""


def in_folder(folder, monkeypatch):
    """Make a folder the current one, with a data module and an objective of one's own."""
    monkeypatch.chdir(folder)
    (folder / "small.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.syspath_prepend(folder)


def pretend(folder, monkeypatch, script=SCRIPT):
    """Let a script stand for the worker."""
    (folder / "script.py").write_text(script)
    monkeypatch.setattr(Job, "command", (sys.executable, str(folder / "script.py")))


def write_study(folder, **keys):
    """Write study.yaml: uniform and TANDEM with two seeds."""
    methods = {"uniform": None, "tandem": TANDEM}
    content = {"base": BASE, "methods": methods, "seeds": [0, 1], "folder": "out", "workers": 1}
    (folder / "study.yaml").write_text(yaml.safe_dump(content | keys))


def compare(*options):
    return main(["compare", "--config", "study.yaml", *map(str, options)])


def stamps(folder):
    return {path.parent: path.stat().st_mtime_ns for path in folder.rglob("result.yaml")}


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))
