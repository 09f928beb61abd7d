"""Swarms of tiny networks, on data and objectives of one's own."""

import pandas as pd
import yaml

MODULE = """
import torch
from tandem_pl.datamodules import MixtureDataModule

class Rows(torch.utils.data.Dataset):
    def __init__(self, size, seed):
        self.rows = torch.randn(size, 4, generator=torch.Generator().manual_seed(seed))
        self.rows[:, 3] += seed
    def __len__(self):
        return len(self.rows)
    def __getitem__(self, index):
        return self.rows[index]

class Data(MixtureDataModule):
    def __init__(self, target: bool = True, bad: str = "", seed: int = 0):
        train = {name: Rows(20, m) for m, name in enumerate("abc")}
        if bad:
            train[bad].rows[:] = torch.nan
        held_out = {name: Rows(9, m) for m, name in enumerate("ab")}
        shares = {"a": 0.25, "b": 0.75}
        super().__init__(train, held_out if target else None, batch_size=6, seed=seed,
                         target_weights=shares if target else None)

def squares(network, samples):
    return (network(samples[:, :3]).squeeze(1) - samples[:, 3]).square()

def branching(network, samples):
    losses = squares(network, samples)
    return losses if losses.sum() > 0 else -losses
"""
BASE = {
    "trainer": {
        "max_steps": 20,
        "accelerator": "cpu",
        "callbacks": [{"class_path": "tandem_pl.callbacks.MixtureMonitor"}],
    },
    "model": {
        "class_path": "tandem_pl.TandemModule",
        "init_args": {
            "network": {
                "class_path": "torch.nn.Linear",
                "init_args": {"in_features": 3, "out_features": 1},
            },
            "objective": "swarm_parts.squares",
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
            "gradient_clip_val": 1.0,
        },
    },
    "data": {"class_path": "swarm_parts.Data", "init_args": {}},
}
SCRIPT = """
import sys, yaml
from pathlib import Path
from tandem_pl.search.swarm.rows import read_rows, row_of, write_row
settings, cell = yaml.safe_load(open(sys.argv[1])), int(sys.argv[3])
if cell == 1:
    sys.exit("tandem: error: it was asked to fail.")
folder = Path(settings["folder"])
for number in range(cell * settings["stack"], (cell + 1) * settings["stack"]):
    if number not in read_rows(folder):
        print("trained", number)
        write_row(folder, row_of(number, {"a": 1.0}, {"a": 2.0}, {"a": 1.0}, {}))
"""


def swarm(place, name="swarm", **keys):
    content = {"base": BASE, "proxies": 6, "stack": 3, "prior": "uniform", "workers": 1, **keys}
    (place / f"{name}.yaml").write_text(yaml.safe_dump(content | {"folder": name}, sort_keys=False))
    return f"{name}.yaml"


def table(name="swarm"):
    return pd.read_csv(f"{name}/runs.csv", dtype={"run": str})
