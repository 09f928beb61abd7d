"""`MixingPolicy`: a small network from weights so far and losses to the next weights, and its file.

`tandem search agent` learns one, and `MixingAgentReweighting` asks it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tandem_pl.errors import InputError
from tandem_pl.files import write_atomically
from tandem_pl.simplex import Array, sum_to_one

FORMAT = "tandem_pl mixing policy 1"
LEAST = 1e-12  # loss, so that ratios exist


def describe(last: Array, mean: Array, first: Array, before: Array, now: Array) -> Array:
    """Return the state [2 M + 2 M']: weights, and relative changes of the target losses.

    Args:
        last: [M] weights since the last evaluation.
        mean: [M] of the weights since the start.
        first: [M'] losses of the first evaluation.
        before: [M'] of the last but one.
        now: [M'] of the last.

    >>> one = np.array([2.0])
    >>> describe(np.array([0.5, 0.5]), np.array([0.4, 0.6]), one, one, one / 2).round(2).tolist()
    [0.5, 0.5, 0.4, 0.6, -0.69, -0.69]
    """
    first, before, now = (np.log(np.maximum(losses, LEAST)) for losses in (first, before, now))
    return np.concatenate([last, mean, now - first, now - before])


def layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Return a network with two hidden layers."""
    widths = [inputs, hidden, hidden, outputs]
    found: list[nn.Module] = []
    for before, after in pairwise(widths):
        found += [nn.Linear(before, after), nn.SiLU()]
    return nn.Sequential(*found[:-1])


@dataclass
class MixingPolicy:
    """Shares softmax(f((s - center) / scale)) for a state s of `describe`.

    Args:
        domains: [M] names, in the order of the shares.
        targets: [M'] names, in the order of the losses.
        network: f, of `layers`.
        center: [S] mean of the states that it was trained on.
        scale: [S] their standard deviation.
    """

    domains: tuple[str, ...]
    targets: tuple[str, ...]
    network: nn.Sequential
    center: Tensor
    scale: Tensor

    @torch.no_grad()
    def weights(self, state: Array) -> Array:
        """Return shares [M]."""
        inputs = (torch.as_tensor(state, dtype=torch.float32) - self.center) / self.scale
        return sum_to_one(self.network(inputs).double().softmax(-1).numpy())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file; names are in its header."""
        from safetensors.torch import save

        tensors = {f"network.{key}": value for key, value in self.network.state_dict().items()}
        tensors |= {"center": self.center, "scale": self.scale}
        about = {"domains": self.domains, "targets": self.targets}
        header = {"format": FORMAT, "about": json.dumps(about)}
        write_atomically(path, save(tensors, metadata=header))

    @classmethod
    def load(cls, path: str | os.PathLike[str], key: str = "agent") -> MixingPolicy:
        """Read a file that `save` wrote.

        Raises:
            InputError: `key` names no such file.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise InputError(
                f"{key}={str(path)!r} does not exist: give a file of `tandem search agent`."
            )
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if header.get("format") != FORMAT:
                raise ValueError("its header does not say that it is one")
            about = json.loads(header["about"])
            hidden = len(tensors["network.0.bias"])
            network = layers(len(tensors["center"]), hidden, len(about["domains"]))
            own = {name: tensors[f"network.{name}"] for name in network.state_dict()}
            network.load_state_dict(own)
            names = tuple(about["domains"]), tuple(about["targets"])
        except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(
                f"{key}={str(path)!r} is not an agent of `tandem search agent`: {reason}."
            ) from None
        return cls(*names, network, tensors["center"], tensors["scale"])

    def places(self, domains: Sequence[str], targets: Sequence[str]) -> tuple[list[int], list[int]]:
        """Return the places of the policy's domains and targets among those of a run.

        Raises:
            InputError: they are others.
        """
        found = []
        for what, own, there in (
            ("domains", self.domains, domains),
            ("target domains", self.targets, targets),
        ):
            if set(own) != set(there):
                raise InputError(
                    f"the agent was trained on the {what} {', '.join(own)}, and here are "
                    f"{', '.join(there)}: train one on runs with these."
                )
            found.append([list(there).index(name) for name in own])
        return found[0], found[1]
