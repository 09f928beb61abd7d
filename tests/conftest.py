"""One thread a process, since the networks are tiny; and helpers that processes of tests find."""

import os
from pathlib import Path

import torch

torch.set_num_threads(1)
SUPPORT = str(Path(__file__).parent / "support")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [SUPPORT, os.environ.get("PYTHONPATH")]))
