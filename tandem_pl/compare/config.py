"""Reading and checking a comparison's YAML file: base configuration, methods, seeds, cores."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from tandem_pl.errors import InputError, did_you_mean
from tandem_pl.machine import count_cores
from tandem_pl.public_names import with_whole_paths
from tandem_pl.yaml_files import read_yaml

if TYPE_CHECKING:
    from tandem_pl.callbacks.methods.table import Method

KEYS: dict[str, Any] = {  # key -> its default
    "base": None,
    "overrides": {},
    "methods": None,
    "baseline": "uniform",
    "seeds": [0, 1, 2],
    "folder": None,
    "workers": None,
    "threads": 1,
    "devices": None,
}
LABEL = re.compile(r"[A-Za-z0-9][\w.+-]*")


class Entry(NamedTuple):
    """A method with its settings.

    `settings` are the callback's, those of the table of methods included; `overrides` change the
    configuration of the cells that learn.
    """

    label: str
    method: str
    settings: dict[str, Any]
    overrides: dict[str, Any]

    @property
    def definition(self) -> Method:
        """The method in the table `callbacks.methods.METHODS`."""
        from tandem_pl.callbacks.methods.table import METHODS

        return METHODS[self.method]

    @property
    def learns(self) -> bool:
        """Whether weights are learned in a run before the final one."""
        return self.definition.callback != "FixedMixture"

    @property
    def wants_reference(self) -> bool:
        """Whether a reference must be trained first, because the settings name none."""
        return self.definition.needs_reference and not self.settings.get("reference")


class Comparison(NamedTuple):
    """A comparison: every method with every seed under one configuration.

    `base` is the final run's configuration, overrides included. Every run has one device: `devices`
    are the numbers of the GPUs that runs may use, or None for the accelerator of the base.
    """

    name: str
    base: dict[str, Any]
    entries: tuple[Entry, ...]
    baseline: str
    seeds: tuple[int, ...]
    folder: Path
    workers: int
    threads: int
    devices: tuple[int, ...] | None

    @property
    def steps(self) -> int:
        """Number of batches of every run."""
        return int(self.base["trainer"]["max_steps"])


def read_comparison(
    path: str | os.PathLike[str], only: Sequence[str] | None = None, **options: Any
) -> Comparison:
    """Read and check a comparison's file.

    Args:
        path: the YAML file.
        only: keep the methods with these labels, and the baseline.
        options: values that replace those of the file, unless None.

    Raises:
        InputError: a file, key, method or setting cannot be used, or there are fewer cores or
            devices than asked for.
    """
    path = Path(path)
    content = _read_map(path, "--config")
    content |= {key: value for key, value in options.items() if value is not None}
    _check_keys(content, KEYS, str(path))
    content = KEYS | {key: value for key, value in content.items() if value is not None}
    base = merge(read_base(content["base"], path.parent), content["overrides"])
    steps = (base.get("trainer") or {}).get("max_steps")
    if not isinstance(steps, int) or steps < 1:
        raise InputError(
            f"trainer.max_steps={steps!r} must be a positive number of batches in the base or the "
            "overrides: all methods get the same budget."
        )
    entries = read_methods(content["methods"])
    baseline = content["baseline"]
    labels = [entry.label for entry in entries]
    for name in [baseline, *(only or [])]:
        if name not in labels:
            key = "--methods" if only and name in only else "baseline"
            raise InputError(f"{key} {name!r} is not one of the methods: {', '.join(labels)}.")
    if only:
        entries = [entry for entry in entries if entry.label in {*only, baseline}]
    return Comparison(
        path.stem,
        base,
        tuple(entries),
        baseline,
        _seeds(content["seeds"]),
        Path(content["folder"] or Path("runs") / path.stem),
        *_cores(content["workers"], content["threads"], content["devices"]),
    )


def read_base(base: Any, folder: Path) -> dict[str, Any]:
    """Return the final run's configuration, from paths relative to `folder` or from itself."""
    if isinstance(base, Mapping):
        return deepcopy(dict(base))
    paths = [base] if isinstance(base, str) else base
    if not isinstance(paths, list) or not paths or not all(isinstance(p, str) for p in paths):
        raise InputError(
            f"base={base!r} must be the path of the final run's configuration, such as train.yaml, "
            "or the configuration itself."
        )
    merged: dict[str, Any] = {}
    for path in paths:
        merged = merge(merged, _read_map(folder / path, "base"))
    return merged


