"""Callbacks: the methods that reweight domains, one file each, and what watches them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .ado import ADOReweighting
    from .aioli import AioliReweighting
    from .checkpoints import TimedCheckpoint
    from .classification_metrics import ClassificationMetrics
    from .dga import DGAReweighting
    from .doge import DoGEReweighting
    from .doremi import DoReMiReweighting
    from .evaluation_table import EvaluationTable
    from .fixed import FixedMixture
    from .image_sheet import ImageSheet
    from .monitor import MixtureMonitor
    from .moving_average import MovingAverage
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
    "ClassificationMetrics",
    "DGAReweighting",
    "DoGEReweighting",
    "DoReMiReweighting",
    "EvaluationTable",
    "FixedMixture",
    "ImageSheet",
    "MixtureMonitor",
    "MovingAverage",
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
    "ClassificationMetrics": "classification_metrics",
    "DGAReweighting": "dga",
    "DoGEReweighting": "doge",
    "DoReMiReweighting": "doremi",
    "EvaluationTable": "evaluation_table",
    "FixedMixture": "fixed",
    "ImageSheet": "image_sheet",
    "MixtureMonitor": "monitor",
    "MovingAverage": "moving_average",
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
