"""TiKMiX-D's influences, and the mixture of the largest influence (arXiv 2508.17677)."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from tandem_pl.simplex import Array, sum_to_one

LEAST_WEIGHT = 1e-12  # smaller weights count as this in log w


def scaled_influence(influence: Array) -> Array:
    """Return S_hat_im = S_im / (max_j S_ij + 1e-8), so that P_hat = S_hat w.

    If no domain helps a target (the maximum is not positive), the paper's quotient would turn harm
    into gain; then the row is divided by its largest magnitude.

    Args:
        influence: S [M', M], the gain of target i by training on domain m.

    >>> scaled_influence(np.array([[2.0, 1.0], [-1.0, -2.0]])).round(3).tolist()
    [[1.0, 0.5], [-0.5, -1.0]]
    """
    best = influence.max(axis=1, keepdims=True)
    best = np.where(best > 0, best, np.abs(influence).max(axis=1, keepdims=True))
    return influence / (best + 1e-8)


def tikmix_objective(
    weights: Array, scaled: Array, spread: float, gain: float, entropy: float
) -> tuple[float, Array]:
    """Return f(w) = b sum_i P_hat_i - a std(P_hat) + c H(w) with P_hat = S_hat w, and its gradient.

    w is `weights` [M], S_hat is `scaled` [M', M], a is `spread`, b is `gain`, c is `entropy`.

    Source: Wang et al. 2025, arXiv 2508.17677, which minimises -f with a = b = c = 1. We take H in
    nats and the standard deviation of the population, which the paper leaves open.

    >>> value, slope = tikmix_objective(np.array([0.5, 0.5]), np.array([[1.0, 0.0]]), 1, 1, 0)
    >>> value, slope.tolist()
    (0.5, [1.0, 0.0])
    """
    share = scaled @ weights
    middle, deviation = share - share.mean(), float(share.std())
    logarithm = np.log(np.maximum(weights, LEAST_WEIGHT))
    value = gain * share.sum() - spread * deviation - entropy * (weights * logarithm).sum()
    pull = np.full(len(share), gain)
    if deviation > 0:
        pull = pull - spread * middle / (len(share) * deviation)
    return float(value), scaled.T @ pull - entropy * (logarithm + 1.0)


def tikmix_weights(
    influence: Array, prior: Array, spread: float = 1.0, gain: float = 1.0, entropy: float = 1.0
) -> Array | None:
    """Return the mixture of the largest f(w) on the simplex with S w >= S w_prior for each target.

    The search starts at the prior [M], against which no target may lose; the paper's starts at
    uniform. S is `influence` [M', M]; the others are those of `tikmix_objective`.

    Returns:
        [M], or None if the solver (SLSQP) fails or finds nothing better than the prior.

    >>> tikmix_weights(np.array([[1.0, 0.0]]), np.array([0.5, 0.5])).round(3).tolist()
    [0.731, 0.269]
    """
    from scipy.optimize import minimize

    scaled = scaled_influence(influence)

    def loss(weights: Array) -> tuple[float, Array]:
        value, slope = tikmix_objective(weights, scaled, spread, gain, entropy)
        return -value, -slope

    result = minimize(
        loss,
        prior,
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * len(prior),
        constraints=[
            {"type": "eq", "fun": lambda w: w.sum() - 1.0, "jac": np.ones_like},
            {"type": "ineq", "fun": lambda w: scaled @ (w - prior), "jac": lambda w: scaled},
        ],
        options={"maxiter": 500, "ftol": 1e-12},
    )
    best = np.clip(result.x, 0.0, None)
    if not (result.success and np.isfinite(best).all() and best.sum() > 0):
        return None
    best = sum_to_one(best / best.sum())
    feasible = (scaled @ (best - prior) >= -1e-7).all()
    return best if feasible and loss(best)[0] <= loss(prior)[0] + 1e-9 else None


def second_moment_scale(state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """Return sqrt(v / (1 - beta2^t)) + eps, by which Adam divides, in the parameter's shape.

    >>> import torch
    >>> state = {"exp_avg_sq": torch.tensor([0.04]), "step": torch.tensor(1.0)}
    >>> second_moment_scale(state, {"betas": (0.9, 0.99), "eps": 0.5})
    tensor([2.5000])
    """
    correction = 1.0 - float(group["betas"][1]) ** float(state["step"])
    return (state["exp_avg_sq"] / correction).sqrt() + group["eps"]


def means_or_row_mean(total: Array, count: Array) -> Array:
    """Return means total / count [M', M]; entries that were not measured get their row's mean.

    >>> means_or_row_mean(np.array([[2.0, 0.0]]), np.array([[1.0, 0.0]])).tolist()
    [[2.0, 2.0]]
    """
    mean = total / np.maximum(count, 1)
    measured = count > 0
    rows = (mean * measured).sum(axis=1) / np.maximum(measured.sum(axis=1), 1)
    return np.where(measured, mean, rows[:, None])
