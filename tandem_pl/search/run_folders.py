"""Rows of the table from folders: of `tandem compare`, and of runs with their target losses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tandem_pl.errors import InputError
from tandem_pl.mixture import Mixture
from tandem_pl.run_files import read_trajectory
from tandem_pl.simplex import Array
from tandem_pl.yaml_files import read_yaml

LOSS = "validation/loss"  # of the target, as the modules log it
MEAN = "loss/mean"


def read_folder(folder: Path, notes: list[str]) -> pd.DataFrame:
    """Return the rows of a folder.

    Of a comparison it is a row for each network trained on a fixed mixture; of a run one for each
    validation, with the mean of the weights so far; of a folder of runs, such as `version_0` and
    `version_1`, those of all.

    Args:
        folder: where to look.
        notes: gets a sentence if rows are of one run at several lengths.

    Raises:
        InputError: the folder is none of these, or has no losses.
    """
    results = sorted(folder.rglob("final/result.yaml"))
    alone = (folder / "mixture.yaml").is_file()
    if results and not alone:
        return pd.DataFrame([_result_row(path, folder) for path in results])
    runs = [folder] if alone else sorted(path.parent for path in folder.glob("*/mixture.yaml"))
    if not runs:
        raise InputError(
            f"{folder} has no METHOD/seed-N/final/result.yaml and no mixture.yaml of a run: give a "
            "folder of `tandem compare` or of a run, or a CSV or Parquet file."
        )
    rows = [row for run in runs for row in _run_rows(run, run.name)]
    if len(rows) > len(runs):
        notes.append(
            f"{len(rows)} rows are validations of {len(runs)} run{'s' * (len(runs) > 1)}, at "
            "different steps: of the laws, only autoscale and bimix know the length."
        )
    return pd.DataFrame(rows)


def _result_row(path: Path, folder: Path) -> dict[str, object]:
    result = read_yaml(path)
    row: dict[str, object] = {"run": str(path.parent.parent.relative_to(folder))}
    row |= {f"weight/{name}": share for name, share in result["weights"].items()}
    row |= {f"loss/{name}": loss for name, loss in result["losses"].items()}
    return row | {MEAN: float(np.mean(list(result["losses"].values())))}


def _run_rows(folder: Path, name: str) -> list[dict[str, Any]]:
    """Return the rows of a run, and of the last step if only `tandem validate` or `test` ran."""
    mixture = Mixture.load(folder / "mixture.yaml")
    domains, steps, weights = list(mixture.domains), [0], mixture.average_array[None]
    if (folder / "trajectory.csv").is_file():
        domains, steps, weights = read_trajectory(folder / "trajectory.csv")
    losses = logged_losses(folder, LOSS)
    if not losses:
        final = _final_losses(folder)
        # a mixture that was fixed has one row, at step 0
        losses = {max(steps[-1], 1): final} if final else {}
    if not losses:
        raise InputError(
            f"run {folder} has no target losses: train with validate_target, or write them by "
            f"`tandem validate {folder}`."
        )
    rows = []
    for step, found in sorted(losses.items()):
        mean = mean_weights(np.array(steps), weights, step)
        row: dict[str, Any] = {"run": f"{name} at step {step}"}
        row |= {f"weight/{domain}": share for domain, share in zip(domains, mean, strict=True)}
        rows.append(row | {"steps": step} | found)
    return rows


def mean_weights(steps: Array, weights: Array, end: int) -> Array:
    """Return the [M] mean of the weights that batches 0 ... end were drawn by.

    Args:
        steps: [T] at which each row of weights began.
        weights: [T, M].
        end: number of batches; beyond the last step its weights go on.

    >>> mean_weights(np.array([0, 10]), np.array([[1.0, 0.0], [0.0, 1.0]]), 40).tolist()
    [0.25, 0.75]
    """
    until = np.append(steps[1:], max(end, steps[-1]))
    lengths = np.clip(np.minimum(until, end) - steps, 0, None)
    if not lengths.any():
        return weights[0]
    return np.asarray(lengths @ weights / lengths.sum())


def logged_losses(folder: Path, prefix: str) -> dict[int, dict[str, float]]:
    """Return step -> metric -> value of the evaluations while training, from a logger's files.

    Those logged as `prefix/DOMAIN` are `loss/DOMAIN`, and the one logged as `prefix` is their mean.
    """
    found: dict[int, dict[str, float]] = {}
    if (folder / "metrics.csv").is_file():
        table = pd.read_csv(folder / "metrics.csv")
        for row in table.to_dict("records"):
            _add(found, int(row["step"]), row, prefix)
    elif any(folder.glob("events.out.tfevents.*")):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
        for tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag) if tag.startswith(prefix) else ():
                _add(found, event.step, {tag: event.value}, prefix)
    return {step: row for step, row in found.items() if step > 0}


def _add(
    found: dict[int, dict[str, float]], step: int, row: Mapping[Any, Any], prefix: str
) -> None:
    for key, value in row.items():
        rest = str(key).removeprefix(prefix)
        if rest != str(key) and rest[:1] in ("", "/") and np.isfinite(float(value)):
            found.setdefault(step, {})[f"loss{rest}" if rest else MEAN] = float(value)


def _final_losses(folder: Path) -> dict[str, float]:
    """Return the losses of validation.csv, or else of test.csv."""
    for name in ("validation.csv", "test.csv"):
        if (folder / name).is_file():
            table = pd.read_csv(folder / name).set_index("domain")["loss"]
            rows = table[table.index != "exp(mean loss)"].dropna()
            return {f"loss/{domain}": float(loss) for domain, loss in rows.items()}
    return {}
