"""The table of methods, collected from the files of this folder.

The command line, the documentation, `tandem compare` and the tests that every method must pass
read it.
"""

from __future__ import annotations

import pkgutil
from dataclasses import replace
from importlib import import_module

from tandem_pl.callbacks import methods
from tandem_pl.errors import InputError, did_you_mean

from .method import Length as Length
from .method import Method


def collect_methods() -> dict[str, Method]:
    """Return the `rows` of all classes in this folder, by name; given weights come last."""
    rows: list[Method] = []
    for file in pkgutil.iter_modules(methods.__path__):
        module = import_module(f"{methods.__name__}.{file.name}")
        for value in vars(module).values():
            if isinstance(value, type) and value.__module__ == module.__name__:
                rows += [replace(row, owner=value) for row in vars(value).get("rows", ())]
    rows.sort(key=lambda row: (row.work is None, row.name))
    return {row.name: row for row in rows}


METHODS = collect_methods()


def find_method(name: str) -> Method:
    """Return the row of a method.

    Raises:
        InputError: no such method.

    >>> find_method("tandem").needs_target
    True
    """
    if name not in METHODS:
        hint = did_you_mean(name, METHODS)
        raise InputError(f"method {name!r} is unknown: {hint}use one of {', '.join(METHODS)}.")
    return METHODS[name]


def methods_table() -> str:
    """Return the table as Markdown."""
    lines = [
        "| method | callback | what it goes by | needs | extra cost |",
        "|---|---|---|---|---|",
    ]
    for name, row in METHODS.items():
        settings = "".join(f", `{key}: {value}`" for key, value in row.settings.items())
        about = row.about + (f" ({row.paper})" if row.paper else "")
        needs = ["a reference run"] * row.needs_reference + ["target data"] * row.needs_target
        cells = name, f"`{row.callback}`{settings}", about, " and ".join(needs), row.cost
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
