"""The table of methods: what each is, what it needs and what it costs.

The command line's choices, the documentation, the tests that every method must pass and
`tandem compare` read this table; a reweighting callback without a row fails the suite.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

from tandem_pl.errors import InputError


class Method(NamedTuple):
    """One row.

    Args:
        callback: name of the class in `tandem_pl.callbacks`.
        about: one line.
        paper: where it is from, or "" for a baseline.
        cost: of an episode beyond its training steps, in proxy steps, as a formula.
        settings: of the callback, where they differ from its defaults.
        module: the module that it needs.
        needs_reference: whether a network trained before is needed.
        needs_target: whether it looks at target data.
        result: which weights to train with afterwards, "average" or "last".
    """

    callback: str
    about: str
    paper: str = ""
    cost: str = "0"
    settings: Mapping[str, Any] = {}
    module: str = "MixtureModule"
    needs_reference: bool = False
    needs_target: bool = False
    result: str = "average"

    def load(self) -> type:
        """The callback's class."""
        return getattr(import_module("tandem_pl.callbacks"), self.callback)


METHODS: dict[str, Method] = {
    "tandem": Method(
        "TandemReweighting",
        "training loss under a reference that also sees the target, against the proxy's",
        "arXiv 2606.04401",
        "2K - 1 + 2/3 V",
        module="TandemModule",
        needs_target=True,
    ),
    "uniform": Method("FixedMixture", "every domain alike", settings={"weights": "uniform"}),
    "proportional": Method(
        "FixedMixture", "as much as there is", settings={"weights": "proportional"}
    ),
    "temperature": Method(
        "FixedMixture",
        "size to the power 1/2, between the two",
        "Conneau & Lample 2019, arXiv 1901.07291",
        settings={"weights": "temperature:2"},
    ),
}


def find_method(name: str) -> Method:
    """The row of a name.

    Raises:
        InputError: no such method.

    >>> find_method("tandem").needs_target
    True
    """
    if name not in METHODS:
        import difflib

        near = difflib.get_close_matches(name, METHODS, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"method {name!r} is unknown: {hint}use one of {', '.join(METHODS)}.")
    return METHODS[name]
