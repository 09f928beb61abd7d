"""Tests run in one thread: the networks are tiny, and parallel runs would wait for each other."""

import torch

torch.set_num_threads(1)
