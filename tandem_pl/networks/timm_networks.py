"""Image networks of `timm` that a configuration can name.

Importing this module also registers the networks of `wide_resnet` in timm.
"""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from tandem_pl.checks import check_at_least
from tandem_pl.errors import InputError, did_you_mean

from . import wide_resnet as wide_resnet  # registers its networks

OWN = ("num_classes", "in_chans", "drop_rate", "drop_path_rate", "pretrained")  # not in options
NOT_A_CLASSIFIER = ("features_only", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay")
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
Shapes = dict[str, tuple[int, ...]]


def timm_network(
    name: str,
    num_classes: int,
    pretrained: str | None = None,
    in_chans: int = 3,
    drop_rate: float = 0.0,
    drop_path_rate: float | None = None,
    options: dict[str, Any] | None = None,
    seed: int = 0,
) -> nn.Module:
    """Build an image classifier of `timm`, with random or local pretrained weights.

    It maps images [B, in_chans, H, W] to logits [B, num_classes].

    Args:
        name: a name that `timm.create_model` knows: "resnet18", "vit_tiny_patch16_224",
            "wrn_28_10_silu" (see `wide_resnet`), ...; a tag, as in "resnet18.a1_in1k", sets how
            timm reads a file of weights.
        num_classes: number of logits.
        pretrained: a local file of weights (.safetensors, or .pth and .bin of tensors alone), or a
            folder with config.json and model.safetensors, as on the hub and as `tandem export`
            writes it. Nothing is downloaded. A classifier of another number of classes is replaced
            by a random one, and the first convolution is adapted to `in_chans`.
        in_chans: channels of the images.
        drop_rate: dropout before the classifier.
        drop_path_rate: probability that a sample skips the last block (stochastic depth); None for
            the architecture's own.
        options: further arguments of the architecture, such as {"img_size": 32}.
        seed: of the random initialisation; the global generator does not change.

    Raises:
        InputError: an unknown name or option, or weights of another architecture.

    >>> network = timm_network("wrn_10_1_silu", num_classes=5, in_chans=1)
    >>> network(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 5])
    """
    check_at_least("num_classes", num_classes, 1)
    check_at_least("in_chans", in_chans, 1)
    for key, rate in (("drop_rate", drop_rate), ("drop_path_rate", drop_path_rate)):
        if rate is not None and not 0 <= rate < 1:
            raise InputError(f"{key}={rate} must be at least 0 and below 1.")
    check_name(name)
    more = dict(options or {})
    for key in more:
        if key in OWN:
            raise InputError(f"options has {key!r}, which timm_network takes itself: move it up.")
        if key in NOT_A_CLASSIFIER:
            raise InputError(f"options has {key!r}, which is not for a classifier: leave it out.")
    more |= {"in_chans": in_chans, "drop_rate": drop_rate, "drop_path_rate": drop_path_rate}
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(seed)
        if pretrained is None:
            return _build(name, name, num_classes=num_classes, **more).train()
        return _build_pretrained(name, pretrained, num_classes, more).train()


def check_name(name: str) -> None:
    """Raise an error unless timm has this architecture, and this tag of it.

    >>> check_name("resnet81")
    Traceback (most recent call last):
    tandem_pl.errors.InputError: name='resnet81' is not an architecture of timm: did you mean ...
    """
    if any(mark in name for mark in ":/\\"):
        raise InputError(
            f"name={name!r} must be an architecture of timm, such as 'resnet18': give a folder or "
            "a file as pretrained."
        )
    plain, tag = timm.models.split_model_name_tag(name)
    if not timm.is_model(plain):
        hint = did_you_mean(plain, timm.list_models(), 0.5) or "see timm.list_models()."
        raise InputError(f"name={name!r} is not an architecture of timm: {hint}".strip())
    tags = list(timm.models.get_arch_pretrained_cfgs(plain))
    if tag and name not in tags:
        hint = did_you_mean(name, tags, 0.0) or f"use {plain!r}."
        raise InputError(f"name={name!r} has a tag that timm does not know: {hint}".strip())


def _build(name: str, source: str, **arguments: Any) -> Any:
    """Call `timm.create_model(source)`; error messages name `name`."""
    try:
        return timm.create_model(source, **arguments)
    except Exception as error:  # architectures raise many kinds for settings that they cannot have
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown is None:
            options = {key: value for key, value in arguments.items() if key not in OWN}
            what = f"{name} with options={options}" if options else name
            raise InputError(f"{what} cannot be built: {_reason(error)}.") from error
        key = unknown[1]
        if key in OWN:
            raise InputError(
                f"{name} does not take {key}={arguments[key]!r}: leave it out."
            ) from error
        with torch.device("meta"):
            known = inspect.signature(type(timm.create_model(name))).parameters
        hint = did_you_mean(key, known) or "leave it out."
        raise InputError(
            f"options has {key!r}, which {name} does not take: {hint}".strip()
        ) from error


def _build_pretrained(
    name: str, pretrained: str, num_classes: int, more: dict[str, Any]
) -> nn.Module:
    """Build the network with the weights of a file or folder.

    First with the file's own number of classes, because timm then loads strictly; afterwards the
    classifier is replaced.
    """
    source, file, overlay = _find_weights(name, Path(pretrained).expanduser(), pretrained)
    shapes = _read_shapes(file, pretrained)
    with torch.device("meta"):
        plan = _build(name, source, num_classes=num_classes, **more)
    settings = plan.pretrained_cfg
    classes = overlay["num_classes"] = _count_classes(shapes, settings)
    if "first_conv" in settings:
        channels = _count_channels(shapes, plan, settings, more["in_chans"])
        overlay["input_size"] = (channels, *settings["input_size"][1:])
    own = {"pretrained": True, "pretrained_cfg_overlay": overlay, "num_classes": classes}
    try:
        network = timm.create_model(source, **own, **more)
    except (RuntimeError, ValueError, KeyError) as error:
        raise InputError(
            f"pretrained={pretrained!r} is not of {name} ({_reason(error)}): set name to the "
            "network that the weights are of."
        ) from error
    if classes != num_classes:
        network.reset_classifier(num_classes)
    return network


def _find_weights(name: str, path: Path, given: str) -> tuple[str, Path, dict[str, Any]]:
    """Return the name for timm to build, the file of weights, and what timm must know of it."""
    if not path.exists():
        raise InputError(
            f"pretrained={given!r} does not exist: give a local file or folder of weights, or get "
            "one with `hf download timm/NAME --local-dir FOLDER`."
        )
    if path.is_file():
        return name, path, {"file": str(path)}
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        architecture = str(config["architecture"])
    except (OSError, ValueError, TypeError, KeyError):
        raise InputError(
            f"pretrained={given!r} has no config.json of timm: give a file of weights, or a folder "
            "that timm or `tandem export` wrote."
        ) from None
    plain, right = (timm.models.split_model_name_tag(any_)[0] for any_ in (name, architecture))
    if plain != right:
        raise InputError(f"pretrained={given!r} holds {right!r}, not {plain!r}: set name to that.")
    file = next((path / weights for weights in WEIGHTS if (path / weights).is_file()), None)
    if file is None:
        raise InputError(f"pretrained={given!r} has none of {', '.join(WEIGHTS)}: add the weights.")
    return f"local-dir:{path}", file, {}


def _read_shapes(file: Path, given: str) -> Shapes:
    """Return name -> shape of a file's tensors, by the names that timm gives them."""
    try:
        state = timm.models.load_state_dict(str(file), device="cpu", weights_only=True)
        shapes = {key: tuple(value.shape) for key, value in state.items()}
    except Exception as error:  # the readers raise many kinds of exception
        raise InputError(
            f"pretrained={given!r} cannot be read as weights ({_reason(error)}): give a "
            ".safetensors file, or a .pth file of tensors alone."
        ) from error
    if any(key.startswith("network.") for key in shapes):
        raise InputError(
            f"pretrained={given!r} is a checkpoint of a run: write its network by `tandem export "
            "RUN --network FOLDER`, and give the folder."
        )
    return shapes


def _count_classes(shapes: Shapes, settings: Mapping[str, Any]) -> int:
    """Return how many classes a file's classifier has."""
    names = settings.get("classifier") or ()
    names = [names] if isinstance(names, str) else names
    rows = [shapes[f"{name}.weight"][0] for name in names if f"{name}.weight" in shapes]
    declared = settings["num_classes"]
    offset = settings.get("label_offset") or 0  # rows of no class, which timm removes
    return rows[0] if rows and rows[0] != declared + offset else declared


def _count_channels(shapes: Shapes, plan: Any, settings: Mapping[str, Any], in_chans: int) -> int:
    """Return how many channels a file's first convolution takes, or timm's number if unknown."""
    names = settings["first_conv"]
    name = names if isinstance(names, str) else next(iter(names or []), "")
    shape = shapes.get(f"{name}.weight", ())
    module = plan.get_submodule(name) if name and shape else None
    if not isinstance(module, nn.Conv2d) or len(shape) != 4:
        return settings["input_size"][0]
    return shape[1] * module.groups * in_chans // module.in_channels


def _reason(error: Exception) -> str:
    """Return the first sentence of a library's error, or the lines below its heading."""
    lines = [line.strip(" \t.") for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):
        text = "; ".join(lines[1:])
    else:
        text = "".join(lines[:1]).partition(". ")[0]
    text = textwrap.shorten(text, 300, placeholder=" ...")
    return f"{type(error).__name__} {text}" if isinstance(error, KeyError) or not text else text
