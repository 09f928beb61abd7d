"""Data modules: domains in, planned mixture batches out."""

from typing import TYPE_CHECKING

from tandem_pl.lazy import lazy_names

if TYPE_CHECKING:
    from .chat.instructions import InstructionMixtureDataModule as InstructionMixtureDataModule
    from .demo.digits import DigitsMixtureDataModule as DigitsMixtureDataModule
    from .demo.environment import EnvironmentCorpus as EnvironmentCorpus
    from .demo.environment_instructions import EnvironmentInstructions as EnvironmentInstructions
    from .demo.problems import ProblemCorpus as ProblemCorpus
    from .images.datamodule import ImageMixtureDataModule as ImageMixtureDataModule
    from .mixture import MixtureDataModule as MixtureDataModule
    from .text.mixture import TextMixtureDataModule as TextMixtureDataModule
    from .text.prepared import PreparedTextDataModule as PreparedTextDataModule
    from .tokens.datamodule import TokenMixtureDataModule as TokenMixtureDataModule

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "DigitsMixtureDataModule": "demo.digits",
        "EnvironmentCorpus": "demo.environment",
        "EnvironmentInstructions": "demo.environment_instructions",
        "ImageMixtureDataModule": "images.datamodule",
        "InstructionMixtureDataModule": "chat.instructions",
        "MixtureDataModule": "mixture",
        "PreparedTextDataModule": "text.prepared",
        "ProblemCorpus": "demo.problems",
        "TextMixtureDataModule": "text.mixture",
        "TokenMixtureDataModule": "tokens.datamodule",
    },
)
