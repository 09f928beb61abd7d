"""The names that a configuration may give without their package, such as `TandemReweighting`."""

from importlib import import_module
from typing import Any

PACKAGES = (
    "tandem_pl",
    "tandem_pl.callbacks",
    "tandem_pl.datamodules",
    "tandem_pl.networks",
    "tandem_pl.objectives",
)
#: name -> its whole path; reading the names of a package imports nothing heavy
PATHS: dict[str, str] = {
    name: f"{package}.{name}" for package in PACKAGES for name in import_module(package).__all__
} | {
    "LossBasedWeights": "tandem_pl.training.sample_weights.LossBasedWeights",
    "WarmupCosine": "tandem_pl.schedules.WarmupCosine",
}
#: keys whose value is the name of a class or function
KEYS = {"class_path", "model", "data", "network", "objective", "optimizer", "lr_scheduler"}
KEYS |= {"callbacks", "sample_weights"}


def with_whole_paths(value: Any, key: str = "") -> Any:
    """Return a configuration with the whole path of each public name.

    >>> with_whole_paths({"model": {"class_path": "TandemModule"}, "note": "TandemModule"})
    {'model': {'class_path': 'tandem_pl.TandemModule'}, 'note': 'TandemModule'}
    """
    if isinstance(value, dict):
        return {name: with_whole_paths(item, str(name)) for name, item in value.items()}
    if isinstance(value, list):
        return [with_whole_paths(item, key) for item in value]
    return PATHS.get(value, value) if isinstance(value, str) and key in KEYS else value
