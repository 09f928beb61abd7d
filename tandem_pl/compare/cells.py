"""The runs that a comparison consists of, each with its whole configuration."""

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

from .config import Comparison, Entry, merge

LEARN, FINAL = "learn", "final"
REFERENCE = "reference"  # label of the run that methods with a reference share


class Cell(NamedTuple):
    """One run: trained, then tested.

    `folder` holds `cell.yaml` (the configuration, which `tandem fit` takes), `run` (what the run
    writes), `log.txt`, and at the end `result.yaml` or `failed.txt`. `needs` are the names of the
    cells whose results the configuration refers to.
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
        """Of the trained network."""
        return self.run / "checkpoints" / "last.ckpt"

    @property
    def result(self) -> Path:
        """There when the cell is done."""
        return self.folder / "result.yaml"

    @property
    def failure(self) -> Path:
        """There when the cell failed: the end of what it printed."""
        return self.folder / "failed.txt"


def build_cells(comparison: Comparison) -> list[Cell]:
    """All cells, in an order in which each comes after what it needs; seed by seed."""
    cells: dict[str, Cell] = {}
    for seed in comparison.seeds:
        reference = _reference(comparison, seed)
        if reference is not None:
            cells[reference.name] = reference
        for entry in comparison.entries:
            learn = None
            if entry.learns:
                learn = _learning(comparison, entry, seed, reference)
                cells[learn.name] = learn
            cell = _training(comparison, entry.label, _weights(entry, learn), seed, learn)
            cells.setdefault(cell.name, cell)
    return list(cells.values())


def reference_label(comparison: Comparison) -> str | None:
    """Label of the runs that give reference networks: uniform's, or their own; None for none."""
    if not any(entry.wants_reference for entry in comparison.entries):
        return None
    for entry in comparison.entries:
        if not entry.learns and entry.settings == {"weights": "uniform"}:
            return entry.label
    return REFERENCE


def _reference(comparison: Comparison, seed: int) -> Cell | None:
    label = reference_label(comparison)
    if label is None:
        return None
    return _training(comparison, label, {"weights": "uniform"}, seed, None)


def _weights(entry: Entry, learn: Cell | None) -> dict[str, Any]:
    """Settings of the final run's `FixedMixture`."""
    if learn is None:
        return entry.settings
    last = "last:" if entry.row.result == "last" else ""
    return {"weights": f"{last}{learn.run / 'mixture.yaml'}"}


def _training(
    comparison: Comparison, label: str, weights: dict[str, Any], seed: int, learn: Cell | None
) -> Cell:
    callback = {"class_path": "tandem_pl.callbacks.FixedMixture", "init_args": weights}
    folder = comparison.folder / label / f"seed-{seed}" / FINAL
    config = _configured(comparison, folder, seed, callback, "MixtureModule", {})
    needs = (learn.name,) if learn else ()
    return Cell(f"{label}/seed-{seed}/{FINAL}", label, seed, FINAL, folder, config, needs)


def _learning(comparison: Comparison, entry: Entry, seed: int, reference: Cell | None) -> Cell:
    settings = entry.settings
    needs: tuple[str, ...] = ()
    if entry.wants_reference:
        assert reference is not None
        settings = settings | {"reference": str(reference.checkpoint)}
        needs = (reference.name,)
    callback = {"class_path": f"tandem_pl.callbacks.{entry.row.callback}", "init_args": settings}
    folder = comparison.folder / entry.label / f"seed-{seed}" / LEARN
    config = _configured(comparison, folder, seed, callback, entry.row.module, entry.overrides)
    name = f"{entry.label}/seed-{seed}/{LEARN}"
    return Cell(name, entry.label, seed, LEARN, folder, config, needs)


def _configured(
    comparison: Comparison,
    folder: Path,
    seed: int,
    callback: dict[str, Any],
    module: str,
    overrides: Mapping[str, Any],
) -> dict[str, Any]:
    """The base with this callback and module, quiet, and writing into `folder`."""
    config = merge(comparison.base, overrides)
    config["model"] = with_module(config["model"], module)
    trainer = config["trainer"]
    kept = [row for row in trainer.get("callbacks") or [] if not _replaced(row["class_path"])]
    save = {"every_n_train_steps": trainer["max_steps"], "save_top_k": 1, "save_last": "link"}
    checkpoint = {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": save,
    }
    trainer["callbacks"] = [callback, *kept, checkpoint]
    trainer["logger"] = {
        "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
        "init_args": {
            "save_dir": str(folder),
            "name": "",
            "version": "run",
            "default_hp_metric": False,
        },
    }
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    trainer |= quiet | {"limit_val_batches": 0, "num_sanity_val_steps": 0, "devices": 1}
    if comparison.devices is not None:
        trainer["accelerator"] = "gpu"
    config["seed_everything"] = seed
    for part in (config["data"], config["model"], config["model"]["init_args"].get("network")):
        if isinstance(part, dict) and takes_seed(str(part.get("class_path"))):
            part.setdefault("init_args", {})["seed"] = seed
    return config


def with_module(model: dict[str, Any], name: str) -> dict[str, Any]:
    """The same network, objective and optimizer in the module that a method needs.

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
    """Whether a class or function, or what it hands its keywords on to, has a `seed`.

    Raises:
        InputError: it cannot be imported.

    >>> takes_seed("tandem_pl.networks.causal_language_model"), takes_seed("torch.nn.Linear")
    (True, False)
    """
    found = _find(class_path)
    if found is None:
        raise InputError(
            f"class_path={class_path!r} cannot be imported: give its whole path, and set "
            "PYTHONPATH where it is not installed."
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


def _replaced(class_path: str) -> bool:
    """Callbacks of the base that a cell has its own of."""
    from lightning.pytorch.callbacks import Checkpoint, ProgressBar

    from tandem_pl.callbacks import ReweightingCallback

    found = _find(class_path)
    ours = (Checkpoint, ProgressBar, ReweightingCallback)
    return isinstance(found, type) and issubclass(found, ours)


def _find(class_path: str) -> Any:
    """What a path names; None where nothing is."""
    module, _, name = class_path.rpartition(".")
    if "." not in class_path:  # a name alone is one of Lightning's callbacks
        module = "lightning.pytorch.callbacks"
    try:
        return getattr(import_module(module), name, None)
    except (ImportError, ValueError):
        return None


def write_config(cell: Cell) -> None:
    """`cell.yaml`, with the commands to run it by hand."""
    path = cell.folder / "cell.yaml"
    head = (
        f"# {cell.name}\n"
        f"#   tandem fit  --config {path}\n"
        f"#   tandem test --config {path} --ckpt_path {cell.checkpoint}\n"
    )
    write_atomically(path, (head + dump(cell.config)).encode())


def dump(config: dict[str, Any]) -> str:
    r"""YAML without anchors.

    >>> shared = [1]
    >>> dump({"a": shared, "b": shared})
    'a:\n- 1\nb:\n- 1\n'
    """
    return dump_yaml(config)
