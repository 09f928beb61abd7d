"""Reading domain weights from JSON, above all from the files that DoReMi publishes and writes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .errors import InputError

DOREMI = "train_domain_weights"


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
