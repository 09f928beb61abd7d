"""The error for input that a user can correct, and the hint at the nearest known name."""

import difflib
import re
from collections.abc import Iterable, Iterator


class InputError(ValueError):
    r"""A setting, a file or a data set cannot be used as given.

    The message is one sentence that names the key, the value and what to do. The command line
    prints it without a stack trace.

    Example:
        >>> InputError("Caught InputError in DataLoader worker process 0.\nOriginal Traceback: ..\n"
        ...            "tandem_pl.errors.InputError: a.png is no image: remove it.")
        InputError('a.png is no image: remove it.')
    """

    def __init__(self, message: str = "") -> None:
        # PyTorch raises an error of a loader worker again, with a whole traceback as its message.
        if message.startswith("Caught ") and "Traceback" in message:
            message = message.rsplit(f"{type(self).__name__}: ", 1)[-1].strip()
        super().__init__(message)


def find_input_error(error: BaseException) -> InputError | None:
    """Return the input error that caused another error, in this process or one that it started.

    None if no input error did.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, InputError):
        cause = cause.__cause__  # jsonargparse wraps what a constructor raises
    if cause is not None:
        return cause
    # torch.multiprocessing gives the traceback of a process that it started as text
    last = re.search(r"^([\w.]+): (.+)\s*\Z", str(error), re.MULTILINE)
    if last and any(last[1] == f"{kind.__module__}.{kind.__qualname__}" for kind in _kinds()):
        return InputError(last[2])
    return None


def _kinds(kind: type[InputError] = InputError) -> Iterator[type[InputError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)


def did_you_mean(name: object, known: Iterable[object], cutoff: float = 0.6) -> str:
    """A hint that ends with a space, or "" where no known name is near.

    >>> did_you_mean("tandam", ["tandem", "uniform"])
    "did you mean 'tandem'? "
    >>> did_you_mean("x", ["tandem", "uniform"])
    ''
    """
    near = difflib.get_close_matches(str(name), list(map(str, known)), 1, cutoff)
    return f"did you mean {near[0]!r}? " if near else ""
