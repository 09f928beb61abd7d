"""Laws for those who continue from a checkpoint: how much of a new domain the data may hold."""

from typing import TYPE_CHECKING

from tandem_pl.lazy import lazy_names

if TYPE_CHECKING:
    from .cmr import CriticalRatios as CriticalRatios
    from .cmr import critical_ratios as critical_ratios
    from .dcpt import DCPTLaw as DCPTLaw
    from .dcpt import fit_dcpt as fit_dcpt
    from .power import PowerLaw as PowerLaw
    from .power import fit_power as fit_power
    from .shares import best_share as best_share
    from .shares import largest_share as largest_share
    from .table import Continued as Continued
    from .table import read_continued as read_continued
    from .two_powers import TwoPowers as TwoPowers
    from .two_powers import fit_two_powers as fit_two_powers

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "Continued": "table",
        "CriticalRatios": "cmr",
        "DCPTLaw": "dcpt",
        "PowerLaw": "power",
        "TwoPowers": "two_powers",
        "best_share": "shares",
        "critical_ratios": "cmr",
        "fit_dcpt": "dcpt",
        "fit_power": "power",
        "fit_two_powers": "two_powers",
        "largest_share": "shares",
        "read_continued": "table",
    },
)
