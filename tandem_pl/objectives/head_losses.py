"""Cross-entropies of tokens from hidden states, a chunk of logits at a time.

Logits of all tokens take more memory than the rest of a step: 32 768 tokens of 50 304 logits are
6.6 GB in float32, several times over. Here a chunk's logits are computed, used and dropped.

No chunk is computed twice if all samples weigh the same, as in the mean of a batch: the gradients
of hidden states and weight are computed along with the losses, for samples that weigh 1 each, and
scaled in the backward. If the backward then brings different weights, chunks are computed again
for the weight's gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .samples import at_least_float32

# Logits in a chunk, on a CPU and elsewhere; but at least LEAST_ROWS tokens, since matrix products
# of fewer are slow.
CHUNK_ON_CPU = 1 << 24
CHUNK = 1 << 28
LEAST_ROWS = 256


class Scaling(NamedTuple):
    """What follows the head's product x: z = factor x, then z = cap tanh(z / cap) with a cap."""

    factor: float = 1.0
    cap: float | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the scaled logits."""
        logits = logits if self.factor == 1.0 else self.factor * logits
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


class OutputHead(NamedTuple):
    """The layer that hidden states [..., H] go through last, and the scaling of its products.

    Args:
        module: the layer, with `out_features` V.
        forward: its own forward, [..., H] -> [..., V], each row by itself.
        scaling: of the products.
    """

    module: nn.Module
    forward: Callable[[Tensor], Tensor]
    scaling: Scaling


class Tokens(NamedTuple):
    """The labelled tokens of a batch of samples [B, T].

    Args:
        counts: [B] int64, labelled tokens of each sample, at least 1.
        cells: [n] int64, flat index of each labelled token in [B, T].
        labels: [n] int64.
        places: [n] int64, flat index of the hidden state that predicts it, in the network's rows.
        width: T.
    """

    counts: Tensor
    cells: Tensor
    labels: Tensor
    places: Tensor
    width: int

    @classmethod
    def of(cls, labels: Tensor, places: Tensor, counts: Tensor, cells: Tensor | None) -> Tokens:
        """Return the tokens at `cells` of labels [B, T] and places [B, T]; all for None."""
        if cells is None:
            cells = torch.arange(labels.numel(), device=labels.device)
        found, where = labels.flatten()[cells], places.flatten()[cells]
        return cls(counts, cells, found, where, labels.shape[1])

    def spread(self, losses: Tensor) -> Tensor:
        """Return [B, T] with losses [n] in their cells, 0 elsewhere."""
        cells = losses.new_zeros(len(self.counts) * self.width)
        return cells.index_copy(0, self.cells, losses).view(-1, self.width)

    def means(self, losses: Tensor) -> Tensor:
        """Return each sample's mean [B] of losses [n]."""
        return self.spread(losses).sum(dim=1) / self.counts

    def shares(self, values: Tensor) -> Tensor:
        """Return [n]: the value [B] of each token's sample over the sample's number of tokens."""
        return (values / self.counts)[self.cells // self.width]


def head_losses(head: OutputHead, tokens: Tokens, means: bool, hidden: Tensor) -> Tensor:
    """Return the samples' mean losses [B], or the losses [B, T] of their tokens.

    Args:
        head: of the network.
        tokens: what has a loss.
        means: whether to return means.
        hidden: [..., H] the network's last hidden states.
    """
    module: Any = head.module
    rows = hidden.flatten(0, -2).index_select(0, tokens.places)
    if head.forward == MethodType(nn.Linear.forward, module):
        train = torch.is_grad_enabled()
        losses = _LinearHead.apply(
            rows, module.weight, module.bias, tokens, head.scaling, means, train
        )
        return losses if means else tokens.spread(losses)
    parts = [
        checkpoint(_chunk_losses, head, *pair, use_reentrant=False)
        for pair in _chunks(module.out_features, rows, tokens.labels)
    ]
    losses = torch.cat(parts)
    return tokens.means(losses) if means else tokens.spread(losses)


def _chunks(vocabulary: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield equal parts of tensors [n, ...], at least one."""
    budget = CHUNK_ON_CPU if tensors[0].device.type == "cpu" else CHUNK
    most = max(LEAST_ROWS, budget // vocabulary)
    number = -(-len(tensors[0]) // most) or 1
    size = -(-len(tensors[0]) // number) or 1
    return zip(*(tensor.split(size) for tensor in tensors), strict=True)


def _chunk_losses(head: OutputHead, hidden: Tensor, labels: Tensor) -> Tensor:
    logits = head.scaling(at_least_float32(head.forward(hidden)))
    return F.cross_entropy(logits, labels, reduction="none")


def _losses_and_slopes(
    logits: Tensor, labels: Tensor, factor: float, cap: float | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return losses [n] and d loss / d x [n, V] of a chunk's products x, which are overwritten."""
    labels = labels[:, None]
    z = at_least_float32(logits)
    if factor != 1.0:
        z = z.mul_(factor)
    if cap is not None:
        z = z.div_(cap).tanh_()
        inner = 1 - z.square()
        z = z.mul_(cap)
    z = z.sub_(z.amax(dim=1, keepdim=True))
    own = z.gather(1, labels)
    z = z.exp_()
    total = z.sum(dim=1, keepdim=True)
    losses = (total.log() - own).squeeze(1)
    slopes = z.div_(total).to(dtype)
    slopes = slopes.scatter_(1, labels, (own.exp() / total - 1).to(dtype))
    if cap is not None:
        slopes = slopes.mul_(inner)
    return losses, slopes if factor == 1.0 else slopes.mul_(factor)


_COMPILED: list[Callable[..., Any]] = []  # `_losses_and_slopes`, after the first chunk on a GPU


def _slopes_on(device: torch.device) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return `_losses_and_slopes`, on a GPU as a few fused kernels if torch can compile."""
    if device.type != "cuda":
        return _losses_and_slopes
    if not _COMPILED:  # dynamic shapes from the start: the same kernels whatever ran before
        _COMPILED.append(torch.compile(_losses_and_slopes, dynamic=True))
    return _fused


def _fused(*arguments: Any) -> tuple[Tensor, Tensor]:
    if _COMPILED[0] is not _losses_and_slopes:
        try:
            return _COMPILED[0](*arguments)
        except Exception as error:
            from torch._dynamo.exc import TorchDynamoException  # slow to import

            if not isinstance(error, TorchDynamoException):
                raise
            _COMPILED[0] = _losses_and_slopes  # no compiler, no Triton: a run does without
    return _losses_and_slopes(*arguments)


class _LinearHead(torch.autograd.Function):
    """Losses of hidden states [n, H] under x = W h + b: means [B] of samples, or of tokens [n]."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        tokens: Tokens,
        scaling: Scaling,
        means: bool,
        train: bool,
    ) -> Tensor:
        kind = hidden.device.type
        mixed = torch.is_autocast_enabled(kind)
        ctx.dtype = torch.get_autocast_dtype(kind) if mixed else weight.dtype
        ctx.tokens, ctx.scaling, ctx.means = tokens, scaling, means
        needs = [train and need for need in ctx.needs_input_grad[:3]]
        # Shares of at most 1 keep half precision's products near 1.
        exact = torch.promote_types(hidden.dtype, torch.float32)
        ctx.least = tokens.counts.min().to(exact)
        shares = tokens.shares(ctx.least.expand(len(tokens.counts)))
        sums = _Sums(weight, bias, needs[1] and means, needs[2] and means)
        losses, of_hidden = [], []
        with torch.autocast(kind, enabled=False):
            narrow, narrow_bias = weight.to(ctx.dtype), _cast(bias, ctx.dtype)
            for rows, labels, share in _chunks(len(weight), hidden, tokens.labels, shares):
                rows = rows.to(ctx.dtype)
                logits = F.linear(rows, narrow, narrow_bias)
                if not any(needs):
                    logits = scaling(at_least_float32(logits))
                    losses.append(F.cross_entropy(logits, labels, reduction="none"))
                    continue
                part, slopes = _slopes_on(rows.device)(logits, labels, *scaling, ctx.dtype)
                losses.append(part)
                if needs[0]:
                    of_hidden.append(slopes @ narrow)
                sums.add(slopes, rows, share)
        ctx.sums = sums if means else None
        ctx.save_for_backward(hidden, weight, bias, torch.cat(of_hidden) if needs[0] else None)
        found = torch.cat(losses)
        return tokens.means(found) if means else found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, of_hidden = ctx.saved_tensors
        by_token = ctx.tokens.shares(gradient) if ctx.means else gradient
        if of_hidden is not None:
            of_hidden = (of_hidden * by_token[:, None]).to(hidden.dtype)
        wanted = ctx.needs_input_grad[1:3]
        sums, ctx.sums = ctx.sums, None  # they are scaled in place, so they serve once
        if sums is not None and _is_even(gradient):
            sums.scale(gradient[0] / ctx.least)
        elif any(wanted):
            sums = _Sums(weight, bias, *wanted)
            with torch.autocast(hidden.device.type, enabled=False):
                narrow, narrow_bias = weight.to(ctx.dtype), _cast(bias, ctx.dtype)
                chunks = _chunks(len(weight), hidden, ctx.tokens.labels, by_token)
                for rows, labels, share in chunks:
                    rows = rows.to(ctx.dtype)
                    logits = F.linear(rows, narrow, narrow_bias)
                    slopes = _slopes_on(rows.device)(logits, labels, *ctx.scaling, ctx.dtype)[1]
                    sums.add(slopes, rows, share)
        of_weights = (None, None) if sums is None else sums.gradients(weight, bias)
        return of_hidden, *of_weights, None, None, None, None


class _Sums:
    """Sums over chunks of the gradients of weight [V, H] and bias [V], in float32 at least."""

    def __init__(self, weight: Tensor, bias: Tensor | None, of_weight: bool, of_bias: bool) -> None:
        self.weight = torch.zeros_like(at_least_float32(weight)) if of_weight else None
        self.bias = None
        if of_bias and bias is not None:
            self.bias = torch.zeros_like(at_least_float32(bias))

    def add(self, slopes: Tensor, rows: Tensor, share: Tensor) -> None:
        """Add sum_t share_t slopes_t rows_t^T."""
        if self.weight is not None:
            rows = (rows * share[:, None]).to(rows.dtype)
            if self.weight.dtype == rows.dtype:
                self.weight.addmm_(slopes.t(), rows)
            else:
                self.weight.add_(slopes.t() @ rows)
        if self.bias is not None:
            self.bias.add_(share.to(slopes.dtype) @ slopes)

    def scale(self, factor: Tensor) -> None:
        """Multiply by a scalar."""
        for value in (self.weight, self.bias):
            if value is not None:
                value.mul_(factor)

    def gradients(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Return both, in the parameters' dtypes."""
        of_bias = None if self.bias is None or bias is None else self.bias.to(bias.dtype)
        return None if self.weight is None else self.weight.to(weight.dtype), of_bias


def _is_even(gradient: Tensor) -> bool:
    """Return whether all are equal; of a sum's gradient, without reading it from the device."""
    return gradient.stride() == (0,) or bool((gradient == gradient[0]).all())


def _cast(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if tensor is None else tensor.to(dtype)
