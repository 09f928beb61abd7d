"""What the files of a run hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tandem_pl.errors import InputError
from tandem_pl.mixture import Mixture
from tandem_pl.run_files import Signal, read_signal, read_trajectory
from tandem_pl.simplex import Array


class Run(NamedTuple):
    """The files of a run.

    `steps` [T] and `weights` [T, M] are the trajectory; `signal` is the hyper-gradient, or None if
    the method has none.
    """

    folder: Path
    mixture: Mixture
    steps: list[int]
    weights: Array
    signal: Signal | None

    @property
    def settings(self) -> Mapping[str, Any]:
        """The method's settings, from mixture.yaml."""
        return self.mixture.about.get("settings") or {}

    @property
    def learned(self) -> bool:
        """Whether a method chose the weights, not the user."""
        return self.mixture.about.get("method") != "fixed"

    @property
    def updates(self) -> int:
        """Number of updates; the trajectory of a long run of many domains has fewer rows."""
        return int(self.mixture.about.get("episodes", len(self.weights) - 1))

    def thinned(self, name: str) -> int:
        """Return the number of updates for each row of `name`.csv."""
        return int((self.mixture.about.get("thinned") or {}).get(name, 1))


def read_run(folder: Path) -> Run:
    """Read the files of a run.

    Raises:
        InputError: mixture.yaml or trajectory.csv is missing, or a file cannot be read.
    """
    path = folder / "mixture.yaml"
    if not path.is_file():
        if (folder / "config.yaml").is_file():
            when = "it is written at the first checkpoint and at the end of the run"
            raise InputError(f"{folder} has no mixture.yaml yet: {when}.")
        problem = "has no mixture.yaml" if folder.exists() else "does not exist"
        raise InputError(f"{folder} {problem}: give the folder of a run.")
    mixture = Mixture.load(path)
    domains, steps, weights = read_trajectory(folder / "trajectory.csv")
    signal = None
    if (folder / "hyper_gradient.csv").is_file():
        names, signal = read_signal(folder / "hyper_gradient.csv")
        if not len(signal.steps):
            signal = None
        elif names != domains or "delta" not in signal.columns:
            raise InputError(f"{folder}: hyper_gradient.csv and trajectory.csv differ in domains.")
    if list(mixture.domains) != domains:
        raise InputError(f"{folder}: mixture.yaml and trajectory.csv have different domains.")
    return Run(folder, mixture, steps, weights, signal)


def read_repetition(folder: str, mixture: Mixture) -> Mixture:
    """Read the mixture of a run that repeats another one.

    Args:
        folder: of the run.
        mixture: of the run that it repeats.

    Raises:
        InputError: it is no run, or was learned for another target; runs of older versions do not
            say for which.
    """
    other = read_run(Path(folder)).mixture
    there, here = ((one.about.get("data") or {}).get("target") or {} for one in (other, mixture))
    names = [*here, *(name for name in there if name not in here)]
    for name in names if there and here else []:
        shares = there.get(name, 0.0), here.get(name, 0.0)
        if not math.isclose(*shares, abs_tol=1e-6):
            raise InputError(
                f"--seeds {folder}: that run was learned for another target, in which {name!r} has "
                f"the share {shares[0]:g}, not {shares[1]:g}: give runs of the same target."
            )
    return other
