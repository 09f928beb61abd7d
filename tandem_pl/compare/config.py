"""Reading and checking a comparison's YAML file: base configuration, methods, seeds, cores."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tandem_pl.checks import check_choice, check_count
from tandem_pl.errors import InputError
from tandem_pl.machine import count_cores
from tandem_pl.public_names import with_whole_paths
from tandem_pl.yaml_files import read_yaml

from .entries import Entry, check_keys, check_weights, checked_map, read_methods
from .executors import EXECUTORS

KEYS: dict[str, Any] = {  # key -> its default
    "base": None,
    "overrides": {},
    "methods": None,
    "baseline": "uniform",
    "seeds": [0, 1, 2],
    "folder": None,
    "executor": "local",
    "workers": None,
    "threads": 1,
    "devices": None,
    "network": "fresh",
}
NETWORKS = ("fresh", "online")
WORKERS = ("executor", "workers", "threads", "devices")


class Comparison(NamedTuple):
    """A comparison: every method with every seed under one configuration.

    `base` is the final run's configuration, overrides included. Runs are started by `executor`,
    `workers` at a time. Every run has one device: `devices` are the numbers of the GPUs that runs
    may use, or None for the accelerator of the base.
    `network` says which network a learning method is judged by: "fresh", trained at the learned
    mixture (the one that it was learned with is shown too), or "online", the one that it was
    learned with alone, without another run; methods whose network is a mere means get a fresh one.
    """

    name: str
    base: dict[str, Any]
    entries: tuple[Entry, ...]
    baseline: str
    network: str
    seeds: tuple[int, ...]
    folder: Path
    executor: str
    workers: int
    threads: int
    devices: tuple[int, ...] | None

    @property
    def on_cpu(self) -> bool:
        """Whether runs use the CPU alone."""
        return self.devices is None and self.base["trainer"].get("accelerator") == "cpu"

    @property
    def steps(self) -> int:
        """Number of batches of every run."""
        return int(self.base["trainer"]["max_steps"])


def read_comparison(
    path: str | os.PathLike[str],
    only: Sequence[str] | None = None,
    queued: bool = False,
    **options: Any,
) -> Comparison:
    """Read and check a comparison's file.

    Args:
        path: the YAML file.
        only: keep the methods with these labels, and the baseline.
        queued: whether a queue starts each run, so that `workers` and `devices` need not fit here.
        options: values that replace those of the file, unless None.

    Raises:
        InputError: a file, key, method or setting cannot be used, or there are fewer cores or
            devices than asked for.
    """
    path = Path(path)
    content = read_map(path, "--config")
    content |= {key: value for key, value in options.items() if value is not None}
    check_keys(content, KEYS, str(path))
    content = KEYS | {key: value for key, value in content.items() if value is not None}
    overrides = checked_map(content["overrides"], "overrides")
    base = merge(read_base(content["base"], path.parent), overrides)
    check_steps(base, "methods")
    check_choice("network", content["network"], NETWORKS)
    methods = content["methods"]
    if isinstance(methods, str):
        methods = read_map(path.parent / methods, "methods")
    entries = read_methods(methods)
    baseline = content["baseline"]
    labels = [entry.label for entry in entries]
    for name in [baseline, *(only or [])]:
        if name not in labels:
            key = "--methods" if only and name in only else "baseline"
            raise InputError(f"{key} {name!r} is not one of the methods: {', '.join(labels)}.")
    if only:
        entries = [entry for entry in entries if entry.label in {*only, baseline}]
    seeds = _seeds(content["seeds"])
    for entry in entries:
        check_weights(entry, seeds)
    return Comparison(
        path.stem,
        base,
        tuple(entries),
        baseline,
        content["network"],
        seeds,
        study_folder(content["folder"], path),
        *read_workers(content, queued),
    )


def check_steps(base: Mapping[str, Any], runs: str) -> None:
    """Raise an error unless a configuration says how many batches its `runs` have."""
    steps = checked_map(base.get("trainer"), "trainer").get("max_steps")
    if not isinstance(steps, int) or steps < 1:
        raise InputError(
            f"trainer.max_steps={steps!r} must be a positive number of batches in the base or the "
            f"overrides: all {runs} get the same budget."
        )


def study_folder(given: str | None, path: Path) -> Path:
    """Return where a study's runs go: the folder given, or one with the name of its YAML file.

    Raises:
        InputError: it, or a folder that it lies in, is a file.
    """
    folder = Path(given or Path("runs") / path.stem)
    for part in (folder, *folder.parents):
        if part.is_file():
            raise InputError(f"folder={str(folder)!r}: {part} is a file; give a folder.")
    return folder


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
        merged = merge(merged, read_map(folder / path, "base"))
    return merged


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


def read_workers(
    content: Mapping[str, Any], queued: bool
) -> tuple[str, int, int, tuple[int, ...] | None]:
    """Return executor, workers, threads of each, and devices, as a file gives them.

    They are checked against this machine, unless a queue or Ray chooses where cells run.
    """
    executor, workers, threads, devices = (content[key] for key in WORKERS)
    check_choice("executor", executor, EXECUTORS)
    check_count("threads", threads)
    if devices is not None:
        devices = [devices] if isinstance(devices, int) else devices
        if not isinstance(devices, list) or not devices or set(map(type, devices)) != {int}:
            raise InputError(f"devices={devices!r} must be a list of GPU numbers, such as [0, 1].")
    if workers is not None:
        check_count("workers", workers)
    elif executor == "ray" and not queued:
        raise InputError("executor='ray' needs workers, the number of runs at a time.")
    if executor == "local" and not queued:
        workers = _check_machine(workers, threads, devices)
    return executor, workers or 1, threads, tuple(devices) if devices else None


def _check_machine(workers: int | None, threads: int, devices: list[int] | None) -> int:
    """Return the workers, checked with their threads and devices against those of the machine."""
    cores = count_cores()
    if devices is not None:
        import torch

        found = torch.cuda.device_count()
        if min(devices) < 0 or max(devices) >= found:
            raise InputError(
                f"devices={devices} asks for more GPUs than the {found} there are: name those "
                "from 0 on, or leave devices out for the CPU."
            )
    if workers is None:
        workers = len(devices) if devices else max(cores // threads, 1)
    if workers * threads > cores:
        raise InputError(
            f"workers={workers} of threads={threads} need {workers * threads} cores and there "
            f"{'is' if cores == 1 else 'are'} {cores}: lower one, or leave workers out."
        )
    return workers


def _seeds(seeds: Any) -> tuple[int, ...]:
    seeds = [seeds] if isinstance(seeds, int) else seeds
    numbers = isinstance(seeds, list) and all(isinstance(n, int) and n >= 0 for n in seeds)
    if not seeds or not numbers or len(set(seeds)) < len(seeds):
        raise InputError(f"seeds={seeds!r} must be a list of different whole numbers, 0 or more.")
    return tuple(seeds)


def read_map(path: Path, key: str) -> dict[str, Any]:
    """Return the map of a YAML file, with the whole paths of public classes.

    Raises:
        InputError: the file, which `key` gave, cannot be read or holds no map.
    """
    try:
        content = read_yaml(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{key}={str(path)!r} cannot be read: {reason}.") from None
    if not isinstance(content, dict):
        raise InputError(f"{key}={str(path)!r} is not a YAML map of keys.")
    return dict(with_whole_paths(content))
