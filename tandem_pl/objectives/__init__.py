"""Losses of the form objective(network, samples) -> Tensor[B]: one loss a sample, in nats."""

from typing import TYPE_CHECKING

from tandem_pl.lazy import lazy_names

if TYPE_CHECKING:
    from .losses import CausalLanguageModeling as CausalLanguageModeling
    from .losses import Classification as Classification
    from .losses import Regression as Regression

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "CausalLanguageModeling": "losses",
        "Classification": "losses",
        "Regression": "losses",
    },
)
