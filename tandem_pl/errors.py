"""The error for input that a user can correct, and the hint at the nearest known name."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A setting, a file or a data set cannot be used as given.

    The message is one sentence that names the key, the value and what to do. The command line
    prints it without a stack trace.
    """


def did_you_mean(name: object, known: Iterable[object], cutoff: float = 0.6) -> str:
    """A hint that ends with a space, or "" where no known name is near.

    >>> did_you_mean("tandam", ["tandem", "uniform"])
    "did you mean 'tandem'? "
    >>> did_you_mean("x", ["tandem", "uniform"])
    ''
    """
    near = difflib.get_close_matches(str(name), list(map(str, known)), 1, cutoff)
    return f"did you mean {near[0]!r}? " if near else ""
