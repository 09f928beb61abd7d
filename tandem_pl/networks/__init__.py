"""Networks that a configuration can name."""

from typing import TYPE_CHECKING

from tandem_pl.lazy import lazy_names

if TYPE_CHECKING:
    from .adapters import lora as lora
    from .language_models import causal_language_model as causal_language_model
    from .timm_networks import timm_network as timm_network

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "causal_language_model": "language_models",
        "lora": "adapters",
        "timm_network": "timm_networks",
    },
)
