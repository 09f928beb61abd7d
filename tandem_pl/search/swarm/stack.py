"""`Stack`: networks of one shape, trained together, each on its own batches.

A small network's step is mostly the time to launch its operations, which a stack pays once.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from tandem_pl.modes import evaluating
from tandem_pl.randomness import private_randomness, seed_generators
from tandem_pl.training.evaluation import not_one_a_sample
from tandem_pl.training.mixture_module import MixtureModule
from tandem_pl.training.optimizer_settings import trainable

#: Optimizers whose update of a number depends on that number alone, so that a stack of networks is
#: updated as each alone would be.
ELEMENTWISE = (
    torch.optim.AdamW,
    torch.optim.Adam,
    torch.optim.Adagrad,
    torch.optim.Adamax,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
    torch.optim.SGD,
)


def why_not_stacked(module: object, precision: str, callbacks: Iterable[str]) -> str | None:
    """Return why networks cannot be trained together as this module trains one; None if they can.

    Args:
        module: of the configuration.
        precision: of the trainer.
        callbacks: classes that training needs, besides the one that sets the weights.
    """
    if type(module) is not MixtureModule:
        return f"{type(module).__name__} is not MixtureModule"
    for key, unused in (("micro_batch_size", None), ("sample_weights", None)):
        if getattr(module, key) is not unused:
            return f"{key} is set"
    if precision not in ("32-true", "32"):
        return f"precision is {precision}"
    for name in callbacks:
        return f"{name} needs a trainer for each"
    optimizer = module.make_optimizer(trainable(module.network))
    if type(optimizer) not in ELEMENTWISE:
        return f"{type(optimizer).__name__} is not known to update each number by itself"
    return None


class Stack:
    """R copies of a module's network, with one optimizer.

    Each is trained as `MixtureModule` trains one: the same dropout (on a CPU), a gradient that is
    clipped by its own norm, one schedule. A network whose loss is not finite is not updated any
    more in a useful way, and does not touch the others; see `stopped`.

    Args:
        module: whose network, objective, optimizer, schedule and clipping they have.
        count: R.
        device: where they are trained.

    Attributes:
        stopped: [R] the first step at which a loss was not finite; -1 for none.
    """

    def __init__(self, module: MixtureModule, count: int, device: torch.device) -> None:
        self.module, self.count, self.device = module, count, device
        self.network = module.network.to(device).train()
        trained = {n: p for n, p in self.network.named_parameters() if p.requires_grad}
        self.parameters = {n: _copies(p, count).requires_grad_() for n, p in trained.items()}
        self.buffers = {n: _copies(b, count) for n, b in self.network.named_buffers()}
        self.optimizer = module.make_optimizer(list(self.parameters.values()))
        make = module.make_scheduler
        self.scheduler = None if make is None else make(self.optimizer)
        self.stopped = torch.full((count,), -1, device=device)

    def train_step(self, samples: Any, size: int, step: int) -> Tensor:
        """Update each network once on its own batch; return the losses [R, size] before that.

        Args:
            samples: collated, with one more dimension [R, ...] at the front.
            size: samples in a batch.
            step: number of the batch, from 0.
        """
        losses = self._losses(samples, size, 0, step)
        self.optimizer.zero_grad()
        losses.mean(dim=1).sum().backward()  # a sum: the gradient of each is its own loss's
        losses = losses.detach()
        bad = ~losses.isfinite().all(dim=1) & (self.stopped < 0)
        self.stopped = torch.where(bad, step, self.stopped)
        if self.module.gradient_clip_val is not None:
            for group in self.optimizer.param_groups:
                clip_each(group["params"], self.module.gradient_clip_val)
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        return losses

    @torch.no_grad()
    def measure(self, samples: Any, size: int) -> Tensor:
        """Return losses [R, size] of the same samples under each network, in eval mode."""
        with evaluating(self.network):
            return self._losses(samples, size, None, 0)

    def _losses(self, samples: Any, size: int, dimension: int | None, step: int) -> Tensor:
        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], own: Any) -> Tensor:
            losses = self.module.objective(_Bound(self.network, parameters | buffers), own)
            if not isinstance(losses, Tensor) or losses.shape != (size,):
                raise ValueError(f"the objective gave {not_one_a_sample(losses, size)}")
            return losses

        call = vmap(one, in_dims=(0, 0, dimension), randomness="same")  # as separate runs draw
        with private_randomness(self.device), _attention():
            seed_generators(self.device, self.module.seed, step, 0, 0)  # as rank 0's first part
            return call(self.parameters, self.buffers, samples)


class _Bound:
    """A network with other parameters, as objectives call it."""

    def __init__(self, network: nn.Module, tensors: dict[str, Tensor]) -> None:
        self._network, self._tensors = network, tensors

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        return functional_call(self._network, self._tensors, inputs, named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)


def clip_each(parameters: Iterable[Tensor], largest: float) -> None:
    """Clip the gradient of each network by its norm, as `clip_grad_norm_` does for one.

    Args:
        parameters: [R, ...] each, with gradients.
        largest: norm.

    >>> stacked = torch.zeros(2, 2)
    >>> stacked.grad = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    >>> clip_each([stacked], 1.0)
    >>> [round(norm, 3) for norm in stacked.grad.norm(dim=1).tolist()]
    [1.0, 0.5]
    """
    gradients = [p.grad.flatten(1) for p in parameters if p.grad is not None]
    norms = [torch.linalg.vector_norm(gradient, dim=1) for gradient in gradients]
    total = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    scale = (largest / (total + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale[:, None])


def _copies(tensor: Tensor, count: int) -> Tensor:
    return tensor.detach().expand(count, *tensor.shape).clone()


def _attention() -> AbstractContextManager:
    """Use attention that can be stacked: fused kernels run for each network alone, or fail."""
    warnings.filterwarnings("ignore", message="There is a performance drop")
    return sdpa_kernel(SDPBackend.MATH)
