"""The methods of a comparison: names of the table or classes of one's own, with settings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tandem_pl.checks import check_count, check_not_negative
from tandem_pl.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from tandem_pl.callbacks.methods.table import Method

LABEL = re.compile(r"[A-Za-z0-9][\w.+-]*")


class Entry(NamedTuple):
    """A method with its settings.

    `method` is a name in the table of methods or the import path of a reweighting callback.
    `settings` are the callback's, those of the table of methods included; `overrides` change the
    configuration of the cells that learn. Its runs have `steps` batches, those of the base if None.
    `spent` is what finding its weights has cost before, in plain runs.
    """

    label: str
    method: str
    settings: dict[str, Any]
    overrides: dict[str, Any]
    steps: int | None = None
    spent: float = 0.0

    @property
    def definition(self) -> Method:
        """The method in the table `callbacks.methods.METHODS`, or that of a class of one's own."""
        return find_definition(self.method)

    @property
    def class_path(self) -> str:
        """The import path of the callback."""
        return self.method if "." in self.method else self.definition.class_path

    @property
    def learns(self) -> bool:
        """Whether weights are learned in a run before the final one."""
        return self.definition.callback != "FixedMixture"

    @property
    def length(self) -> dict[str, Any]:
        """What `steps` changes in the configuration of its runs."""
        return {"trainer": {"max_steps": self.steps}} if self.steps else {}

    @property
    def wants_reference(self) -> bool:
        """Whether a reference must be trained first, because the settings name none."""
        return self.definition.needs_reference and not self.settings.get("reference")


def find_definition(method: str) -> Method:
    """Return the row of the table of methods, or one for a class by its import path.

    A class of one's own is described by its `rows`, those of its base class included; without any
    it gets no twins, and its cost is not known.

    Raises:
        InputError: no such method, or the class cannot be imported or is no reweighting callback.
    """
    from tandem_pl.callbacks.methods.table import find_method

    if "." not in method:
        return find_method(method)
    from tandem_pl.callbacks import ReweightingCallback
    from tandem_pl.callbacks.methods.method import Method

    module, _, name = method.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"{method!r} cannot be imported ({error}): give the whole path of a class, and set "
            "PYTHONPATH if it is not installed."
        ) from None
    if not (isinstance(found, type) and issubclass(found, ReweightingCallback)):
        raise InputError(f"{method!r} is not a reweighting callback: name a subclass of it.")
    rows: list[Method] = list(getattr(found, "rows", []))
    row = rows[0] if len(rows) == 1 else Method(name, "")
    return replace(row, owner=found)


def read_methods(methods: Any) -> list[Entry]:
    """Return the methods, from a list of names or a map of label -> settings.

    >>> [entry.label for entry in read_methods(["uniform", "proportional"])]
    ['uniform', 'proportional']
    >>> read_methods({"tau3": {"method": "temperature", "weights": "temperature:3"}})[0].settings
    {'weights': 'temperature:3'}
    >>> read_methods({"mine": {"class_path": "tandem_pl.callbacks.ODMReweighting"}})[0].method
    'tandem_pl.callbacks.ODMReweighting'
    """
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
        settings = dict(checked_map(given, f"methods.{label}"))
        method = settings.pop("method", settings.pop("class_path", label))
        settings |= checked_map(settings.pop("init_args", None), f"methods.{label}.init_args")
        overrides = checked_map(settings.pop("overrides", None), f"methods.{label}.overrides")
        steps, spent = settings.pop("steps", None), settings.pop("spent", 0)
        if steps is not None:
            check_count(f"methods.{label}.steps", steps)
        check_not_negative(f"methods.{label}.spent", spent)
        try:
            definition = find_definition(str(method))
        except InputError as error:
            raise InputError(f"methods.{label}: {error}") from None
        own = {**definition.settings, **settings}
        entry = Entry(label, str(method), own, dict(overrides), steps, float(spent))
        check_settings(entry)
        entries.append(entry)
    return entries


def check_settings(entry: Entry) -> None:
    """Validate settings by constructing the callback."""
    callback = entry.definition.load()
    known = [name for name in inspect.signature(callback).parameters if name != "self"]
    check_keys(entry.settings, known, f"methods.{entry.label}")
    if entry.wants_reference:
        return
    try:
        callback(**entry.settings)
    except InputError as error:
        raise InputError(f"methods.{entry.label}: {error}") from None
    except Exception:
        return  # the parser of the cell may convert this value; an error will show there


def check_weights(entry: Entry, seeds: Iterable[int]) -> None:
    """Raise an error if weights are those of a file that does not exist."""
    weights = entry.settings.get("weights")
    if not isinstance(weights, str) or not weights.endswith((".yaml", ".yml", ".json")):
        return
    for settings in (of_seed(entry.settings, seed) for seed in seeds):
        path = settings["weights"].removeprefix("last:")
        if not Path(path).exists():
            raise InputError(f"methods.{entry.label}: weights={path!r} does not exist.")


def of_seed(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return settings with the seed in place of `{seed}` in their texts, such as paths.

    >>> of_seed({"weights": "search/seed-{seed}/proposal.yaml", "floor": 0.0}, 3)
    {'weights': 'search/seed-3/proposal.yaml', 'floor': 0.0}
    """
    return {
        key: value.replace("{seed}", str(seed)) if isinstance(value, str) else value
        for key, value in settings.items()
    }


def checked_map(value: Any, key: str) -> Mapping[str, Any]:
    """Return a map, which is empty for None; raise an error for another value."""
    if not isinstance(value or {}, Mapping):
        raise InputError(f"{key}={value!r} must be a map of settings, or empty.")
    return value or {}


def check_keys(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise an error if a key is unknown."""
    known = list(known)
    for key in given:
        if key not in known:
            hint = did_you_mean(key, known)
            raise InputError(f"{where} has the unknown key {key!r}: {hint}use {', '.join(known)}.")
