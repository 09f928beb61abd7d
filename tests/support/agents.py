"""A policy for the toy problem, made by hand, for tests of the method that asks it."""

import atexit
import shutil
import tempfile
from pathlib import Path

import torch
from toy import DOMAINS

from tandem_pl.callbacks.mixing_policy import MixingPolicy, layers


def toy_policy(domains=DOMAINS, targets=("t",)) -> MixingPolicy:
    """More of "twin" and less of "noise", and by how much depends on the state."""
    size = 2 * len(domains) + 2 * len(targets)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = layers(size, 8, len(domains))
    with torch.no_grad():
        wanted = {"twin": 1.0, "noise": -1.0}
        network[-1].bias.copy_(torch.tensor([wanted.get(name, 0.0) for name in domains]))
    return MixingPolicy(domains, targets, network, torch.zeros(size), torch.ones(size))


def toy_agent() -> str:
    """Return the path of its file, which is removed at the end of the process."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / "agent.safetensors"
    toy_policy().save(path)
    return str(path)
