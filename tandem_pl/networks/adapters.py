"""Low-rank adapters on a frozen backbone, by the library `peft`."""

from typing import Any

import torch
from torch import nn

from tandem_pl.errors import InputError


def lora(
    network: nn.Module,
    rank: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.0,
    target_modules: list[str] | str | None = None,
    lora_config: dict[str, Any] | None = None,
    seed: int = 0,
) -> nn.Module:
    """Freeze `network` and add LoRA: every adapted weight W becomes W + alpha / rank B A.

    A `TandemModule` of it holds the backbone once: proxy and reference are two sets of adapters.
    Hu et al. 2021, arXiv 2106.09685. Needs `pip install "tandem_pl[peft]"`.

    Args:
        network: the backbone, for example `causal_language_model(pretrained=...)`; changed in
            place.
        rank: r, of the matrices A [r, in] and B [out, r]. B starts at 0, so the network's outputs
            do not change at first.
        alpha: scale of the adapters, as alpha / rank.
        dropout: on the adapters' input.
        target_modules: names of the layers to adapt, "all-linear", or None for `peft`'s choice for
            this architecture (the attention's projections).
        lora_config: more fields of `peft.LoraConfig`, such as {"use_rslora": true}.
        seed: of A's random start; the global generator does not change.

    Raises:
        InputError: peft is not installed, or a field or layers that do not exist.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise InputError('adapters need the library peft: pip install "tandem_pl[peft]".') from None
    if rank < 1:
        raise InputError(f"rank={rank} must be at least 1.")
    try:
        settings = LoraConfig(
            r=rank,
            lora_alpha=alpha,
            lora_dropout=dropout,
            target_modules=target_modules,
            **(lora_config or {}),
        )
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(seed)
            return get_peft_model(network, settings).train()
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"these adapters do not fit {type(network).__name__} ({reason}); set target_modules to "
            "names of its layers or to 'all-linear', and lora_config to fields of peft.LoraConfig."
        ) from error
