"""Checks take any value: what is no number is named like a number out of range."""

import math

import numpy as np
import pytest

from tandem_pl import checks
from tandem_pl.errors import InputError

RANGES = {  # check -> values that pass, and numbers that do not
    "check_positive": ((1e-9, 3, np.float32(2)), (0, -1.0, math.inf, math.nan)),
    "check_not_negative": ((0, 2.5), (-1e-9, math.inf, math.nan)),
    "check_share": ((0, 0.5, 1), (-0.1, 1.1, math.nan)),
    "check_below_one": ((0, 0.99), (-0.1, 1, math.nan)),
}


@pytest.mark.parametrize("name", RANGES)
def test_a_value_out_of_range_or_no_number_is_named(name):
    check, (passing, failing) = getattr(checks, name), RANGES[name]
    for value in passing:
        check("key", value)
    for value in (*failing, "high", None, [1]):
        with pytest.raises(InputError, match=r"^key="):
            check("key", value)


def test_at_least():
    checks.check_at_least("key", 2, 2)
    for value in (1, "two", None, math.nan):
        with pytest.raises(InputError, match=f"^key={value!r} must be at least 2"):
            checks.check_at_least("key", value, 2)
    for value in (2.5, 3.0, True):
        with pytest.raises(InputError, match=f"^key={value} must be a whole number, at least 1"):
            checks.check_at_least("key", value, 1)
