"""Reading and checking a swarm's YAML file: base configuration, mixtures, cores."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tandem_pl.checks import (
    check_at_least,
    check_choice,
    check_count,
    check_positive,
    check_share,
)
from tandem_pl.compare.cells import QUIET, check_parts, find_class, set_seed, with_module
from tandem_pl.compare.config import (
    check_steps,
    merge,
    read_base,
    read_map,
    read_workers,
    study_folder,
)
from tandem_pl.compare.entries import check_keys, checked_map

from .mixtures import SAMPLINGS

#: What decides the rows, with defaults; RegMix's for the mixtures.
ROWS: dict[str, Any] = {
    "base": None,
    "overrides": {},
    "prior": "proportional",
    "sampling": "dirichlet",
    "strength": [0.1, 5.0],
    "temperature": 2.0,
    "largest": 15.0,
    "least": 2e-4,
    "seed": 0,
}
#: How many rows there are, and how they are made.
WORK: dict[str, Any] = {
    "proxies": None,
    "initial": None,
    "stack": 16,
    "folder": None,
    "executor": "local",
    "workers": None,
    "threads": 1,
    "devices": None,
}
LEAST_INITIAL = 2  # results that further mixtures can be chosen by
#: What a search over fidelities has beside them.
FIDELITIES = ("fidelities", "budget")
FIXED = "tandem_pl.callbacks.FixedMixture"
#: Callbacks that only watch a run, or set weights; proxies have none of them.
WATCHING = (
    "tandem_pl.callbacks.ReweightingCallback",
    "tandem_pl.callbacks.MixtureMonitor",
    "tandem_pl.callbacks.EvaluationTable",
    "tandem_pl.callbacks.ImageSheet",
    "tandem_pl.callbacks.ClassificationMetrics",
    "tandem_pl.callbacks.SampleScores",
    "lightning.pytorch.callbacks.Checkpoint",
    "lightning.pytorch.callbacks.ProgressBar",
    "lightning.pytorch.callbacks.LearningRateMonitor",
    "lightning.pytorch.callbacks.DeviceStatsMonitor",
)


class Swarm(NamedTuple):
    """Proxies, all of one configuration `base`, each on its own mixture.

    `rows` are the settings that decide the table's rows, `draw` those of `draw_mixtures`. `stack`
    is how many proxies a process trains together, in a cell. The mixtures of the first `initial`
    are drawn, and the others chosen by the results; None draws all.
    """

    base: dict[str, Any]
    rows: dict[str, Any]
    draw: dict[str, Any]
    prior: Any
    proxies: int
    initial: int | None
    stack: int
    folder: Path
    executor: str
    workers: int
    threads: int
    devices: tuple[int, ...] | None

    @property
    def on_cpu(self) -> bool:
        """Whether proxies use the CPU alone."""
        return self.base["trainer"].get("accelerator") == "cpu"

    @property
    def steps(self) -> int:
        """Batches that each proxy is trained on."""
        return int(self.base["trainer"]["max_steps"])

    @property
    def drawn(self) -> int:
        """Number of mixtures that are drawn."""
        return self.proxies if self.initial is None else min(self.initial, self.proxies)

    @property
    def cells(self) -> int:
        """Number of processes, one after the other or at once."""
        return math.ceil(self.proxies / self.stack)

    def numbers(self, cell: int) -> range:
        """Return the proxies of a cell."""
        return range(cell * self.stack, min((cell + 1) * self.stack, self.proxies))

    def config(self, number: int = 0, weights: Mapping[str, float] | None = None) -> dict[str, Any]:
        """Return the configuration for `tandem fit` of a proxy; without weights, of all."""
        trainer = self.base["trainer"]
        own: dict[str, Any] = {"default_root_dir": str(self.folder / "proxies" / f"{number:05}")}
        if weights is not None:
            fixed = {"class_path": FIXED, "init_args": {"weights": dict(weights)}}
            own["callbacks"] = [fixed, *trainer["callbacks"]]
        return merge(self.base, {"trainer": own})

    @property
    def callbacks(self) -> list[str]:
        """Classes of the callbacks that the training of each proxy needs."""
        return [callback["class_path"] for callback in self.base["trainer"]["callbacks"]]


def read_swarm(path: str | os.PathLike[str], queued: bool = False, **options: Any) -> Swarm:
    """Read and check a swarm's file.

    Args:
        path: the YAML file.
        queued: whether a queue starts each cell, so that `workers` and `devices` need not fit here.
        options: values that replace those of the file, unless None.

    Raises:
        InputError: a file, key or setting cannot be used.
    """
    return make_swarm(read_settings(path, **options), Path(path), queued)


def read_settings(path: str | os.PathLike[str], **options: Any) -> dict[str, Any]:
    """Return the content of a swarm's file, with the options that are not None.

    Raises:
        InputError: the file cannot be read, or has an unknown key.
    """
    content = read_map(Path(path), "config")
    content |= {key: value for key, value in options.items() if value is not None}
    check_keys(content, [*ROWS, *WORK, *FIDELITIES], str(path))
    return content


def make_swarm(content: Mapping[str, Any], path: Path, queued: bool = False) -> Swarm:
    """Check the content of a swarm's file, which may leave out keys.

    Args:
        content: key -> value.
        path: the file, that a relative `base` is beside.
        queued: as in `read_swarm`.

    Raises:
        InputError: a setting cannot be used.
    """
    content = ROWS | WORK | dict(content)
    overrides = checked_map(content["overrides"], "overrides")
    base = merge(read_base(content["base"], path.parent), overrides)
    check_steps(base, "proxies")
    for key in ("proxies", "stack", "initial"):
        if key != "initial" or content[key] is not None:
            check_count(key, content[key])
    if content["initial"] is not None and content["initial"] < content["proxies"]:
        check_at_least("initial", content["initial"], LEAST_INITIAL)
    check_choice("sampling", content["sampling"], SAMPLINGS)
    strength = content["strength"]
    strength = strength if isinstance(strength, list) else [strength, strength]
    for value in strength:
        check_positive("strength", value)
    check_positive("temperature", content["temperature"])
    check_share("least", content["least"])
    if content["largest"] is not None:
        check_positive("largest", content["largest"])
    check_at_least("seed", content["seed"], 0)
    draw = {key: content[key] for key in ("sampling", "temperature", "largest", "least", "seed")}
    base = _proxy(base, content["seed"])
    work = read_workers(content, queued)
    if work[-1] is not None:  # devices
        base["trainer"]["accelerator"] = "gpu"
    rows = {key: content[key] for key in ROWS if key not in ("base", "overrides")} | {"base": base}
    return Swarm(
        base,
        rows,
        draw | {"strength": tuple(strength)},
        content["prior"],
        content["proxies"],
        content["initial"],
        content["stack"],
        study_folder(content["folder"], path),
        *work,
    )


def _proxy(base: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return the configuration without what only watches a run, or writes files."""
    check_parts(base)
    base["model"] = with_module(base["model"], "MixtureModule")
    set_seed(base, seed)
    trainer = base["trainer"]
    watching = tuple(filter(None, map(find_class, WATCHING)))
    kept = []
    for callback in trainer.get("callbacks") or []:
        found = find_class(callback["class_path"])
        if not (isinstance(found, type) and issubclass(found, watching)):
            kept.append(callback)
    trainer |= QUIET | {"callbacks": kept, "logger": False, "enable_checkpointing": False}
    return base
