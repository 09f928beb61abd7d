"""Shuffled orders that are computed, not stored.

A pass over a domain is a permutation whose entries are computed from a key one by one, so neither
start-up time nor memory grows with the data, and a batch of many domains is one array operation.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # odd, without a pattern in its bits
SALTS = np.arange(8, dtype=np.uint64) * GOLDEN  # one a round


def key_of(*parts: object) -> int:
    """Return 64 bits for a seed and names, the same on every machine and run.

    >>> key_of(0, "train", "code") == key_of(0, "train", "code") != key_of(1, "train", "code")
    True
    """
    text = "\0".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def mix(words: Words) -> Words:
    """Scramble 64-bit words: a bijection in which each input bit flips half of the output bits.

    Multiplications wrap around. The constants are those of the finaliser of splitmix64.
    """
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def shuffled(keys: Words, passes: Ints, places: Ints, sizes: Ints) -> Ints:
    """Return the index [N] of the sample at `places` of pass number `passes`, for N rows at once.

    A Feistel network: a place is written as two digits of about sqrt(size) values, and each is in
    turn shifted by a hash of the other; results outside the size go through the network again. For
    a given key, pass and size this is a permutation of 0 ... size - 1.

    Args:
        keys: [N] of the rows' domains.
        passes: [N] from 0.
        places: [N] from 0 to size - 1.
        sizes: [N] of the rows' domains.

    >>> places, one = np.arange(6), np.ones(6, np.int64)
    >>> sorted(shuffled(one.astype(np.uint64), one, places, 6 * one).tolist())
    [0, 1, 2, 3, 4, 5]
    """
    keys = mix(keys + (passes.astype(np.uint64) + np.uint64(1)) * GOLDEN)
    limit, numbers = sizes.astype(np.uint64), places.astype(np.uint64)
    high = np.ceil(np.sqrt(sizes)).astype(np.uint64)
    low = (limit + high - np.uint64(1)) // high
    outside = np.arange(len(numbers))
    while len(outside):
        numbers[outside] = _network(numbers[outside], keys[outside], high[outside], low[outside])
        outside = outside[numbers[outside] >= limit[outside]]
    return numbers.astype(np.int64)


def _network(numbers: Words, keys: Words, high: Words, low: Words) -> Words:
    """Go through the network once: a permutation of 0 ... high x low - 1."""
    first, second = numbers // low, numbers % low
    for number, salt in enumerate(SALTS):
        if number % 2:
            second = (second + mix(first ^ (keys + salt)) % low) % low
        else:
            first = (first + mix(second ^ (keys + salt)) % high) % high
    return first * low + second
