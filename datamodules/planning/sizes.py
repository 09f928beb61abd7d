"""How many samples the domains have, and whether a checkpoint is of the same data."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from tandem_pl.errors import InputError


def sizes_of(sets: Mapping[str, Dataset]) -> dict[str, int]:
    """Return domain -> number of samples."""
    # torch declares no __len__ for Dataset, since streams have none
    return {name: len(data) for name, data in sets.items()}  # type: ignore[arg-type]


def checked_sizes(sets: Mapping[str, Dataset], key: str) -> dict[str, int]:
    """Return domain -> number of samples, 1 or more.

    Raises:
        InputError: there is no domain, or an empty one.
    """
    if not sets:
        raise InputError(f"{key} has no domain: give the datamodule {key}={{'name': data set}}.")
    sizes = sizes_of(sets)
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"{key}[{name!r}] has no sample: give it data or leave it out.")
    return sizes


def tokens_per_sample(sets: Mapping[str, Dataset]) -> NDArray[np.float64] | None:
    """Return [M] attributes `tokens_per_sample`, NaN for a set without; None if no set has it."""
    tokens = [getattr(data, "tokens_per_sample", None) for data in sets.values()]
    if all(value is None for value in tokens):
        return None
    return np.array([np.nan if value is None else value for value in tokens], np.float64)


def refuse_other_data(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise an error if a checkpoint was made with other data, naming the first difference."""
    for key in (*saved, "final_samples"):  # which older versions did not save
        if now.get(key) != saved.get(key):
            pair = saved.get(key), now.get(key)
            then, here = (dict(v) if isinstance(v, list) else v for v in pair)
            raise InputError(
                f"the checkpoint was made with {key}={then!r} and this run has {key}={here!r}: "
                "use the same to resume, or start without ckpt_path."
            )
