"""Callbacks: the methods that reweight domains, one file each, and what watches them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .ado import ADOReweighting
    from .aioli import AioliReweighting
    from .checkpoints import TimedCheckpoint
    from .dga import DGAReweighting
    from .doge import DoGEReweighting
    from .doremi import DoReMiReweighting
    from .evaluation_table import EvaluationTable
    from .fixed import FixedMixture
    from .monitor import MixtureMonitor
    from .odm import ODMReweighting
    from .progress import RunProgressBar
    from .reweighting import ReweightingCallback
    from .sample_scores import SampleScores
    from .skill_it import SkillItReweighting
    from .tandem import TandemReweighting
    from .tikmix import TiKMiXReweighting

__all__ = [
    "ADOReweighting",
    "AioliReweighting",
    "DGAReweighting",
    "DoGEReweighting",
    "DoReMiReweighting",
    "EvaluationTable",
    "FixedMixture",
    "MixtureMonitor",
    "ODMReweighting",
    "ReweightingCallback",
    "RunProgressBar",
    "SampleScores",
    "SkillItReweighting",
    "TandemReweighting",
    "TiKMiXReweighting",
    "TimedCheckpoint",
]

_HOME = {
    "ADOReweighting": "ado",
    "AioliReweighting": "aioli",
    "DGAReweighting": "dga",
    "DoGEReweighting": "doge",
    "DoReMiReweighting": "doremi",
    "EvaluationTable": "evaluation_table",
    "FixedMixture": "fixed",
    "MixtureMonitor": "monitor",
    "ODMReweighting": "odm",
    "ReweightingCallback": "reweighting",
    "RunProgressBar": "progress",
    "SampleScores": "sample_scores",
    "SkillItReweighting": "skill_it",
    "TandemReweighting": "tandem",
    "TiKMiXReweighting": "tikmix",
    "TimedCheckpoint": "checkpoints",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
