"""Callbacks: the methods that reweight domains, one file each, and what watches them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .evaluation_table import EvaluationTable
    from .fixed import FixedMixture
    from .monitor import MixtureMonitor
    from .progress import RunProgressBar
    from .reweighting import ReweightingCallback
    from .tandem import TandemReweighting

__all__ = [
    "EvaluationTable",
    "FixedMixture",
    "MixtureMonitor",
    "ReweightingCallback",
    "RunProgressBar",
    "TandemReweighting",
]

_HOME = {
    "EvaluationTable": "evaluation_table",
    "FixedMixture": "fixed",
    "MixtureMonitor": "monitor",
    "ReweightingCallback": "reweighting",
    "RunProgressBar": "progress",
    "TandemReweighting": "tandem",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
