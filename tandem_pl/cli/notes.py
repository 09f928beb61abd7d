"""How the command prints warnings of this package: one line, without path and source code."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

# In a checkout the last two are not in the folder of the first.
PACKAGES = ("tandem_pl", "tandem_pl.callbacks", "tandem_pl.datamodules")


@contextlib.contextmanager
def print_own_warnings_as_notes() -> Iterator[None]:
    """Print a warning that is raised in this package as `tandem: note: MESSAGE`.

    This changes the text alone, so filters hold and `pytest.warns` sees the warnings.
    """
    before = warnings.formatwarning

    def write(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,
    ) -> str:
        if not is_own(filename):
            return before(message, category, filename, lineno, line)
        return f"tandem: note: {' '.join(str(message).splitlines())}\n"

    warnings.formatwarning = write
    try:
        yield
    finally:
        warnings.formatwarning = before


def is_own(filename: str) -> bool:
    """Return whether a file is of this package.

    >>> is_own(__file__), is_own(warnings.__file__)
    (True, False)
    """
    specs = [find_spec(package) for package in PACKAGES]
    folders = [folder for spec in specs if spec for folder in spec.submodule_search_locations or ()]
    return any(Path(filename).is_relative_to(folder) for folder in folders)
