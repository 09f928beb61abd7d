"""Read domain weights from files: a run's, one written by hand, or DoReMi's."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml

from .errors import InputError, did_you_mean
from .yaml_files import read_yaml

DOREMI = "train_domain_weights"
NAMED = (  # examples
    *("uniform", "proportional", "temperature:2", "unimax:4", "epoch_capped:4", "target"),
)


def read_mixture(path: str | os.PathLike[str], key: str) -> dict[str, Any]:
    """Return what a mixture file holds: a map "weights", perhaps "average", and other facts.

    Args:
        path: a run's folder, YAML, or with the suffix .json also DoReMi's.
        key: name of the setting, for error messages.

    Raises:
        InputError: no such file, or no map of domains at "weights".
    """
    if os.path.isdir(path):
        folder, path = path, os.path.join(path, "mixture.yaml")
        if not os.path.exists(path):
            raise InputError(
                f"{key}={str(folder)!r} is a folder without mixture.yaml: give the folder of a "
                "run that has written it."
            )
    try:
        is_json = Path(path).suffix.lower() == ".json"
        content = read_json_mixture(path) if is_json else read_yaml(path)
    except FileNotFoundError:
        raise InputError(
            f"{key}={str(path)!r} is neither a file nor one of {', '.join(map(repr, NAMED))}: "
            f"{did_you_mean(path, NAMED)}give one of these, a map of domain to weight, a run's "
            "folder or mixture.yaml for its average weights, or last:PATH for its last ones."
        ) from None
    except (yaml.YAMLError, json.JSONDecodeError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path} is not a mixture file ({reason}): give a YAML file, or DoReMi's JSON."
        ) from None
    for part in ("weights", "average"):
        needed = part == "weights" or (isinstance(content, dict) and part in content)
        if needed and not (isinstance(content, dict) and isinstance(content.get(part), dict)):
            raise InputError(
                f"{path} is not a mixture file: it needs a map of domains at {part!r}."
            )
    return dict(content)


def read_json_mixture(path: str | os.PathLike[str]) -> Any:
    r"""Return the content of a JSON file, with DoReMi's training weights under "weights".

    DoReMi publishes its weights under `train_domain_weights`, beside `eval_domain_weights`. A run
    of its code also writes `avg_domain_weights.json`, a map of domain -> number alone.

    JSON is not read as YAML, which knows no tabs and takes "\ud83d\ude00" for two characters.

    Raises:
        InputError: a name is given twice in one map, or `train_domain_weights` is not a map.
        OSError, UnicodeDecodeError, json.JSONDecodeError: the file cannot be read.
    """

    def without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for name, value in pairs:
            if name in content:
                raise InputError(f"{path} has the key {name!r} twice: keep one, or rename it.")
            content[name] = value
        return content

    content = json.loads(Path(path).read_bytes(), object_pairs_hook=without_twins)
    if not isinstance(content, dict) or isinstance(content.get("weights"), dict):
        return content
    if DOREMI in content:
        if not isinstance(content[DOREMI], dict):
            raise InputError(
                f"{path} is not a mixture file: it needs a map of domains at {DOREMI!r}."
            )
        return {"weights": content.pop(DOREMI), **content}
    numbers = all(isinstance(value, int | float) for value in content.values())
    return {"weights": content} if content and numbers else content
