"""Learn a mixture offline: from a table of runs, fit laws of the losses and propose weights."""

from typing import TYPE_CHECKING

from tandem_pl.lazy import lazy_names

if TYPE_CHECKING:
    from .fitting import Law as Law
    from .fitting import fit_law as fit_law
    from .merging import merge_checkpoints as merge_checkpoints
    from .merging import merged_runs as merged_runs
    from .mixmin import ExpertLaw as ExpertLaw
    from .mixmin import fit_experts as fit_experts
    from .proposal import Proposal as Proposal
    from .proposing import propose as propose
    from .read import read_runs as read_runs
    from .repetition import Repetition as Repetition
    from .reuse import FrozenDomains as FrozenDomains
    from .rounds import search_in_rounds as search_in_rounds
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
        "merge_checkpoints": "merging",
        "merged_runs": "merging",
        "propose": "proposing",
        "read_runs": "read",
        "search_in_rounds": "rounds",
    },
)
