"""tandem_pl: learn how much of each kind of data to train on, with PyTorch Lightning.

Names are loaded on first use, so that the command line starts fast.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import InputError
    from .mixture import Mixture
    from .mixture_module import MixtureModule
    from .tandem_module import TandemModule

__version__ = "0.1.0"
__all__ = ["InputError", "Mixture", "MixtureModule", "TandemModule"]

# In a checkout that is not installed, tandem_pl.callbacks and tandem_pl.datamodules
# are the folders beside this one.
_root = Path(__file__).resolve().parent.parent
if all((_root / name).exists() for name in ("pyproject.toml", "callbacks", "datamodules")):
    __path__.append(str(_root))

_HOME = {
    "InputError": "errors",
    "Mixture": "mixture",
    "MixtureModule": "mixture_module",
    "TandemModule": "tandem_module",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
