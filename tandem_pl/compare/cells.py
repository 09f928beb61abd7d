"""The runs of a comparison, each with its whole configuration."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from tandem_pl.errors import InputError
from tandem_pl.files import write_atomically
from tandem_pl.yaml_files import dump_yaml

from .config import Comparison, merge
from .entries import Entry, of_seed

LEARN, FINAL = "learn", "final"
FIXED = "tandem_pl.callbacks.FixedMixture"  # trains at given weights
FAILED = "failed.txt"
REFERENCE = "reference"  # label of the reference runs if the comparison has no uniform ones
QUIET = {  # flags of the trainer
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "limit_val_batches": 0,
    "num_sanity_val_steps": 0,
    "devices": 1,
}


class Cell(NamedTuple):
    """One run: trained, then tested.

    `folder` holds `cell.yaml` (the configuration for `tandem fit`), `run` (the run's files),
    `log.txt`, and at the end `result.yaml` or `failed.txt`. `needs` are the names of the cells
    whose results the configuration refers to.
    """

    name: str
    label: str
    seed: int
    stage: str
    folder: Path
    config: dict[str, Any]
    needs: tuple[str, ...] = ()

    @property
    def run(self) -> Path:
        """Folder of the run's files."""
        return self.folder / "run"

    @property
    def checkpoint(self) -> Path:
        """The trained network."""
        return self.run / "checkpoints" / "last.ckpt"

    @property
    def result(self) -> Path:
        """Exists if the cell is done."""
        return self.folder / "result.yaml"

    @property
    def failure(self) -> Path:
        """Exists if the cell failed: the end of what it printed."""
        return self.folder / FAILED


def check_parts(base: Mapping[str, Any]) -> None:
    """Raise an error unless a configuration names the classes of its module and data."""
    for key in ("model", "data"):
        if not isinstance(base.get(key), Mapping) or "class_path" not in base[key]:
            raise InputError(f"the base has no {key!r} with a class_path.")


def build_cells(comparison: Comparison) -> list[Cell]:
    """Return all cells, seed by seed, each after the cells that it needs.

    Raises:
        InputError: the base has no module or data, or a class that cannot be imported.
    """
    check_parts(comparison.base)
    cells: dict[str, Cell] = {}
    for seed in comparison.seeds:
        reference = None
        label = _reference_label(comparison)
        if label is not None:
            fixed = _of_class(FIXED, {"weights": "uniform"})
            reference = _build_cell(comparison, label, seed, FINAL, fixed)
            cells[reference.name] = reference
        for entry in comparison.entries:
            weights = of_seed(entry.settings, seed)
            needs: tuple[str, ...] = ()
            if entry.learns:
                learn = _learning(comparison, entry, seed, reference)
                cells[learn.name] = learn
                if comparison.network == "online" and entry.definition.online:
                    continue
                last = "last:" if entry.definition.result == "last" else ""
                weights, needs = {"weights": f"{last}{learn.run / 'mixture.yaml'}"}, (learn.name,)
            fixed = _of_class(FIXED, weights)
            cell = _build_cell(
                comparison, entry.label, seed, FINAL, fixed, needs, overrides=entry.length
            )
            cells.setdefault(cell.name, cell)
    return list(cells.values())


def _reference_label(comparison: Comparison) -> str | None:
    """Return the label of the reference runs, which may be uniform's, or None."""
    if not any(entry.wants_reference for entry in comparison.entries):
        return None
    for entry in comparison.entries:
        if (entry.learns, entry.settings, entry.steps) == (False, {"weights": "uniform"}, None):
            return entry.label
    return REFERENCE


def _learning(comparison: Comparison, entry: Entry, seed: int, reference: Cell | None) -> Cell:
    settings = of_seed(entry.settings, seed)
    needs: tuple[str, ...] = ()
    if entry.wants_reference and reference is not None:
        settings, needs = settings | {"reference": str(reference.checkpoint)}, (reference.name,)
    method = entry.definition
    callback = _of_class(entry.class_path, settings)
    overrides = merge(entry.length, entry.overrides)
    return _build_cell(
        comparison, entry.label, seed, LEARN, callback, needs, method.module, overrides
    )


def _build_cell(
    comparison: Comparison,
    label: str,
    seed: int,
    stage: str,
    callback: dict[str, Any],
    needs: tuple[str, ...] = (),
    module: str = "MixtureModule",
    overrides: Mapping[str, Any] = {},
) -> Cell:
    """Return the cell of the base with this callback and module, without progress bars."""
    name = f"{label}/seed-{seed}/{stage}"
    folder = comparison.folder / name
    config = merge(comparison.base, overrides)
    config["model"] = with_module(config["model"], module)
    trainer = config["trainer"]
    kept = [c for c in trainer.get("callbacks") or [] if not _replaced(c["class_path"])]
    save = {"every_n_train_steps": trainer["max_steps"], "save_top_k": 1, "save_last": "link"}
    checkpoint = _of_class("lightning.pytorch.callbacks.ModelCheckpoint", save)
    trainer["callbacks"] = [callback, *kept, checkpoint]
    log = {"save_dir": str(folder), "name": "", "version": "run", "default_hp_metric": False}
    trainer["logger"] = _of_class("lightning.pytorch.loggers.TensorBoardLogger", log)
    trainer |= QUIET
    if comparison.devices is not None:
        trainer["accelerator"] = "gpu"
    set_seed(config, seed)
    return Cell(name, label, seed, stage, folder, config, needs)


def set_seed(config: dict[str, Any], seed: int) -> None:
    """Set the seed of a run, its data, its module and its network."""
    config["seed_everything"] = seed
    for part in (config["data"], config["model"], config["model"]["init_args"].get("network")):
        if isinstance(part, dict) and takes_seed(str(part.get("class_path"))):
            part.setdefault("init_args", {})["seed"] = seed


def _of_class(class_path: str, init_args: Mapping[str, Any]) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": init_args}


def with_module(model: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the same network, objective and optimizer in the module that a method needs.

    >>> with_module({"class_path": "tandem_pl.MixtureModule", "init_args": {}}, "TandemModule")
    {'class_path': 'tandem_pl.TandemModule', 'init_args': {}}
    """
    model = deepcopy(model)
    model.setdefault("init_args", {})
    twins = model["class_path"].rpartition(".")[2] == "TandemModule"
    if name == "MixtureModule" and twins:
        from tandem_pl.training.mixture_module import MixtureModule

        known = inspect.signature(MixtureModule).parameters
        given = model["init_args"]
        model["init_args"] = {key: value for key, value in given.items() if key in known}
    if name != "MixtureModule" or twins:
        model["class_path"] = f"tandem_pl.{name}"
    return model


def takes_seed(class_path: str) -> bool:
    """Return whether a class or function, or a base class that takes its keywords, has a `seed`.

    Raises:
        InputError: it cannot be imported.

    >>> takes_seed("tandem_pl.networks.causal_language_model"), takes_seed("torch.nn.Linear")
    (True, False)
    """
    found = find_class(class_path)
    if found is None:
        raise InputError(
            f"class_path={class_path!r} cannot be imported: give its whole path, and set "
            "PYTHONPATH if it is not installed."
        )
    for part in found.__mro__ if isinstance(found, type) else [found]:
        try:
            parameters = inspect.signature(part).parameters
        except (TypeError, ValueError):
            return False
        if "seed" in parameters:
            return True
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return False
    return False


def of_tokens(comparison: Comparison) -> bool:
    """Return whether losses are of tokens, so that perplexities mean something."""
    objective = comparison.base["model"].get("init_args", {}).get("objective")
    path = objective.get("class_path") if isinstance(objective, dict) else objective
    return bool(getattr(find_class(str(path)), "of_tokens", False))


def _replaced(class_path: str) -> bool:
    """Return whether the cell replaces this callback of the base."""
    from lightning.pytorch.callbacks import Checkpoint, ProgressBar

    from tandem_pl.callbacks import ReweightingCallback

    found = find_class(class_path)
    ours = (Checkpoint, ProgressBar, ReweightingCallback)
    return isinstance(found, type) and issubclass(found, ours)


def find_class(class_path: str) -> Any:
    """Return what an import path names, or None."""
    module, _, name = class_path.rpartition(".")
    if "." not in class_path:  # a name alone is one of Lightning's callbacks
        module = "lightning.pytorch.callbacks"
    try:
        return getattr(import_module(module), name, None)
    except (ImportError, ValueError):
        return None


def write_config(cell: Cell) -> None:
    """Write `cell.yaml`, with the commands to run it by hand."""
    path = cell.folder / "cell.yaml"
    head = (
        f"# {cell.name}\n"
        f"#   tandem fit  --config {path}\n"
        f"#   tandem test --config {path} --ckpt_path {cell.checkpoint}\n"
    )
    write_atomically(path, (head + dump(cell.config)).encode())


def dump(config: dict[str, Any]) -> str:
    r"""Return YAML without anchors.

    >>> shared = [1]
    >>> dump({"a": shared, "b": shared})
    'a:\n- 1\nb:\n- 1\n'
    """
    return dump_yaml(config)
