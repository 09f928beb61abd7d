"""A run's folder in place of `--config` and `--ckpt_path`: `tandem test RUN`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tandem_pl.errors import InputError
from tandem_pl.public_names import PATHS
from tandem_pl.yaml_files import read_yaml

from .signatures import signature


def expand(run: str, rest: Sequence[str]) -> list[str]:
    """Return the options that `tandem VERB RUN` stands for, and those that the user gave.

    Raises:
        InputError: it is not the folder of a run, or has no checkpoint.
    """
    folder, keys = Path(run), [option.partition("=")[0] for option in rest]
    config = read_config(folder)
    options = ["--config", str(folder / "config.yaml")]
    if "--ckpt_path" not in keys and "--untrained" not in keys:
        options += ["--ckpt_path", str(last_checkpoint(folder, config))]
    given = {"--data.like", "--data.init_args.like"} & set(keys)
    if not given and takes_corpus_of(folder, config.get("data")):
        options += ["--data.init_args.like", str(folder)]
    return [*options, *rest]


def read_config(run: Path) -> dict[str, Any]:
    """Return the configuration of a run."""
    try:
        return dict(read_yaml(run / "config.yaml"))
    except (OSError, TypeError, ValueError, yaml.YAMLError):
        pass
    newest = max(run.glob("version_*/config.yaml"), key=lambda f: f.stat().st_mtime, default=None)
    hint = f"did you mean {str(newest.parent)!r}?" if newest else "give the folder of `tandem fit`."
    problem = "has no config.yaml of a run" if run.exists() else "does not exist"
    raise InputError(f"run {str(run)!r} {problem}: {hint}")


def last_checkpoint(run: Path, config: Mapping[str, Any]) -> Path:
    """Return the newest `last.ckpt` in the folders that the run saved to."""
    folders = [run / "checkpoints"]
    for callback in (config.get("trainer") or {}).get("callbacks") or []:
        dirpath = (callback.get("init_args") or {}).get("dirpath") if callback else None
        folders += [Path(dirpath)] if dirpath else []
    found = [folder / "last.ckpt" for folder in folders if (folder / "last.ckpt").exists()]
    if found:
        return max(found, key=lambda path: path.stat().st_mtime)
    there = ", ".join(sorted(file.name for file in folders[0].glob("*.ckpt"))) or "none"
    raise InputError(
        f"run {str(run)!r} has no last.ckpt; in its folder checkpoints: {there}; give --ckpt_path "
        "FILE, or --untrained for random weights."
    )


def takes_corpus_of(run: Path, data: Any) -> bool:
    """Return whether a data module of a configuration can take the corpus of a run by `like`."""
    return isinstance(data, dict) and _takes_like(data) and _has_corpus(run)


def check_checkpoint_path(path: str, has_model: bool) -> None:
    """Raise an error if a checkpoint cannot be used, with the path or option that can.

    Args:
        path: the value of the option `ckpt_path`.
        has_model: whether the command has a configuration of a model.
    """
    given = Path(path)
    if not given.exists():
        raise InputError(f"ckpt_path={path!r} does not exist: give a checkpoint's path.")
    for last in (given / "checkpoints" / "last.ckpt", given / "last.ckpt"):
        if last.exists():
            raise InputError(f"ckpt_path={path!r} is a run's folder: did you mean {str(last)!r}?")
    if (given / "config.yaml").is_file():
        raise InputError(f"ckpt_path={path!r} is a run's folder: give one of its checkpoints.")
    if not has_model:
        config = given.parent.parent / "config.yaml"
        file = config if config.is_file() else "RUN/config.yaml"
        raise InputError(f"ckpt_path={path!r}: give the run's configuration: --config {file}")


def _takes_like(data: Mapping[str, Any]) -> bool:
    path = str(data.get("class_path"))
    known = signature(PATHS.get(path, path))
    # The data modules of images have another option of this name, and no tokenizer.
    return known is not None and {"like", "tokenizer"} <= known.options.keys()


def _has_corpus(run: Path) -> bool:
    """Return whether the corpus that the run was trained on is still there."""
    try:
        content = read_yaml(run / "mixture.yaml")
        return Path(content["data"]["folder"]).is_dir()
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return False
