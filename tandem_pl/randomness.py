"""Dropout and augmentation as functions of (seed, step, rank), so that a resume draws the same."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_SPARE = np.random.MT19937(0)  # stands in for NumPy's, whose state takes long to save and restore


@contextmanager
def private_randomness(device: torch.device) -> Iterator[None]:
    """What happens inside leaves torch's global generators as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices, device_type="cuda"):
        yield


def seed_generators(device: torch.device, *numbers: int) -> None:
    """Seeds the generators that a forward on `device` draws from, by a hash of the numbers."""
    state = hash_numbers(*numbers)
    torch.default_generator.manual_seed(state)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(state)
    elif device.type == "mps":
        torch.mps.manual_seed(state)


@contextmanager
def seeded_everywhere(*numbers: int) -> Iterator[None]:
    """The global generators of Python, NumPy and torch (on the CPU) are seeded by these numbers.

    After, they are as they were, but that NumPy forgets the second one of a pair of Gaussians. For
    others' code that draws from them, as augmentations do. Not to be nested.

    >>> with seeded_everywhere(0, 7):
    ...     first = random.random(), np.random.rand(), float(torch.rand(()))
    >>> with seeded_everywhere(0, 7):
    ...     first == (random.random(), np.random.rand(), float(torch.rand(())))
    True
    """
    seed = hash_numbers(*numbers)
    numpy: Any = np.random  # whose stubs lack the next two
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
    """64 bits; neighbouring numbers get unrelated ones (splitmix64)."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state
