"""Text without anything to learn for another domain: random characters, and tables of numbers."""

import numpy as np
from numpy.random import Generator

DOCUMENT_BYTES = 8_000
LINE = 80  # characters
FIRST, LAST = ord(" "), ord("~")  # printable ASCII


def _random_line(number: int, generator: Generator) -> str:
    codes = generator.integers(FIRST, LAST + 1, LINE - 1)
    return codes.astype(np.uint8).tobytes().decode("ascii")


def _numbers_line(number: int, generator: Generator) -> str:
    x, y = generator.normal(size=2)
    return f"{number},{x:.4f},{y:.4f},{generator.integers(1000)}"


MADE = {"noise": _random_line, "numbers": _numbers_line}


def make_text(kind: str, size: int, generator: Generator) -> list[str]:
    """Make documents of about `size` bytes together.

    Args:
        kind: "noise", printable characters drawn evenly, or "numbers", tables of random numbers.
        size: bytes.
        generator: source of the numbers.

    Example:
        >>> texts = make_text("numbers", 20_000, np.random.default_rng(0))
        >>> [len(text) // 1000 for text in texts], texts[0].splitlines()[1]
        ([8, 8, 3], '1,0.1049,-0.5357,40')
    """
    documents: list[str] = []
    number, left = 0, size
    while left > 0:
        lines: list[str] = []
        length = 0
        while length < min(left, DOCUMENT_BYTES):
            lines.append(MADE[kind](number, generator))
            length += len(lines[-1]) + 1
            number += 1
        documents.append("\n".join(lines) + "\n")
        left -= length
    return documents