def read_methods(methods: Any) -> list[Entry]:
    """Return the methods, from a list of names or a map of label -> settings.

    >>> [entry.label for entry in read_methods(["uniform", "proportional"])]
    ['uniform', 'proportional']
    >>> read_methods({"tau3": {"method": "temperature", "weights": "temperature:3"}})[0].settings
    {'weights': 'temperature:3'}
    """
    from tandem_pl.callbacks.methods.table import find_method

    if methods and isinstance(methods, list) and all(isinstance(name, str) for name in methods):
        methods = dict.fromkeys(methods)
    if not isinstance(methods, Mapping) or not methods:
        raise InputError(
            f"methods={methods!r} must be a list of names, or a map of name to settings."
        )
    entries = []
    for label, given in methods.items():
        if not isinstance(label, str) or not LABEL.fullmatch(label):
            raise InputError(f"methods: {label!r} names a folder: use letters, digits, . _ + -.")
        if not isinstance(given or {}, Mapping):
            raise InputError(f"methods.{label}={given!r} must be a map of settings, or empty.")
        settings = dict(given or {})
        method = settings.pop("method", label)
        overrides = settings.pop("overrides", {}) or {}
        try:
            definition = find_method(method)
        except InputError as error:
            raise InputError(f"methods.{label}: {error}") from None
        entry = Entry(label, method, {**definition.settings, **settings}, overrides)
        check_settings(entry)
        entries.append(entry)
    return entries


def check_settings(entry: Entry) -> None:
    """Validate settings by constructing the callback."""
    callback = entry.definition.load()
    known = [name for name in inspect.signature(callback).parameters if name != "self"]
    _check_keys(entry.settings, known, f"methods.{entry.label}")
    if entry.wants_reference:
        return
    try:
        callback(**entry.settings)
    except InputError as error:
        raise InputError(f"methods.{entry.label}: {error}") from None
    except Exception:
        return  # the parser of the cell may convert this value; an error will show there


def merge(base: Any, over: Any) -> Any:
    """Merge `over` into a copy of `base`, key by key.

    Another `class_path` replaces the `init_args`. A map without a class path over a class gives
    its `init_args`, as on the command line.

    >>> merge({"class_path": "A", "init_args": {"x": 1, "y": 2}}, {"y": 3})
    {'class_path': 'A', 'init_args': {'x': 1, 'y': 3}}
    >>> merge({"class_path": "A", "init_args": {"x": 1}}, {"class_path": "B"})
    {'class_path': 'B'}
    """
    if not isinstance(base, Mapping) or not isinstance(over, Mapping):
        return deepcopy(over)
    if "class_path" in base:
        if not {"class_path", "init_args", "dict_kwargs"} & over.keys():
            over = {"init_args": over} if over else {}
        if over.get("class_path", base["class_path"]) != base["class_path"]:
            return deepcopy(dict(over))
    merged = deepcopy(dict(base))
    for key, value in over.items():
        merged[key] = merge(merged[key], value) if key in merged else deepcopy(value)
    return merged


def _cores(workers: Any, threads: Any, devices: Any) -> tuple[int, int, tuple[int, ...] | None]:
    """Return workers, threads of each and devices, checked against those of the machine."""
    cores = count_cores()
    _check_count("threads", threads)
    if devices is not None:
        devices = [devices] if isinstance(devices, int) else devices
        if not isinstance(devices, list) or not devices or set(map(type, devices)) != {int}:
            raise InputError(f"devices={devices!r} must be a list of GPU numbers, such as [0, 1].")
        import torch

        found = torch.cuda.device_count()
        if min(devices) < 0 or max(devices) >= found:
            raise InputError(
                f"devices={devices} asks for more GPUs than the {found} there are: name those "
                "from 0 on, or leave devices out for the CPU."
            )
    most = len(devices) if devices else max(cores // threads, 1)
    workers = most if workers is None else workers
    _check_count("workers", workers)
    if workers * threads > cores:
        raise InputError(
            f"workers={workers} of threads={threads} need {workers * threads} cores and there "
            f"{'is' if cores == 1 else 'are'} {cores}: lower one, or leave workers out."
        )
    if devices and workers > len(devices):
        raise InputError(
            f"workers={workers} are more than the {len(devices)} devices: a cell takes one, so "
            "lower workers or leave it out."
        )
    return workers, threads, tuple(devices) if devices else None


def _check_count(key: str, value: Any) -> None:
    if not isinstance(value, int) or value < 1:
        raise InputError(f"{key}={value!r} must be a whole number, 1 or more.")


def _seeds(seeds: Any) -> tuple[int, ...]:
    seeds = [seeds] if isinstance(seeds, int) else seeds
    numbers = isinstance(seeds, list) and all(isinstance(n, int) and n >= 0 for n in seeds)
    if not seeds or not numbers or len(set(seeds)) < len(seeds):
        raise InputError(f"seeds={seeds!r} must be a list of different whole numbers, 0 or more.")
    return tuple(seeds)


def _check_keys(given: Iterable[str], known: Iterable[str], where: str) -> None:
    known = list(known)
    for key in given:
        if key not in known:
            hint = did_you_mean(key, known)
            raise InputError(f"{where} has the unknown key {key!r}: {hint}use {', '.join(known)}.")


def _read_map(path: Path, key: str) -> dict[str, Any]:
    try:
        content = read_yaml(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{key}={str(path)!r} cannot be read: {reason}.") from None
    if not isinstance(content, dict):
        raise InputError(f"{key}={str(path)!r} is not a YAML map of keys.")
    return dict(with_whole_paths(content))
