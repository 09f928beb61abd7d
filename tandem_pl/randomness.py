"""Dropout as a pure function of (seed, step, rank), so that a resumed run draws the same masks."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def private_randomness(device: torch.device) -> Iterator[None]:
    """What happens inside leaves torch's global generators as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices, device_type="cuda"):
        yield


def seed_generators(device: torch.device, *numbers: int) -> None:
    """Seeds the generators that a forward on `device` draws from, by a hash of the numbers."""
    state = 0
    for number in numbers:  # splitmix64: neighbouring steps get unrelated seeds
        state = (state + number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    torch.default_generator.manual_seed(state)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(state)
    elif device.type == "mps":
        torch.mps.manual_seed(state)
