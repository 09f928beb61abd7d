"""`causal_language_model`: networks of `transformers`, from a configuration or a folder."""

from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from tandem_pl.errors import InputError, did_you_mean


def causal_language_model(
    model_type: str = "gpt_neox",
    config: dict[str, Any] | None = None,
    pretrained: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32",
    attention: str | None = None,
    gradient_checkpointing: bool = False,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    seed: int = 0,
) -> nn.Module:
    """Return a causal language model of `transformers`, with random or local pretrained weights.

    Args:
        model_type: an architecture that `transformers` knows: "gpt_neox", "llama", "qwen2", ...
            Ignored with `pretrained`: the folder says it.
        config: fields of its configuration, hidden_size and num_hidden_layers at least; with
            `pretrained`, fields to change that leave its shape alone, such as attention_dropout.
        pretrained: a local folder with config.json and safetensors weights. Nothing is downloaded.
        dtype: of the parameters; "auto" takes that of the folder. Keep float32 for training with
            `trainer.precision: bf16-mixed`, since small updates vanish in 16-bit parameters.
        attention: "eager", "sdpa", "flash_attention_2", ...; None for transformers' default.
        gradient_checkpointing: recompute activations in the backward: less memory, a third more
            time.
        trust_remote_code: whether code in the folder may run.
        allow_pickle: whether weights may be in pickle files, which can run code, if there are no
            safetensors.
        seed: of the random initialisation; the global generator does not change.

    Raises:
        InputError: for an unknown model type or field, a folder without a model, or a field that
            changes the shape of a pretrained network.
    """
    more: dict[str, Any] = {"dtype": dtype}
    if attention is not None:
        more["attn_implementation"] = attention
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(seed)
        if pretrained is None:
            network = _initialised(model_type, config or {}, more)
        else:
            network = _pretrained(pretrained, config or {}, trust_remote_code, allow_pickle, more)
    if gradient_checkpointing:
        new = "activation_checkpointing_enable"  # its name from transformers 6 on
        enable = getattr(network, new, None) or network.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    network.config.use_cache = False  # training keeps no keys and values
    return network.train()


def _initialised(model_type: str, config: dict[str, Any], more: dict[str, Any]) -> Any:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModelForCausalLM

    if more["dtype"] == "auto":
        raise InputError("dtype='auto' takes the dtype of a folder: give pretrained, or a dtype.")
    check_fields(model_type, config)
    try:
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **config), **more)
    except (ValueError, ImportError, StrictDataclassError) as error:
        raise InputError(f"{model_type} cannot be built: {_reason(error)}") from error


def check_fields(model_type: str, config: dict[str, Any]) -> None:
    """Raise an error if a network with random weights cannot be of this type, or have a field."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    known = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    if model_type not in known:
        hint = did_you_mean(model_type, known).strip() or "see transformers' model types."
        raise InputError(f"model_type={model_type!r} is not a causal language model: {hint}")
    plain = AutoConfig.for_model(model_type)
    _check_fields(config, plain, model_type)
    for key in ("hidden_size", "num_hidden_layers"):
        own = getattr(plain, "attribute_map", {}).get(key, key)
        if hasattr(plain, own) and not {key, own} & config.keys():
            raise InputError(
                f"config gives no {own}, and {model_type}'s default, {getattr(plain, own)}, is "
                "hardly meant: set it (a second configuration file replaces the whole map)."
            )


def _pretrained(
    name: str, config: dict[str, Any], trust: bool, allow_pickle: bool, more: dict[str, Any]
) -> Any:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = Path(name).expanduser()
    if not (folder / "config.json").is_file():
        raise InputError(
            f"pretrained={name!r} has no config.json: give a local folder that save_pretrained "
            "wrote, or get one with `hf download NAME --local-dir FOLDER`."
        )
    options = {"local_files_only": True, "trust_remote_code": trust}
    try:
        settings = AutoConfig.from_pretrained(folder, **options)
        _check_changes(config, settings, folder / "config.json", trust)
        for key, value in config.items():
            setattr(settings, key, value)
        network, info = AutoModelForCausalLM.from_pretrained(
            folder,
            config=settings,
            use_safetensors=None if allow_pickle else True,
            output_loading_info=True,
            **options,
            **more,
        )
    except (OSError, ValueError, ImportError, RuntimeError, StrictDataclassError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"pretrained={name!r} cannot be loaded ({_reason(error)}); weights in pickle files "
            "need allow_pickle: true, and a model with code of its own trust_remote_code: true."
        ) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise InputError(
            f"pretrained={name!r} has no weights for {len(missing)} parameters of its "
            f"architecture, such as {missing[0]!r}: give a folder with a whole language model."
        )
    return network


def _check_changes(config: dict[str, Any], settings: Any, path: Path, trust: bool) -> None:
    """Raise an error if the folder's network does not know a field, or would have another shape."""
    shape = None
    for key, value in config.items():
        given = f"config.{key}={value!r}"
        rest = "leave it out, or set config: null to take the folder's own configuration."
        if not hasattr(settings, key):
            hint = did_you_mean(key, settings.to_dict())
            kind = settings.model_type
            raise InputError(f"{given} is unknown to {path}, of a {kind} network: {hint}{rest}")
        own = getattr(settings, key)
        if own != value:
            shape = shape or _shape(settings, trust)
            if _shape(settings, trust, **{key: value}) != shape:
                raise InputError(
                    f"{given} does not fit the pretrained network, whose {path} has {own!r}: {rest}"
                )


def _shape(settings: Any, trust: bool, **changes: Any) -> Any:
    """Return the shapes of a network's parameters and its heads; None if it cannot be built."""
    from transformers import AutoModelForCausalLM

    changed, heads = deepcopy(settings), ("num_attention_heads", "num_key_value_heads", "head_dim")
    try:
        for key, value in changes.items():
            setattr(changed, key, value)
        with torch.device("meta"):
            network = AutoModelForCausalLM.from_config(changed, trust_remote_code=trust)
    except Exception:  # sizes that do not fit together raise many kinds of exception
        return None
    shapes = {name: tuple(value.shape) for name, value in network.named_parameters()}
    return shapes, [getattr(changed, name, None) for name in heads]


def _check_fields(config: dict[str, Any], settings: Any, where: str) -> None:
    for key in config:
        if not hasattr(settings, key):
            hint = did_you_mean(key, settings.to_dict()).strip() or "see its configuration class."
            raise InputError(f"config has {key!r}, which {where} does not know: {hint}")


def _reason(error: Exception) -> str:
    """Return the first line of a library's message, or of the error that caused it."""
    cause = error.__cause__ if type(error).__name__.startswith("Strict") else None
    return (str(cause or error).strip() or type(error).__name__).splitlines()[0]
