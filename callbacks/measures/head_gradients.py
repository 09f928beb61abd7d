"""Each domain's gradient of the output head, read from the ordinary training step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tandem_pl.errors import InputError
from tandem_pl.objectives.samples import at_least_float32


def find_head(network: nn.Module, name: str | None = None) -> nn.Linear:
    """Return the output head: the module of that name, or else the last `nn.Linear`.

    A Hugging Face model's head is what its `get_output_embeddings` returns.

    Raises:
        InputError: there is no such module, or it is no linear layer.

    >>> find_head(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 5), nn.Softmax(1)))
    Linear(in_features=3, out_features=5, bias=True)
    """
    linear = {key: m for key, m in network.named_modules() if isinstance(m, nn.Linear)}
    if name is not None:
        if name not in linear:
            raise InputError(
                f"head={name!r} must be the name of a linear layer of the network: "
                f"{', '.join(list(linear)[-3:]) or 'it has none'}."
            )
        return linear[name]
    own = getattr(network, "get_output_embeddings", None)  # of Hugging Face models
    head = own() if callable(own) else None
    if isinstance(head, nn.Linear):
        return head
    if not linear:
        raise InputError(
            f"network={type(network).__name__} has no linear layer, whose gradients R&B compares."
        )
    return list(linear.values())[-1]


def sketch_matrix(outputs: int, rows: int, seed: int = 0) -> Tensor:
    """Return random signs over sqrt(rows), [outputs, rows]: S S' is the identity on average.

    >>> sketch_matrix(100, 4).square().sum(dim=1).unique().tolist()
    [1.0]
    """
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (outputs, rows), generator=generator)
    return (2 * signs - 1) / rows**0.5


class HeadGradients:
    """Sums, by domain, the gradients of single samples' losses with respect to an output head.

    A training step computes them anyway: a sample's gradient is the product of the head's inputs
    and the gradients of its outputs, which two hooks see. No forward or backward is added, and
    what the step computes does not change by a bit.

    Args:
        head: a linear layer that each forward runs once, with the samples as first dimension.
        size: number of domains, M.
        sketch: heads with more outputs than this have their outputs' gradients projected to so many
            random directions, the same all the time, which keeps inner products up to noise; None
            for never.

    A set of sums has M rows of `width` numbers: C d for C outputs (or `sketch`) and d inputs, and C
    more if the head has a bias.
    """

    def __init__(self, head: nn.Linear, size: int, sketch: int | None) -> None:
        self.head, self.size = head, size
        outputs = head.out_features
        self._signs: Tensor | None = None
        if sketch is not None and outputs > sketch:
            self._signs = sketch_matrix(outputs, sketch)
            outputs = sketch
        self.width = outputs * (head.in_features + (head.bias is not None))
        self.sums: Tensor | None = None  # [M, width]

    @contextmanager
    def collecting(self, domains: Tensor, scale: float) -> Iterator[None]:
        """Add the gradients of the training step inside.

        Args:
            domains: [B] of the samples, which the step may split into micro-batches.
            scale: of the gradients, to get those of single samples' losses.

        Raises:
            InputError: the head did not run once for each sample.
        """
        start = 0

        def forward_hook(head: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            nonlocal start
            if not output.requires_grad:
                return  # a forward without a backward
            rows = domains[start : start + len(output)]
            start += len(output)
            if len(rows) == len(output):
                before = inputs[0].detach()
                output.register_hook(lambda slope: self._add(before, slope, rows, scale))

        handle = self.head.register_forward_hook(forward_hook)
        try:
            yield
        finally:
            handle.remove()
        if start != len(domains):
            raise InputError(
                f"the head {self.head} ran on {start} rows for {len(domains)} samples: R&B needs "
                "a linear layer that runs once in a forward, with one row a sample; name another "
                "as head."
            )

    @torch.no_grad()
    def _add(self, inputs: Tensor, slopes: Tensor, domains: Tensor, scale: float) -> None:
        with torch.autocast(slopes.device.type, enabled=False):  # sums are in float32
            self._add_rows(inputs, slopes, domains, scale)

    def _add_rows(self, inputs: Tensor, slopes: Tensor, domains: Tensor, scale: float) -> None:
        inputs, slopes = (x.reshape(len(x), -1, x.shape[-1]) for x in (inputs, slopes))
        if self._signs is not None:
            self._signs = self._signs.to(slopes)
            slopes = slopes @ self._signs
        slopes = at_least_float32(slopes)
        rows = torch.bmm(slopes.mT, inputs.to(slopes)).flatten(1)
        if self.sums is None:
            self.sums = rows.new_zeros(self.size, self.width)
        weights, biases = self.sums.split([rows.shape[1], self.width - rows.shape[1]], dim=1)
        weights.index_add_(0, domains, rows, alpha=scale)
        if self.head.bias is not None:
            biases.index_add_(0, domains, slopes.sum(dim=1), alpha=scale)
