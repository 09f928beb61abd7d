"""Which mixtures to train on next: Bayesian optimisation by botorch (arXiv 2508.11551)."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from tandem_pl.errors import InputError

from ..libraries import require

ROOT = 0.25  # of shares: a share of 0.001 is far from 0 for a loss, see `laws.gaussian_process`


def choose_next(
    weights: ArrayLike, values: ArrayLike, pool: ArrayLike, count: int = 1, seed: int = 0
) -> list[int]:
    """Return which mixtures of a pool have the largest expected improvement together.

    A Gaussian process on the fourth roots of the shares is fitted to the runs so far; then one
    mixture after the other is taken, each with the largest expected improvement (botorch's
    `qLogExpectedImprovement`) given that those before it are trained too.

    Args:
        weights: [N, M] mixtures of finished runs, two or more.
        values: [N] what they reached, lower is better.
        pool: [P, M] mixtures to choose from.
        count: how many.
        seed: of the samples by which the improvement of several is estimated.

    Returns:
        [count] their numbers in the pool.

    Raises:
        InputError: botorch is not installed; too few runs or mixtures.
    """
    check_installed()
    from botorch.acquisition import qLogExpectedImprovement
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from botorch.sampling import SobolQMCNormalSampler
    from gpytorch.mlls import ExactMarginalLogLikelihood

    inputs, outcome = _roots(weights), torch.as_tensor(np.asarray(values, np.float64))[:, None]
    candidates = _roots(pool)
    if len(inputs) < 2 or len(candidates) < count:
        raise InputError(
            f"{len(inputs)} runs and a pool of {len(candidates)} mixtures: give 2 or more runs and "
            f"{count} or more mixtures to choose from."
        )
    left = list(range(len(candidates)))
    chosen: list[int] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = SingleTaskGP(inputs, -outcome)  # which standardizes the outcome
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        sampler = SobolQMCNormalSampler(torch.Size([256]), seed=seed)
        gain = qLogExpectedImprovement(model, best_f=-outcome.min(), sampler=sampler)
        for _ in range(count):
            gain.set_X_pending(candidates[chosen] if chosen else None)
            with torch.no_grad():
                gains = gain(candidates[left][:, None])
            chosen.append(left.pop(int(gains.argmax())))
    return chosen


def check_installed(what: str = "Bayesian optimisation") -> None:
    """Raise an error if botorch is not installed, before runs whose results it needs."""
    require("botorch", "botorch", what)


def _roots(weights: ArrayLike) -> Tensor:
    return torch.as_tensor(np.asarray(weights, np.float64) ** ROOT)
