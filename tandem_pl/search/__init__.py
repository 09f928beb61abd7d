"""Learn a mixture offline: from a table of runs, fit laws of the losses and propose weights."""

from typing import TYPE_CHECKING

from tandem_pl.lazy import lazy_names

if TYPE_CHECKING:
    from .fitting import Law as Law
    from .fitting import fit_law as fit_law
    from .mixmin import ExpertLaw as ExpertLaw
    from .mixmin import fit_experts as fit_experts
    from .proposal import Proposal as Proposal
    from .proposing import propose as propose
    from .read import read_runs as read_runs
    from .repetition import Repetition as Repetition
    from .reuse import FrozenDomains as FrozenDomains
    from .runs import Runs as Runs

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "ExpertLaw": "mixmin",
        "FrozenDomains": "reuse",
        "Law": "fitting",
        "Proposal": "proposal",
        "Repetition": "repetition",
        "Runs": "runs",
        "fit_experts": "mixmin",
        "fit_law": "fitting",
        "propose": "proposing",
        "read_runs": "read",
    },
)
