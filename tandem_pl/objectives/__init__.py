"""Losses of the form objective(network, samples) -> Tensor[B]: one loss a sample, in nats.

Any callable of this form serves. It must return one loss a sample, since weights are learned from
the losses of single domains, and a batch mixes domains. If it has an attribute `of_tokens` that is
true, a loss is a mean over tokens, and perplexities exp(loss) are logged too.
"""

from typing import TYPE_CHECKING

from tandem_pl.lazy import lazy_names

if TYPE_CHECKING:
    from .causal_language_modeling import CausalLanguageModeling as CausalLanguageModeling
    from .supervised import Classification as Classification
    from .supervised import Regression as Regression

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "CausalLanguageModeling": "causal_language_modeling",
        "Classification": "supervised",
        "Regression": "supervised",
    },
)
