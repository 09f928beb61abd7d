"""The trained network, out of a run's checkpoint and into a folder that other programs load."""

from __future__ import annotations

import json
import logging
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tandem_pl.datamodules.text.tokenization import Tokenizer, load_tokenizer
from tandem_pl.errors import InputError
from tandem_pl.training.frozen import restore_frozen
from tandem_pl.yaml_files import read_yaml

PREFIXES = {"proxy": "network.", "reference": "reference.", "average": "network."}  # in its state
MARKS = ("config.json", "adapter_config.json", "model.safetensors")  # of an exported network


def export_network(
    network: nn.Module,
    folder: str | os.PathLike[str],
    overwrite: bool = False,
    tokenizer: Any = None,
    eos_token_id: int | None = None,
) -> list[Path]:
    """Writes a network; the folder is whole or absent.

    - A model of `transformers` (or an adapter of `peft`) by its own `save_pretrained`: safetensors
      and config.json, with `use_cache` true again, for `from_pretrained`.
    - A model of `timm` as the hub has them: `model.safetensors`, for `timm.create_model(NAME,
      num_classes=..., checkpoint_path=FILE)`, and config.json, for
      `timm.create_model("local-dir:FOLDER", pretrained=True)`. The means and scales of colours in
      it are those of the architecture, not of the run's data.
    - Any other as `model.safetensors`, for `safetensors.torch.load_model`.

    Args:
        network: the network, or a `MixtureModule` or `TandemModule`, of which it is `.network`.
        folder: where; it must not hold anything yet.
        overwrite: replace a folder that holds a network.
        tokenizer: a tokenizer of `transformers` to save beside it.
        eos_token_id: the token that ends a text, for the configuration; None leaves it.

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
    inner = getattr(network, "network", None)
    if hasattr(network, "objective") and isinstance(inner, nn.Module):
        network = inner
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = folder.parent / f".{folder.name}.{uuid.uuid4().hex}.tmp"
    old = scratch.with_suffix(".old")
    scratch.mkdir()
    try:
        _save(network, scratch, eos_token_id)
        if tokenizer is not None:
            tokenizer.save_pretrained(scratch)
        for file in scratch.rglob("*"):  # safetensors makes files that only their owner reads
            file.chmod(scratch.stat().st_mode & (0o777 if file.is_dir() else 0o666))
        if folder.exists():
            os.replace(folder, old)
        os.replace(scratch, folder)
    finally:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def export_run(
    run: Path,
    folder: str | os.PathLike[str],
    checkpoint: str | None = None,
    which: str = "proxy",
    overwrite: bool = False,
) -> list[str]:
    """Writes the network of a run that `tandem fit` made.

    Args:
        run: folder with config.yaml and checkpoints/.
        folder: see `export_network`.
        checkpoint: a path, or the name of a file in checkpoints/; None for last.ckpt.
        which: "proxy" (also the network of a `MixtureModule`), "reference", or "average", the
            moving average that `callbacks.MovingAverage` kept of the proxy.
        overwrite: see `export_network`.

    Returns:
        Lines that say what was written.

    Raises:
        InputError: a file is missing, or the checkpoint is of another network.
    """
    config_path = run / "config.yaml"
    if not config_path.is_file():
        raise InputError(f"{run} has no config.yaml: give the folder of a run of `tandem fit`.")
    check_folder(Path(folder).expanduser(), overwrite)
    path = find_checkpoint(run, checkpoint)
    config = read_yaml(config_path)
    module = build_module(config, str(config_path))
    network = load_network(module, path, which)
    tokenizer, note = find_tokenizer((config.get("data") or {}).get("init_args") or {})
    files = export_network(
        network,
        folder,
        overwrite,
        getattr(tokenizer, "tokenizer", None),
        getattr(tokenizer, "eos_token_id", None),
    )
    size = sum(file.stat().st_size for file in files) / 1e6
    count = sum(parameter.numel() for parameter in network.parameters())
    lines = [f"{which} of {path}: {count:,} parameters, {size:.1f} MB in {len(files)} files"]
    return [*lines, *about_adapters(files), *note, f"written to {folder}"]


def about_adapters(files: list[Path]) -> list[str]:
    """A line on exported adapters, which are of no use without their backbone."""
    file = next((file for file in files if file.name == "adapter_config.json"), None)
    if file is None:
        return []
    base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if base:
        return [f"adapters alone: from_pretrained puts them on {base!r}, which it must find"]
    return ["adapters alone, of a backbone that is in no folder: from_pretrained cannot load them"]


def check_folder(folder: Path, overwrite: bool) -> None:
    """Raises unless the folder is new or empty, or an exported network that may be replaced."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not folder.is_dir() or not any((folder / mark).is_file() for mark in MARKS):
        raise InputError(f"{folder} exists and is not an exported network: give a new folder.")
    if not overwrite:
        raise InputError(f"{folder} holds a network: give a new folder, or --overwrite.")


def find_checkpoint(run: Path, name: str | None) -> Path:
    """The checkpoint's path: as given, or in the run's checkpoints/, or last.ckpt there."""
    places = run / "checkpoints"
    for path in [places / "last.ckpt"] if name is None else [Path(name), places / name]:
        if path.is_dir():
            raise InputError(
                f"{path} is a folder of a sharded checkpoint: save a single file, for example with "
                "state_dict_type: full of the strategy."
            )
        if path.is_file():
            return path
    there = ", ".join(sorted(path.name for path in places.glob("*.ckpt"))) or "none"
    raise InputError(
        f"checkpoint {name or 'last.ckpt'!r} is not in {places}, which has {there}: give "
        "--checkpoint one of these, or a path."
    )


