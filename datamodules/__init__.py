"""Data modules: domains in, planned mixture batches out. Loaded on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .digits import DigitsMixtureDataModule
    from .environment import EnvironmentCorpus
    from .environment_instructions import EnvironmentInstructions
    from .images import ImageMixtureDataModule
    from .instructions import InstructionMixtureDataModule
    from .mixture import MixtureDataModule
    from .prepared import PreparedTextDataModule
    from .text import TextMixtureDataModule

__all__ = [
    "DigitsMixtureDataModule",
    "EnvironmentCorpus",
    "EnvironmentInstructions",
    "ImageMixtureDataModule",
    "InstructionMixtureDataModule",
    "MixtureDataModule",
    "PreparedTextDataModule",
    "TextMixtureDataModule",
]

_HOME = {
    "DigitsMixtureDataModule": "digits",
    "EnvironmentCorpus": "environment",
    "EnvironmentInstructions": "environment_instructions",
    "ImageMixtureDataModule": "images",
    "InstructionMixtureDataModule": "instructions",
    "MixtureDataModule": "mixture",
    "PreparedTextDataModule": "prepared",
    "TextMixtureDataModule": "text",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
