"""Checks of settings, with one sentence each."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, Literal

from .errors import InputError

Auto = Literal["auto"]
AUTO: Auto = "auto"  # value of settings that are chosen from the run or the data


def check_positive(key: str, value: Any) -> None:
    """Raise an error unless 0 < value < infinity."""
    if not _holds(lambda: 0 < value < math.inf):
        raise InputError(f"{key}={value} must be a positive number.")


def check_not_negative(key: str, value: Any) -> None:
    """Raise an error unless 0 <= value < infinity."""
    if not _holds(lambda: 0 <= value < math.inf):
        raise InputError(f"{key}={value} must be 0 or a positive number.")


def check_share(key: str, value: Any) -> None:
    """Raise an error unless the value is a number from 0 to 1."""
    if not _holds(lambda: 0.0 <= value <= 1.0):
        raise InputError(f"{key}={value} must be between 0 and 1.")


def check_fractions(target_fraction: float, test_fraction: float) -> None:
    """Raise an error unless target, test and the rest (for training) all get some data."""
    for key, fraction in (
        ("target_fraction", target_fraction),
        ("test_fraction", test_fraction),
        ("target_fraction + test_fraction", target_fraction + test_fraction),
    ):
        if not 0 < fraction < 1:
            raise InputError(f"{key}={fraction} must be above 0 and below 1.")


def check_below_one(key: str, value: Any) -> None:
    """Raise an error unless 0 <= value < 1."""
    if not _holds(lambda: 0.0 <= value < 1.0):
        raise InputError(f"{key}={value} must be at least 0 and below 1.")


def check_at_least(key: str, value: Any, least: int) -> None:
    """Raise an error unless the value is a whole number, `least` or more."""
    if not _holds(lambda: value >= least):
        raise InputError(f"{key}={value!r} must be at least {least}.")
    if isinstance(value, bool) or not _holds(lambda: operator.index(value) == value):
        raise InputError(f"{key}={value!r} must be a whole number, at least {least}.")


def check_count(key: str, value: object) -> None:
    """Raise an error unless the value is a whole number of 1 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{key}={value!r} must be a whole number, 1 or more.")


def check_choice(key: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise an error unless the value is one of the choices."""
    if value not in choices:
        raise InputError(f"{key}={value!r} must be one of {', '.join(map(repr, choices))}.")


def _holds(comparison: Callable[[], bool]) -> bool:
    """Return whether a comparison holds; it does not if the value is no number."""
    try:
        return bool(comparison())
    except TypeError:
        return False
