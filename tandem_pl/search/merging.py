"""Merged networks as proxies: the average of experts' parameters stands for a run on their mixture.

Each expert continued from one checkpoint on one domain, or on one domain and general data, with a
low and constant learning rate, so that the experts stay where averages of parameters make sense
(arXiv 2410.15661, DeMix 2602.00747, MergeMix 2601.17858). An evaluation of the average then takes
the place of a run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tandem_pl.domain_names import check_domains, check_texts
from tandem_pl.errors import InputError
from tandem_pl.files import write_atomically
from tandem_pl.simplex import Array

from .runs import SUM_TOLERANCE, Runs, as_weights

State = Mapping[str, Tensor]
#: what a checkpoint needs only to continue the run that it is of
OF_THE_RUN = ("optimizer_states", "lr_schedulers", "loops", "callbacks", "MixedPrecision")


def average_states(states: Sequence[State], weights: Sequence[float] | Array) -> dict[str, Tensor]:
    """Return Σ w_k θ_k of networks' states.

    Sums are in float32 or the parameters' higher precision, and the result has their precision.
    What is no floating-point number, such as a count of batches, is the first one's.

    Args:
        states: [K] of networks of one architecture.
        weights: [K] shares that sum to 1.

    Raises:
        InputError: other parameters, or another number of weights.

    >>> a, b = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 4.0])}
    >>> average_states([a, b], [0.25, 0.75])["w"].tolist()
    [2.5, 3.5]
    """
    if len(states) != len(weights) or not states:
        raise InputError(f"{len(weights)} weights for {len(states)} networks: give one for each.")
    first = states[0]
    for number, state in enumerate(states):
        for key in [*first, *state]:
            shapes = [tuple(one[key].shape) if key in one else "missing" for one in (first, state)]
            if shapes[0] != shapes[1]:
                raise InputError(
                    f"network {number + 1} cannot be merged with the first: {key!r} is {shapes[1]} "
                    f"there and {shapes[0]} here; merge branches of one checkpoint."
                )
    merged = {}
    for key, value in first.items():
        if not value.is_floating_point():
            merged[key] = value.clone()
            continue
        total = torch.zeros_like(value, dtype=torch.promote_types(value.dtype, torch.float32))
        for state, weight in zip(states, weights, strict=True):
            total.add_(state[key].to(total), alpha=float(weight))
        merged[key] = total.to(value.dtype)
    return merged


@contextmanager
def merged(
    network: nn.Module, states: Sequence[State], weights: Sequence[float] | Array
) -> Iterator[nn.Module]:
    """Give the network the average of states while the block runs, and then its own again."""
    own = {key: value.clone() for key, value in network.state_dict().items()}
    network.load_state_dict(average_states(states, weights))
    try:
        yield network
    finally:
        network.load_state_dict(own)


def merged_runs(
    network: nn.Module,
    states: Mapping[str, State],
    mixtures: Any,
    evaluate: Callable[[nn.Module], Mapping[str, float]],
) -> Runs:
    """Evaluate an average of experts for each mixture: a table of runs, which `fit_law` takes.

    Args:
        network: of the experts' architecture; its own parameters are put back.
        states: domain -> state of the network that was trained on it.
        mixtures: [N, M] shares in the order of `states`, or one map.
        evaluate: returns name -> metric, lower is better, of a network.

    Raises:
        InputError: states of other networks, or mixtures of other domains.
    """
    domains = check_texts(states, "states")
    points = as_weights(mixtures, domains, "mixtures")
    found: list[Mapping[str, float]] = []
    for point in points:
        with merged(network, list(states.values()), point):
            found.append(evaluate(network))
    metrics = {name: np.array([one[name] for one in found]) for name in found[0]}
    return Runs(domains, points, metrics)


def merge_checkpoints(
    paths: Mapping[str, str | os.PathLike[str]],
    weights: Mapping[str, float],
    out: str | os.PathLike[str],
) -> None:
    """Write a checkpoint with the average of all networks in others, to evaluate.

    It is the first one without its optimizer and position: `tandem test RUN --ckpt_path OUT`.

    Args:
        paths: domain -> checkpoint of the run that was trained on it.
        weights: domain -> share; they sum to 1.
        out: file to write.

    Raises:
        InputError: other domains, shares that do not sum to 1, or checkpoints of other networks.
    """
    check_domains(weights, paths, "weights")
    shares = [float(weights[name]) for name in paths]
    if min(shares) < 0 or abs(sum(shares) - 1.0) > SUM_TOLERANCE:
        raise InputError(f"weights must be numbers of 0 or more that sum to 1, not {sum(shares)}.")
    checkpoints = [_load(Path(path)) for path in paths.values()]
    states = [checkpoint["state_dict"] for checkpoint in checkpoints]
    kept = {key: value for key, value in checkpoints[0].items() if key not in OF_THE_RUN}
    kept["state_dict"] = average_states(states, np.array(shares) / sum(shares))
    buffer = BytesIO()
    torch.save(kept, buffer)
    write_atomically(out, buffer.getvalue())


def _load(path: Path) -> dict[str, Any]:
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        checkpoint["state_dict"].keys()
    except Exception as error:  # torch raises many kinds of exception
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} is not a checkpoint of a run: {reason}") from error
    return checkpoint
