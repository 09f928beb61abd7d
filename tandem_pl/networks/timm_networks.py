"""Image networks of `timm` that a configuration can name.

Importing this module also registers the networks of `wide_resnet` in timm.
"""

from __future__ import annotations

import difflib
import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from tandem_pl.errors import InputError

from . import wide_resnet as wide_resnet  # registers its networks

OWN = ("num_classes", "in_chans", "drop_rate", "drop_path_rate", "pretrained")  # not in options
NOT_A_CLASSIFIER = ("features_only", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay")
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
#: What architectures raise for settings that they cannot have.
REFUSALS = (ValueError, AssertionError, LookupError, AttributeError, ArithmeticError, RuntimeError)
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
    """An image classifier of `timm`, with random or local pretrained weights.

    It takes images [B, in_chans, H, W] and gives logits [B, num_classes].

    Args:
        name: what `timm.create_model` takes: "resnet18", "vit_tiny_patch16_224", "wrn_28_10_silu"
            (see `wide_resnet`), ...; with a tag, as in "resnet18.a1_in1k", for what that says of
            a file's input.
        num_classes: logits.
        pretrained: a local file of weights (.safetensors, or .pth and .bin without code of their
            own), or a folder with config.json and model.safetensors, as the hub has them and
            `tandem export` writes them. Nothing is downloaded. A classifier of another number of
            classes starts anew, and the first convolution is adapted to `in_chans`.
        in_chans: channels of the images.
        drop_rate: dropout before the classifier.
        drop_path_rate: chance that a sample skips the last block (stochastic depth); None leaves
            it to the architecture.
        options: further arguments of the architecture, such as {"img_size": 32}.
        seed: of the random initialisation; the global generator is left alone.

    Raises:
        InputError: for an unknown name or option, or weights that are not of this architecture.

    >>> network = timm_network("wrn_10_1_silu", num_classes=5, in_chans=1)
    >>> network(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 5])
    """
    for key, count in (("num_classes", num_classes), ("in_chans", in_chans)):
        if count < 1:
            raise InputError(f"{key}={count} must be at least 1.")
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
        return _pretrained(name, pretrained, num_classes, more).train()


def check_name(name: str) -> None:
    """Refuses what is no architecture of timm, or no tag of it.

    Raises:
        InputError: with the nearest name.

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
        near = difflib.get_close_matches(plain, timm.list_models(), 1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else "see timm.list_models()."
        raise InputError(f"name={name!r} is not an architecture of timm: {hint}")
    tags = list(timm.models.get_arch_pretrained_cfgs(plain))
    if tag and name not in tags:
        near = difflib.get_close_matches(name, tags, 1, cutoff=0.0) or [plain]
        raise InputError(f"name={name!r} has a tag that timm does not know: use {near[0]!r}.")


def _build(name: str, source: str, **arguments: Any) -> Any:
    """`timm.create_model(source)`; what goes wrong is said of `name`."""
    options = {key: value for key, value in arguments.items() if key not in OWN}
    what = f"{name} with options={options}" if options else name
    try:
        return timm.create_model(source, **arguments)
    except TypeError as error:
        found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if found is None:
            raise InputError(f"{what} cannot be built: {_reason(error)}.") from error
        key = found[1]
        if key in OWN:
            raise InputError(
                f"{name} does not take {key}={arguments[key]!r}: leave it out."
            ) from error
        near = difflib.get_close_matches(key, _arguments_of(name), 1)
        hint = f"did you mean {near[0]!r}?" if near else "leave it out."
        raise InputError(f"options has {key!r}, which {name} does not take: {hint}") from error
    except REFUSALS as error:
        if type(error) is RuntimeError and "pretrained" in arguments:
            raise  # of weights
        raise InputError(f"{what} cannot be built: {_reason(error)}.") from error


def _arguments_of(name: str) -> list[str]:
    with torch.device("meta"):
        made = timm.create_model(name)
    return list(inspect.signature(type(made)).parameters)


def _pretrained(name: str, pretrained: str, num_classes: int, more: dict[str, Any]) -> nn.Module:
    """The network with the weights of a file or folder.

    It is built with the file's own number of classes, so that timm loads strictly; the classifier
    is replaced after.
    """
    path = Path(pretrained).expanduser()
    source, file, overlay = _source(name, path, pretrained)
    found = _shapes(file, pretrained)
    with torch.device("meta"):
        plan = _build(name, source, num_classes=num_classes, **more)
    settings = plan.pretrained_cfg
    classes = _classes(found, settings)
    overlay["num_classes"] = classes
    if "first_conv" in settings:
        channels = _channels(found, plan, settings, more["in_chans"])
        overlay["input_size"] = (channels, *settings["input_size"][1:])
    try:
        network = _build(
            name,
            source,
            pretrained=True,
            pretrained_cfg_overlay=overlay,
            num_classes=classes,
            **more,
        )
    except (RuntimeError, ValueError) as error:
        what = _difference(found, plan, settings) or f"it cannot be loaded ({_reason(error)})"
        raise InputError(f"pretrained={pretrained!r} is not of {name}: {what}.") from error
    if classes != num_classes:
        network.reset_classifier(num_classes)
    return network


def _source(name: str, path: Path, given: str) -> tuple[str, Path, dict[str, Any]]:
    """What timm is to build, the file of weights, and what timm must know of it."""
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


def _shapes(file: Path, given: str) -> Shapes:
    """Name -> shape of a file's tensors, by the names that timm gives them."""
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


def _classifiers(settings: Mapping[str, Any]) -> list[str]:
    names = settings.get("classifier") or []
    return [names] if isinstance(names, str) else list(names)


def _classes(found: Shapes, settings: Mapping[str, Any]) -> int:
    """How many classes a file's classifier has."""
    rows = [found[f"{key}.weight"][0] for key in _classifiers(settings) if f"{key}.weight" in found]
    named = settings["num_classes"]
    offset = settings.get("label_offset") or 0  # rows of no class, which timm takes off
    return rows[0] if rows and rows[0] != named + offset else named


def _channels(found: Shapes, plan: Any, settings: Mapping[str, Any], in_chans: int) -> int:
    """How many channels a file's first convolution takes; what timm says where it is not found."""
    names = settings["first_conv"]
    name = names if isinstance(names, str) else next(iter(names or []), "")
    shape = found.get(f"{name}.weight", ())
    module = plan.get_submodule(name) if name and shape else None
    if not isinstance(module, nn.Conv2d) or len(shape) != 4:
        return settings["input_size"][0]
    return shape[1] * module.groups * in_chans // module.in_channels


def _difference(found: Shapes, plan: Any, settings: Mapping[str, Any]) -> str:
    """How a file's tensors differ from the network's, but for classifier and first convolution."""
    conv = settings.get("first_conv") or []
    free = {*_classifiers(settings), *([conv] if isinstance(conv, str) else conv)}
    wanted = {
        key: tuple(value.shape)
        for key, value in plan.state_dict().items()
        if key.rpartition(".")[0] not in free
    }
    missing = [key for key in wanted if key not in found]
    other = [key for key in wanted if key in found and found[key] != wanted[key]]
    parts = []
    if missing:
        parts.append(f"{len(missing)} of {len(wanted)} tensors are missing, such as {missing[0]!r}")
    if other:
        key = other[0]
        parts.append(
            f"{len(other)} have another shape, such as {key!r} with {found[key]} for {wanted[key]}"
        )
    if not parts:
        extra = [k for k in found if k not in wanted and k.rpartition(".")[0] not in free]
        if extra:
            parts.append(f"it has {len(extra)} more tensors, such as {extra[0]!r}")
    return "; ".join(parts)


def _reason(error: Exception) -> str:
    """The first sentence of what a library says."""
    text = str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(".")
    return f"{type(error).__name__} {text}" if isinstance(error, KeyError) or not text else text
