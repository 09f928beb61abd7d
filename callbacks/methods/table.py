"""The table of methods: what each is, what it needs and what it costs.

The command line's choices, the documentation, the tests that every method must pass and
`tandem compare` read this table; a reweighting callback without a row fails the suite.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

from tandem_pl.errors import InputError

from . import costs as costs
from .costs import Work


class Method(NamedTuple):
    """One row.

    Args:
        callback: name of the class in `tandem_pl.callbacks`.
        about: one line.
        paper: where it is from, or "" for a baseline.
        cost: of an episode beyond its training steps, in proxy steps, as a formula.
        work: of the whole learning run, as a function of the settings and the run's length; None
            for weights that are given.
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
    work: Work | None = None

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
        work=costs.tandem,
    ),
    "skill_it": Method(
        "SkillItReweighting",
        "target losses carried over a graph of what each domain does for each target",
        "arXiv 2307.14430",
        "E/3, and M graph_steps + (M + 1) E/3 once; E = batches of evaluation",
        needs_target=True,
        work=costs.skill_it,
    ),
    "aioli": Method(
        "AioliReweighting",
        "gains of the target by short trainings on each domain, in a linear mixing law",
        "arXiv 2411.05735",
        "(M lp_rounds + 1) E/3; E = batches of evaluation",
        needs_target=True,
        work=costs.aioli,
    ),
    "tikmix": Method(
        "TiKMiXReweighting",
        "influence on the targets' losses, maximised so that no target loses: TiKMiX-D",
        "arXiv 2508.17677",
        "2 V",
        needs_target=True,
        work=costs.measured_gradients,
    ),
    "doremi": Method(
        "DoReMiReweighting",
        "training loss above that of a reference network trained before, where it is above",
        "arXiv 2305.10429",
        "1/3 of the steps, and the reference's training once",
        needs_reference=True,
        work=costs.doremi,
    ),
    "doge": Method(
        "DoGEReweighting",
        "alignment of each domain's gradient with the target's, at every step",
        "arXiv 2310.15393",
        "2 for every step",
        needs_target=True,
        work=costs.doge,
    ),
    "dga": Method(
        "DGAReweighting",
        "alignment of each domain's gradient with the target's, once a period, drawn with",
        "arXiv 2410.02498",
        "2 V",
        needs_target=True,
        work=costs.measured_gradients,
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
    "unimax": Method(
        "FixedMixture",
        "uniform, but no domain is seen more than 4 times",
        "arXiv 2304.09151",
        settings={"weights": "unimax:4"},
    ),
    "epoch_capped": Method(
        "FixedMixture",
        "temperature, but no domain is seen more than 4 times",
        settings={"weights": "epoch_capped:4"},
    ),
    "odm": Method(
        "ODMReweighting",
        "a bandit that draws the domains of the highest training loss",
        "arXiv 2312.02406",
        work=costs.plain,
    ),
    "ado": Method(
        "ADOReweighting",
        "domains whose fitted power law says that their loss falls fastest",
        "arXiv 2410.11820",
        settings={"prior": "proportional"},
        work=costs.plain,
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


def methods_table() -> str:
    """The table as Markdown, as the README has it."""
    lines = [
        "| method | callback | what it goes by | needs | extra cost |",
        "|---|---|---|---|---|",
    ]
    for name, row in METHODS.items():
        needs = [
            *(["a reference run"] if row.needs_reference else []),
            *(["target data"] if row.needs_target else []),
        ]
        about = row.about + (f" ({row.paper})" if row.paper else "")
        settings = "".join(f", `{key}: {value}`" for key, value in row.settings.items())
        cells = [name, f"`{row.callback}`{settings}", about, " and ".join(needs), row.cost]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
