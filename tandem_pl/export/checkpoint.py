"""The trained network of a run, from its configuration and a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tandem_pl.checks import check_choice
from tandem_pl.datamodules.text.tokenization import ByteTokenizer, Tokenizer, load_tokenizer
from tandem_pl.errors import InputError
from tandem_pl.training.frozen import restore_frozen
from tandem_pl.yaml_files import read_yaml

from .byte_tokenizer import byte_tokenizer
from .network import adapter_notes, check_folder, export_network

PREFIXES = {"proxy": "network.", "reference": "reference.", "average": "network."}  # of its state


def export_run(
    run: Path,
    folder: str | os.PathLike[str],
    checkpoint: str | None = None,
    which: str = "proxy",
    overwrite: bool = False,
) -> list[str]:
    """Write the network of a run of `tandem fit`.

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
    check_choice("--which", which, tuple(PREFIXES))
    config_path = run / "config.yaml"
    if not config_path.is_file():
        raise InputError(f"{run} has no config.yaml: give the folder of a run of `tandem fit`.")
    check_folder(Path(folder).expanduser(), overwrite)
    path = find_checkpoint(run, checkpoint)
    config = read_yaml(config_path)
    module = build_module(config, str(config_path))
    network = load_network(module, path, which)
    tokenizer, note = find_tokenizer((config.get("data") or {}).get("init_args") or {})
    is_bytes = isinstance(tokenizer, ByteTokenizer)
    saved = byte_tokenizer() if is_bytes else getattr(tokenizer, "tokenizer", None)
    eos = getattr(tokenizer, "eos_token_id", None)
    files = export_network(network, folder, overwrite, saved, eos)
    size = sum(file.stat().st_size for file in files) / 1e6
    count = sum(parameter.numel() for parameter in network.parameters())
    lines = [f"{which} of {path}: {count:,} parameters, {size:.1f} MB in {len(files)} files"]
    return [*lines, *adapter_notes(files), *note, f"written to {folder}"]


def find_checkpoint(run: Path, name: str | None) -> Path:
    """Return a checkpoint's path; `name` is a path, or a file in the run's checkpoints/.

    Raises:
        InputError: it does not exist, or is sharded.
    """
    folder = run / "checkpoints"
    for path in [folder / "last.ckpt"] if name is None else [Path(name), folder / name]:
        if path.is_dir():
            raise InputError(
                f"{path} is a folder of a sharded checkpoint: save a single file, for example with "
                "state_dict_type: full of the strategy."
            )
        if path.is_file():
            return path
    there = ", ".join(sorted(path.name for path in folder.glob("*.ckpt"))) or "none"
    raise InputError(
        f"checkpoint {name or 'last.ckpt'!r} is not in {folder}, which has {there}: give "
        "--checkpoint one of these, or a path."
    )


def build_module(config: Mapping[str, Any], where: str) -> Any:
    """Build the LightningModule of a configuration's `model`, and nothing else of it.

    Raises:
        InputError: it cannot be built; `where` names the configuration.
    """
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
    """Return the module's network with a checkpoint's weights, on the CPU, in their dtype.

    Raises:
        InputError: the file is not a checkpoint, or its network has other parameters.
    """
    network = getattr(module, "network", None)  # of a MixtureModule, or of a user's own module
    if not isinstance(network, nn.Module):
        raise InputError(f"{type(module).__name__} has no network: export takes a MixtureModule.")
    state = _read_state(module, path, which)
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    for key in [*expected, *found]:
        if expected.get(key) != found.get(key):
            here, there = expected.get(key, "missing"), found.get(key, "missing")
            raise InputError(
                f"{path} is of another network than the run's config.yaml: {key!r} is {there} "
                f"there and {here} here; give the checkpoint of this run."
            )
    dtypes = {value.dtype for value in state.values() if value.is_floating_point()}
    if len(dtypes) == 1:
        network.to(dtypes.pop())
    network.load_state_dict(state)
    return network.eval()


def _read_state(module: Any, path: Path, which: str) -> dict[str, Tensor]:
    """Return the state of the proxy, the reference or the average, by names of the network."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        checkpoint["state_dict"].keys()
    except Exception as error:  # torch raises many kinds of exception
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} is not a checkpoint of a run: {reason}") from error
    restore_frozen(module, checkpoint)
    prefix, whole = PREFIXES[which], checkpoint["state_dict"]
    state = {k.removeprefix(prefix): value for k, value in whole.items() if k.startswith(prefix)}
    if which == "average":
        average = _moving_average(checkpoint, path)
        first_names: dict[int, str] = {}  # of tied parameters the average has only the first
        for name, value in module.network.state_dict(keep_vars=True).items():
            first = first_names.setdefault(id(value), name)
            if first in average:
                state[name] = average[first]
        state = average | state
    if not state:
        raise InputError(f"{path} has no {which}: a run without twins has only --which proxy.")
    return state


def _moving_average(checkpoint: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Return the average that `callbacks.MovingAverage` kept, without frozen parameters."""
    states = checkpoint.get("callbacks", {})
    averages = [states[key].get("average") for key in states if key.startswith("MovingAverage")]
    if not any(averages):
        raise InputError(
            f"{path} has no moving average: train with callbacks.MovingAverage, or export with "
            "--which proxy."
        )
    return averages[0]


def find_tokenizer(data: Mapping[str, Any]) -> tuple[Tokenizer | None, list[str]]:
    """Return the tokenizer that a data configuration names, and a line about it.

    It is the path at `tokenizer`, or a folder `tokenizer/` in a folder that another key names.
    """
    name = data.get("tokenizer")
    if name is None:
        paths = [Path(value) for value in data.values() if isinstance(value, str)]
        folders = [path if path.is_dir() else path.parent for path in paths if path.exists()]
        name = next((f / "tokenizer" for f in folders if (f / "tokenizer").is_dir()), None)
    if name is None:
        return None, []
    try:
        tokenizer = load_tokenizer(str(name))
    except InputError as error:
        return None, [f"without its tokenizer: {error}"]
    if name == "bytes":
        return tokenizer, ["with a tokenizer of bytes, in which 256 ends a text"]
    return tokenizer, [f"with the tokenizer of {name}"]
