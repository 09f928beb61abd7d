"""TiKMiX-D's influences, and the mixture of the largest influence (arXiv 2508.17677)."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from tandem_pl.simplex import Array, settle

LEAST = 1e-12  # where log w is cut off


def scaled_influence(influence: Array) -> Array:
    """S_im / (max_j S_ij + 1e-8), so that P_hat = (this) w.

    Where no domain helps a target (the maximum is not positive) the paper's quotient would turn
    harm into gain; there the largest magnitude takes the maximum's place.

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
    """f(w) = b sum_i P_hat_i - a std(P_hat) + c H(w), and its slope [M]; P_hat = S_hat w.

    Args:
        weights: w [M].
        scaled: S_hat [M', M] of `scaled_influence`.
        spread: a.
        gain: b.
        entropy: c.

    Source: Wang et al. 2025, arXiv 2508.17677, which minimises -f with a = b = c = 1. H is in nats,
    the standard deviation is that of the population; both are our reading.

    >>> value, slope = tikmix_objective(np.array([0.5, 0.5]), np.array([[1.0, 0.0]]), 1, 1, 0)
    >>> value, slope.tolist()
    (0.5, [1.0, 0.0])
    """
    share = scaled @ weights
    middle, deviation = share - share.mean(), float(share.std())
    logarithm = np.log(np.maximum(weights, LEAST))
    value = gain * share.sum() - spread * deviation - entropy * (weights * logarithm).sum()
    pull = np.full(len(share), gain)
    if deviation > 0:
        pull = pull - spread * middle / (len(share) * deviation)
    return float(value), scaled.T @ pull - entropy * (logarithm + 1.0)


def tikmix_weights(
    influence: Array, prior: Array, spread: float = 1.0, gain: float = 1.0, entropy: float = 1.0
) -> Array | None:
    """The mixture of the largest f(w) on the simplex with S w >= S w_prior, target by target.

    Args:
        influence: S [M', M].
        prior: w_prior [M]; no target may lose against it. The search starts there; the paper's
            starts at uniform.
        spread: a of `tikmix_objective`.
        gain: b.
        entropy: c.

    Returns:
        [M], or None where the solver (SLSQP) fails or finds nothing better than the prior.

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
    found = np.clip(result.x, 0.0, None)
    if not (result.success and np.isfinite(found).all() and found.sum() > 0):
        return None
    found = settle(found / found.sum())
    kept = (scaled @ (found - prior) >= -1e-7).all()
    return found if kept and loss(found)[0] <= loss(prior)[0] + 1e-9 else None


def second_moment_scale(state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """sqrt(v / (1 - beta2^t)) + eps, by which Adam divides; of the parameter's shape.

    >>> import torch
    >>> state = {"exp_avg_sq": torch.tensor([0.04]), "step": torch.tensor(1.0)}
    >>> second_moment_scale(state, {"betas": (0.9, 0.99), "eps": 0.5})
    tensor([2.5000])
    """
    correction = 1.0 - float(group["betas"][1]) ** float(state["step"])
    return (state["exp_avg_sq"] / correction).sqrt() + group["eps"]


def filled(total: Array, count: Array) -> Array:
    """Means total / count [M', M]; an entry without a measurement gets the mean of its row's.

    >>> filled(np.array([[2.0, 0.0]]), np.array([[1.0, 0.0]])).tolist()
    [[2.0, 2.0]]
    """
    mean = total / np.maximum(count, 1)
    measured = count > 0
    rows = (mean * measured).sum(axis=1) / np.maximum(measured.sum(axis=1), 1)
    return np.where(measured, mean, rows[:, None])
