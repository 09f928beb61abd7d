"""The configuration that trains a fresh network at the weights that a run has learned."""

from __future__ import annotations

from pathlib import Path
from pydoc import locate
from typing import Any

from tandem_pl.compare.cells import with_module
from tandem_pl.errors import InputError
from tandem_pl.yaml_files import dump_yaml

from .run_folder import read_config, takes_corpus_of

FIXED = "tandem_pl.callbacks.FixedMixture"


def second_stage(run: Path, name: str) -> str:
    """Return the YAML of a run with the same network and data, at the run's average weights.

    It is the run's `config.yaml` with `FixedMixture` in place of the method that learned, and one
    network in place of twins, on all of the data.

    Args:
        run: folder of a run that learned a mixture.
        name: of the new run.

    Raises:
        InputError: it is no run, or one at given weights.
    """
    config = read_config(run)
    if not (run / "mixture.yaml").is_file():
        raise InputError(f"run {str(run)!r} has no mixture.yaml yet: it is written at its end.")
    trainer, model, data = (config[key] for key in ("trainer", "model", "data"))
    callbacks = trainer.get("callbacks") or []
    learned = [callback for callback in callbacks if _learns(callback["class_path"])]
    if not learned:
        raise InputError(f"run {str(run)!r} was trained at given weights: its config.yaml will do.")
    learned[0].update(class_path=FIXED, init_args={})
    config["model"] = model = with_module(model, "MixtureModule")
    scheduler = model["init_args"].get("lr_scheduler") or {}
    arguments = scheduler.get("init_args") or {}
    if arguments.get("total_steps") == trainer.get("max_steps"):
        arguments["total_steps"] = "${.....trainer.max_steps}"  # as long as the run, if overridden
    data["init_args"]["weights"] = str(run / "mixture.yaml")
    for key in ("final_samples", "final_tokens"):  # this is the final run
        data["init_args"].pop(key, None)
    if takes_corpus_of(run, data):
        data["init_args"]["like"] = str(run)
    if isinstance(trainer.get("logger"), dict):
        trainer["logger"].setdefault("init_args", {})["name"] = name
    config["ckpt_path"] = None
    return dump_yaml(config)


def _learns(path: str) -> bool:
    from tandem_pl.callbacks.reweighting import ReweightingCallback

    found: Any = locate(path)
    return isinstance(found, type) and issubclass(found, ReweightingCallback) and found.learns
