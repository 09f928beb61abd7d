"""Names of a package that are imported when they are first used, so that commands start fast."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package.

    Args:
        package: its `__name__`.
        homes: name -> the module in the package that defines it.

    >>> find, names, _ = lazy_names("tandem_pl", {"Mixture": "mixture"})
    >>> find("Mixture").__name__, names()
    ('Mixture', ['Mixture'])
    """

    def find(name: str) -> Any:
        if name in homes:
            return getattr(import_module(f"{package}.{homes[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find, lambda: sorted(homes), list(homes)
