"""Callbacks: the methods that reweight domains, what watches them, and what saves."""

from typing import TYPE_CHECKING

from tandem_pl.lazy import lazy_names

if TYPE_CHECKING:
    from .methods.ado import ADOReweighting as ADOReweighting
    from .methods.aioli import AioliReweighting as AioliReweighting
    from .methods.cluster_bandit import ClusterBanditReweighting as ClusterBanditReweighting
    from .methods.dga import DGAReweighting as DGAReweighting
    from .methods.doge import DoGEReweighting as DoGEReweighting
    from .methods.doremi import DoReMiReweighting as DoReMiReweighting
    from .methods.dynamix import DynamixReweighting as DynamixReweighting
    from .methods.fixed import FixedMixture as FixedMixture
    from .methods.mixing_agent import MixingAgentReweighting as MixingAgentReweighting
    from .methods.odm import ODMReweighting as ODMReweighting
    from .methods.r_and_b import RAndBReweighting as RAndBReweighting
    from .methods.skill_it import SkillItReweighting as SkillItReweighting
    from .methods.tandem import TandemReweighting as TandemReweighting
    from .methods.tikmix import TiKMiXReweighting as TiKMiXReweighting
    from .monitoring.classification_metrics import ClassificationMetrics as ClassificationMetrics
    from .monitoring.evaluation_table import EvaluationTable as EvaluationTable
    from .monitoring.image_sheet import ImageSheet as ImageSheet
    from .monitoring.monitor import MixtureMonitor as MixtureMonitor
    from .monitoring.progress import RunProgressBar as RunProgressBar
    from .reweighting import ReweightingCallback as ReweightingCallback
    from .saving.moving_average import MovingAverage as MovingAverage
    from .saving.sample_scores import SampleScores as SampleScores
    from .saving.timed_checkpoint import TimedCheckpoint as TimedCheckpoint

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "ADOReweighting": "methods.ado",
        "AioliReweighting": "methods.aioli",
        "ClassificationMetrics": "monitoring.classification_metrics",
        "ClusterBanditReweighting": "methods.cluster_bandit",
        "DGAReweighting": "methods.dga",
        "DoGEReweighting": "methods.doge",
        "DoReMiReweighting": "methods.doremi",
        "DynamixReweighting": "methods.dynamix",
        "EvaluationTable": "monitoring.evaluation_table",
        "FixedMixture": "methods.fixed",
        "ImageSheet": "monitoring.image_sheet",
        "MixingAgentReweighting": "methods.mixing_agent",
        "MixtureMonitor": "monitoring.monitor",
        "MovingAverage": "saving.moving_average",
        "ODMReweighting": "methods.odm",
        "RAndBReweighting": "methods.r_and_b",
        "ReweightingCallback": "reweighting",
        "RunProgressBar": "monitoring.progress",
        "SampleScores": "saving.sample_scores",
        "SkillItReweighting": "methods.skill_it",
        "TandemReweighting": "methods.tandem",
        "TiKMiXReweighting": "methods.tikmix",
        "TimedCheckpoint": "saving.timed_checkpoint",
    },
)
