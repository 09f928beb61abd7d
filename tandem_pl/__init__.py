"""tandem_pl: learn how much of each kind of data to train on, with PyTorch Lightning."""

from typing import TYPE_CHECKING

from .lazy import lazy_names

if TYPE_CHECKING:
    from .errors import InputError as InputError
    from .mixture import Mixture as Mixture
    from .training.mixture_module import MixtureModule as MixtureModule
    from .training.tandem_module import TandemModule as TandemModule

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "InputError": "errors",
        "Mixture": "mixture",
        "MixtureModule": "training.mixture_module",
        "TandemModule": "training.tandem_module",
    },
)
