"""Dropout and augmentation as functions of (seed, step, rank), the same after a resume."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

# Used in place of NumPy's generator, whose state takes long to save and restore.
_SPARE = np.random.MT19937(0)


@contextmanager
def private_randomness(device: torch.device) -> Iterator[None]:
    """Restore torch's global generators on exit."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices, device_type="cuda"):
        yield


def seed_generators(device: torch.device, *numbers: int) -> None:
    """Seed the generators that a forward on `device` draws from, by a hash of the numbers."""
    state = hash_numbers(*numbers)
    torch.default_generator.manual_seed(state)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(state)
    elif device.type == "mps":
        torch.mps.manual_seed(state)


@contextmanager
def seeded_everywhere(*numbers: int) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and torch (on the CPU); restore them on exit.

    For code of others that draws from them, as augmentations do. Only NumPy's stored second
    Gaussian of a pair is not restored. Do not nest it.

    >>> with seeded_everywhere(0, 7):
    ...     first = random.random(), np.random.rand(), float(torch.rand(()))
    >>> with seeded_everywhere(0, 7):
    ...     first == (random.random(), np.random.rand(), float(torch.rand(())))
    True
    """
    seed = hash_numbers(*numbers)
    numpy: Any = np.random  # its stubs lack the next two functions
    before = random.getstate(), numpy.get_bit_generator(), torch.default_generator.get_state()
    random.seed(seed)
    numpy.set_bit_generator(_SPARE)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        numpy.set_bit_generator(before[1])
        torch.default_generator.set_state(before[2])


def hash_numbers(*numbers: int) -> int:
    """Return 64 bits; neighbouring numbers give unrelated bits (splitmix64)."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state