def build_module(config: Mapping[str, Any], where: str) -> Any:
    """The LightningModule of a configuration's `model`; nothing else of it is built."""
    from jsonargparse import ArgumentError
    from lightning.pytorch import LightningModule
    from lightning.pytorch.cli import LightningArgumentParser

    parser = LightningArgumentParser(exit_on_error=False, parser_mode="omegaconf+")
    parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True, required=True)
    try:
        return parser.instantiate_classes(parser.parse_object({"model": config["model"]})).model
    except (ArgumentError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"the network of {where} cannot be built: {reason}") from error


def load_network(module: Any, path: Path, which: str = "proxy") -> nn.Module:
    """The module's network with a checkpoint's weights, on the CPU, in the checkpoint's dtype.

    Raises:
        InputError: the file is no checkpoint, or of a network with other parameters.
    """
    network = getattr(module, "network", None)
    if not isinstance(network, nn.Module):
        raise InputError(f"{type(module).__name__} has no network: export takes a MixtureModule.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        checkpoint["state_dict"].keys()
    except Exception as error:  # the reader raises many kinds of exception
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} is not a checkpoint of a run: {reason}") from error
    restore_frozen(module, checkpoint)
    state: dict[str, Tensor] = checkpoint["state_dict"]
    prefix = PREFIXES[which]
    mine = {k.removeprefix(prefix): value for k, value in state.items() if k.startswith(prefix)}
    if which == "average":
        average, names = _moving_average(checkpoint, path), dict[int, str]()
        for name, value in network.state_dict(keep_vars=True).items():
            first = names.setdefault(id(value), name)  # of tied parameters: the average has one
            if first in average:
                mine[name] = average[first]
        mine |= {name: value for name, value in average.items() if name not in mine}
    if not mine:
        raise InputError(f"{path} has no {which}: a run without twins has only --which proxy.")
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in mine.items()}
    for key in [*expected, *found]:
        if expected.get(key) != found.get(key):
            here, there = expected.get(key, "missing"), found.get(key, "missing")
            raise InputError(
                f"{path} is of another network than the run's config.yaml: {key!r} is {there} "
                f"there and {here} here; give the checkpoint of this run."
            )
    kinds = {value.dtype for value in mine.values() if value.is_floating_point()}
    if len(kinds) == 1:
        network.to(kinds.pop())
    network.load_state_dict(mine)
    return network.eval()


def _moving_average(checkpoint: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """What `callbacks.MovingAverage` kept; parameters that do not train are not in it."""
    states = checkpoint.get("callbacks", {})
    averages = [states[key].get("average") for key in states if key.startswith("MovingAverage")]
    if not any(averages):
        raise InputError(
            f"{path} has no moving average: train with callbacks.MovingAverage, or export with "
            "--which proxy."
        )
    return averages[0]


def find_tokenizer(data: Mapping[str, Any]) -> tuple[Tokenizer | None, list[str]]:
    """The tokenizer that a data configuration names, and a line about it.

    It is the path at `tokenizer`, or a folder `tokenizer/` in a folder that another key names.
    """
    name = data.get("tokenizer")
    if name is None:
        values = [Path(value) for value in data.values() if isinstance(value, str)]
        places = [value if value.is_dir() else value.parent for value in values if value.exists()]
        inside = [place / "tokenizer" for place in places if (place / "tokenizer").is_dir()]
        if not inside:
            return None, []
        name = inside[0]
    try:
        tokenizer = load_tokenizer(str(name))
    except InputError as error:
        return None, [f"without its tokenizer: {error}"]
    if name == "bytes":
        return tokenizer, ["tokens are bytes, and 256 ends a text: there is no tokenizer to save"]
    return tokenizer, [f"with the tokenizer of {name}"]


def _save(network: Any, folder: Path, eos_token_id: int | None) -> None:
    if not hasattr(network, "save_pretrained"):
        from safetensors.torch import save_model

        save_model(network, str(folder / "model.safetensors"))
        if "architecture" in (getattr(network, "pretrained_cfg", None) or {}):
            _save_timm_config(network, folder / "config.json")
        return
    changed: list[tuple[Any, str, Any]] = []
    for key in ("config", "generation_config"):
        config: Any = getattr(network, key, None)
        if getattr(config, "use_cache", None) is False:
            changed.append((config, "use_cache", False))  # off for training only
            config.use_cache = True
        ends = getattr(config, "eos_token_id", None)  # one token, or a list of them
        known = ends if isinstance(ends, list) else [ends]
        if hasattr(config, "eos_token_id") and eos_token_id not in [None, *known]:
            changed.append((config, "eos_token_id", config.eos_token_id))
            config.eos_token_id = eos_token_id
    # peft would look for the base model's configuration on the hub, to compare vocabularies.
    offline = {"save_embedding_layers": False} if hasattr(network, "peft_config") else {}
    try:
        network.save_pretrained(folder, **offline)
    finally:
        for config, key, value in changed:
            setattr(config, key, value)


def _save_timm_config(network: Any, path: Path) -> None:
    from timm.models._hub import save_config_for_hf

    logger = logging.getLogger("timm")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of means of colours for gray images
    try:
        save_config_for_hf(network, str(path))
    finally:
        logger.setLevel(level)
