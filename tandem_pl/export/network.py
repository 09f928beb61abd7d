"""A network as a folder of files that other programs load."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from tandem_pl.errors import InputError
from tandem_pl.files import new_folder
from tandem_pl.training.mixture_module import MixtureModule

# An exported network has one of these files.
NETWORK_FILES = ("config.json", "adapter_config.json", "model.safetensors")


def export_network(
    network: nn.Module,
    folder: str | os.PathLike[str],
    overwrite: bool = False,
    tokenizer: Any = None,
    eos_token_id: int | None = None,
) -> list[Path]:
    """Write a network; on an error the folder stays as it was.

    - A model of `transformers` (or an adapter of `peft`) by its own `save_pretrained`: safetensors
      and config.json, with `use_cache` true again, for `from_pretrained`.
    - A model of `timm` as the hub has them: `model.safetensors`, for `timm.create_model(NAME,
      num_classes=..., checkpoint_path=FILE)`, and config.json, for
      `timm.create_model("local-dir:FOLDER", pretrained=True)`. The means and scales of colours in
      it are those of the architecture, not of the run's data.
    - Any other as `model.safetensors`, for `safetensors.torch.load_model`.

    Args:
        network: the network, or a `MixtureModule` or `TandemModule` whose `.network` it is.
        folder: where to write; it must be new or empty.
        overwrite: replace a folder that holds a network.
        tokenizer: a tokenizer of `transformers` to save beside it.
        eos_token_id: the token that ends a text, for the configuration; None keeps the present one.

    Returns:
        The files, sorted.

    Raises:
        InputError: the folder holds something.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     [path.name for path in export_network(nn.Linear(2, 1), folder)]
    ['model.safetensors']
    """
    folder = Path(folder).expanduser()
    check_folder(folder, overwrite)
    if isinstance(network, MixtureModule):
        network = network.network
    with new_folder(folder, overwrite=True) as scratch:  # also over an empty folder
        _save(network, scratch, eos_token_id)
        if tokenizer is not None:
            tokenizer.save_pretrained(scratch)
        for file in scratch.rglob("*"):  # safetensors makes files that only their owner can read
            file.chmod(scratch.stat().st_mode & (0o777 if file.is_dir() else 0o666))
    return sorted(path for path in folder.rglob("*") if path.is_file())


def check_folder(folder: Path, overwrite: bool) -> None:
    """Raise an error unless the folder is new or empty, or holds a network to be replaced."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not any((folder / name).is_file() for name in NETWORK_FILES):
        raise InputError(f"{folder} exists and is not an exported network: give a new folder.")
    if not overwrite:
        raise InputError(f"{folder} holds a network: give a new folder, or --overwrite.")


def adapter_notes(files: list[Path]) -> list[str]:
    """Return a line on exported adapters, which need their backbone; [] for a whole network."""
    file = next((file for file in files if file.name == "adapter_config.json"), None)
    if file is None:
        return []
    base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if base:
        return [f"adapters alone: from_pretrained puts them on {base!r}, which it must find"]
    return ["adapters alone, of a backbone that is in no folder: from_pretrained cannot load them"]


def _save(network: Any, folder: Path, eos_token_id: int | None) -> None:
    save = getattr(network, "save_pretrained", None)
    if save is None:  # of neither transformers nor peft
        from safetensors.torch import save_model

        save_model(network, str(folder / "model.safetensors"))
        if "architecture" in (getattr(network, "pretrained_cfg", None) or {}):
            _save_timm_config(network, folder / "config.json")
        return
    # peft would look for the base model's configuration on the hub, to compare vocabularies.
    adapters = getattr(network, "peft_config", None) is not None
    with _inference_settings(network, eos_token_id):
        save(folder, **({"save_embedding_layers": False} if adapters else {}))


@contextmanager
def _inference_settings(network: Any, eos_token_id: int | None) -> Iterator[None]:
    """Turn on the cache and set the end of a text in the configurations; restore them on exit."""
    before: list[tuple[Any, str, Any]] = []
    for key in ("config", "generation_config"):
        config: Any = getattr(network, key, None)
        if getattr(config, "use_cache", None) is False:
            before.append((config, "use_cache", False))  # off for training only
            config.use_cache = True
        ends = getattr(config, "eos_token_id", eos_token_id)  # one token, or a list of them
        known = ends if isinstance(ends, list) else [ends]
        if eos_token_id not in [None, *known]:
            before.append((config, "eos_token_id", ends))
            config.eos_token_id = eos_token_id
    try:
        yield
    finally:
        for config, key, value in before:
            setattr(config, key, value)


def _save_timm_config(network: Any, path: Path) -> None:
    from timm.models._hub import save_config_for_hf

    logger = logging.getLogger("timm")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of colour means for gray images
    try:
        save_config_for_hf(network, str(path))
    finally:
        logger.setLevel(level)
