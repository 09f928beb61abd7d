"""Data modules: domains in, planned mixture batches out. Loaded on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .environment import EnvironmentCorpus
    from .mixture import MixtureDataModule
    from .text import TextMixtureDataModule

__all__ = ["EnvironmentCorpus", "MixtureDataModule", "TextMixtureDataModule"]

_HOME = {
    "EnvironmentCorpus": "environment",
    "MixtureDataModule": "mixture",
    "TextMixtureDataModule": "text",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
