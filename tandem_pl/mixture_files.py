"""Reading mixture files: our YAML, and the JSON files that DoReMi publishes and writes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml

from .errors import InputError

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, if it is installed
DOREMI_TRAIN, DOREMI_TARGET = "train_domain_weights", "eval_domain_weights"


def read_mixture_file(
    path: str | os.PathLike[str], key: str = "weights", target: bool = False
) -> dict[str, Any]:
    """Return a file's content, with maps of domain -> number at "weights" and perhaps "average".

    Args:
        path: of YAML with these keys, or of JSON (by its suffix) with them, with DoReMi's keys, or
            with a map of domain -> number alone, as DoReMi's `avg_domain_weights.json`.
        key: name of the setting, for error messages.
        target: whether to take DoReMi's evaluation weights in place of its training weights.

    Raises:
        InputError: the file is missing, is no mixture file, or gives a name twice.
    """
    is_json = Path(path).suffix.lower() == ".json"
    try:
        content = read_json(path) if is_json else yaml.load(Path(path).read_text("utf-8"), Loader)
    except FileNotFoundError:
        raise InputError(
            f"{key}={str(path)!r} is neither a file nor one of 'uniform', 'proportional', "
            "'temperature:2': give one of these, a map of domain to weight, or the path of a "
            "mixture.yaml."
        ) from None
    except (yaml.YAMLError, json.JSONDecodeError, UnicodeDecodeError, IsADirectoryError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path} is not a mixture file ({reason}): give a YAML file, or DoReMi's JSON."
        ) from None
    place = "weights"
    if isinstance(content, dict) and "weights" not in content and DOREMI_TRAIN in content:
        place = DOREMI_TARGET if target else DOREMI_TRAIN
        content["weights"] = content.pop(place, None)
    elif is_json and _is_flat(content):
        content = {"weights": content}
    for part, name in (("weights", place), ("average", "average")):
        needed = part == "weights" or (isinstance(content, dict) and part in content)
        if needed and not (isinstance(content, dict) and isinstance(content.get(part), dict)):
            raise InputError(f"{path} is not a mixture file: it needs a map of domains at {name!r}.")
    return content


def read_json(path: str | os.PathLike[str]) -> Any:
    r"""Return the content of a JSON file in UTF-8, UTF-16 or UTF-32.

    YAML does not read all JSON: it has no tabs, and takes "\ud83d\ude00" for two characters.

    Raises:
        InputError: a name is given twice in one map.
        OSError, UnicodeDecodeError, json.JSONDecodeError: the file cannot be read.
    """

    def without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for name, value in pairs:
            if name in content:
                raise InputError(f"{path} has the key {name!r} twice: keep one, or rename it.")
            content[name] = value
        return content

    return json.loads(Path(path).read_bytes(), object_pairs_hook=without_twins)


def _is_flat(content: Any) -> bool:
    """Return whether it is a map of numbers alone."""
    return (
        isinstance(content, dict)
        and len(content) > 0
        and all(isinstance(value, int | float) for value in content.values())
    )
