"""Networks that a configuration can name."""

import difflib
import os
from typing import Any

import torch
from torch import nn

from .errors import InputError


def causal_language_model(
    model_type: str = "gpt_neox",
    config: dict[str, Any] | None = None,
    pretrained: str | None = None,
    trust_remote_code: bool = False,
    seed: int = 0,
) -> nn.Module:
    """A causal language model of `transformers`, with random or local pretrained weights.

    Args:
        model_type: an architecture that `transformers` knows: "gpt_neox", "llama", "qwen2", ...
        config: fields of its configuration, such as vocab_size and hidden_size.
        pretrained: a local folder with config.json and safetensors weights, instead of the two
            above. Nothing is downloaded.
        trust_remote_code: whether code in that folder may run.
        seed: of the random initialisation; the global generator is left alone.

    Raises:
        InputError: for an unknown model type or field, or a folder without a model.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if pretrained is not None:
        if not os.path.isfile(os.path.join(pretrained, "config.json")):
            raise InputError(
                f"pretrained={pretrained!r} has no config.json: give a local folder that "
                "save_pretrained wrote."
            )
        network = AutoModelForCausalLM.from_pretrained(
            pretrained,
            local_files_only=True,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
        )
    else:
        known = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
        if model_type not in known:
            near = difflib.get_close_matches(model_type, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else "see transformers' model types."
            raise InputError(f"model_type={model_type!r} is not a causal language model: {hint}")
        plain = AutoConfig.for_model(model_type)
        for key in config or {}:
            if not hasattr(plain, key):
                near = difflib.get_close_matches(key, list(plain.to_dict()), 1)
                hint = f"did you mean {near[0]!r}?" if near else "see its configuration class."
                raise InputError(f"config has {key!r}, which {model_type} does not know: {hint}")
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            network = AutoModelForCausalLM.from_config(
                AutoConfig.for_model(model_type, **(config or {}))
            )
    network.config.use_cache = False  # training keeps no keys and values
    return network.train()
