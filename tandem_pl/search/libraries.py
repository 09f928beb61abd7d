"""Libraries that only some laws and searches need, of the extra `search`."""

from __future__ import annotations

import warnings
from importlib import import_module

from tandem_pl.errors import InputError


def require(module: str, library: str, what: str, otherwise: str = "") -> None:
    """Import a module, so that a missing library is reported before the work that needs it.

    Args:
        module: to import.
        library: what it is called.
        what: needs it.
        otherwise: what to do without it, after "or".

    Raises:
        InputError: the library is not installed, or cannot be loaded.

    >>> require("nomodule", "NoModule", "the law 'no'", "use another law")
    Traceback (most recent call last):
    ...
    tandem_pl.errors.InputError: the law 'no' needs NoModule (No module named 'nomodule'): pip \
install 'tandem_pl[search]', or use another law.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import_module(module)
    except (ImportError, OSError) as error:  # OSError: a system library is missing, such as OpenMP
        more = f", or {otherwise}" if otherwise else ""
        raise InputError(
            f"{what} needs {library} ({error}): pip install 'tandem_pl[search]'{more}."
        ) from None
