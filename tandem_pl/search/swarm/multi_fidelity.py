"""Which mixture to train on next, and how large: after ADMIRE-BayesOpt (arXiv 2508.11551)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import erfcx, log_ndtr

from tandem_pl.errors import InputError
from tandem_pl.simplex import Array

from .bayesian import ROOT, check_installed

CHUNK = 64  # mixtures whose posterior is computed together
LEAST_SPREAD = 1e-9  # of a prediction, so that a ratio to it is finite


class Choice(NamedTuple):
    """A mixture, by its place in the pool, and the fidelity to train it at."""

    mixture: int
    fidelity: int


class Results(NamedTuple):
    """Finished runs.

    Args:
        mixtures: [N, M] shares.
        fidelities: [N] whole numbers below F; F - 1 is the target fidelity, the one that counts.
        values: [N] what they reached, lower is better. Each fidelity may have a level of its own.
    """

    mixtures: ArrayLike
    fidelities: ArrayLike
    values: ArrayLike


def propose_next(
    results: Results,
    costs: Sequence[float],
    pool: ArrayLike,
    count: int = 1,
    budget: float = math.inf,
    tried: Sequence[Choice] = (),
) -> list[Choice]:
    """Return what to train next: the largest expected improvement per cost.

    A Gaussian process on the fourth roots of the shares and on the fidelity (botorch's
    `SingleTaskMultiFidelityGP` with a mean for each fidelity) is fitted to the runs so far. A run
    of a mixture at any fidelity would move what the process predicts for that mixture at the target
    fidelity, by a normal amount of known spread; its worth is the expected improvement of that
    prediction over the best one now. So a cheap run is worth what it tells about the target. If
    several are asked for, each is chosen as if those before it had ended as predicted.

    The paper's acquisition is a max-value entropy per cost; this one is exact and quick on a pool.

    Args:
        results: of two or more runs.
        costs: [F] of a run at each fidelity, ascending.
        pool: [P, M] mixtures to choose from.
        count: how many, at most.
        budget: what they may cost together; fewer are returned if no other run is within it.
        tried: what not to choose again.

    Raises:
        InputError: botorch is not installed, too few runs, or costs that do not ascend.
    """
    price = check_costs(costs)
    left = np.ones((len(np.asarray(pool)), len(price)), bool)
    for choice in tried:
        left[choice] = False
    process = _Process(results, len(price))
    chosen: list[Choice] = []
    while len(chosen) < count:
        possible = left & (price <= budget)
        if not possible.any():
            break
        mean, spread = process.predict(pool)
        best = mean.min()
        score = log_improvement(best - mean[:, None], spread) - np.log(price)
        place, fidelity = np.unravel_index(np.where(possible, score, -np.inf).argmax(), left.shape)
        chosen.append(Choice(int(place), int(fidelity)))
        left[chosen[-1]] = False
        budget -= price[fidelity]
        if len(chosen) < count:
            process.suppose(np.asarray(pool)[place], int(fidelity))
    return chosen


def recommend(results: Results, fidelities: int, pool: ArrayLike) -> int:
    """Return the place of the mixture with the best prediction at the target fidelity.

    Raises:
        InputError: botorch is not installed, or too few runs.
    """
    return int(_Process(results, fidelities).predict(pool)[0].argmin())


def check_costs(costs: Sequence[float]) -> Array:
    """Return [F] costs.

    Raises:
        InputError: fewer than two, or they do not ascend from above 0.
    """
    price = np.asarray(costs, np.float64)
    if len(price) < 2 or not price[0] > 0 or not (np.diff(price) > 0).all():
        raise InputError(
            f"the costs of the fidelities are {[float(f'{cost:.4g}') for cost in price]}: give two "
            "or more fidelities, each one dearer than those before it."
        )
    return price


def log_improvement(gain: Array, spread: Array) -> Array:
    """Return log E[max(0, gain + spread n)] for a standard normal n.

    >>> log_improvement(np.array([0.0, -40.0]), np.array([1.0, 1.0])).round(3).tolist()
    [-0.919, -808.299]
    """
    z = gain / spread
    tail = np.minimum(z, -1.0)
    # phi(z) + z Phi(z) = phi(z) (1 - |z| r), r the ratio of Mills; the bracket is 1 / z^2 far out
    mills = math.sqrt(math.pi / 2) * erfcx(-tail / math.sqrt(2))
    rest = np.where(tail > -1e4, np.log1p(np.maximum(tail * mills, -1 + 1e-15)), -2 * np.log(-tail))
    far = -0.5 * tail**2 - 0.5 * math.log(2 * math.pi) + rest
    body = np.maximum(z, -1.0)
    near = np.exp(-0.5 * body**2) / math.sqrt(2 * math.pi) + body * np.exp(log_ndtr(body))
    return np.asarray(np.log(spread) + np.where(z < -1, far, np.log(near)))


class _Process:
    """The Gaussian process of shares and fidelities, fitted to runs."""

    def __init__(self, results: Results, fidelities: int) -> None:
        check_installed("a search over fidelities")
        from botorch.fit import fit_gpytorch_mll
        from botorch.models import SingleTaskMultiFidelityGP
        from gpytorch.means import Mean
        from gpytorch.mlls import ExactMarginalLogLikelihood

        class MeanOfFidelity(Mean):
            """A constant for each fidelity: larger networks have lower losses."""

            def __init__(self) -> None:
                super().__init__()
                zeros = torch.zeros(fidelities, dtype=torch.float64)
                self.register_parameter("constants", torch.nn.Parameter(zeros))

            def forward(self, inputs: torch.Tensor) -> torch.Tensor:
                return self.constants[(inputs[..., -1] * (fidelities - 1)).round().long()]

        self.fidelities = fidelities
        levels: NDArray[np.int64] = np.asarray(results.fidelities, np.int64)
        values = np.asarray(results.values, np.float64)
        if len(values) < 2:
            raise InputError(f"{len(values)} finished runs: a search needs 2 or more to start.")
        for level in set(levels.tolist()):  # the constants are of what is left
            values = values - np.where(levels == level, values[levels == level].mean(), 0.0)
        outcome = torch.as_tensor(values / (values.std() or 1.0))[:, None]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model: Any = SingleTaskMultiFidelityGP(
                self._inputs(np.asarray(results.mixtures, np.float64), levels),
                outcome,
                data_fidelities=[-1],
                linear_truncated=False,  # the other kernel fits as well and takes ten times longer
                outcome_transform=None,
            )
            self.model.mean_module = MeanOfFidelity()
            likelihood = ExactMarginalLogLikelihood(self.model.likelihood, self.model)
            fit_gpytorch_mll(likelihood)
        self.noise = float(self.model.likelihood.noise.detach())

    def _inputs(self, mixtures: Array, levels: NDArray[np.int64]) -> torch.Tensor:
        share = levels[:, None] / (self.fidelities - 1)  # 1 for the target
        return torch.as_tensor(np.hstack([mixtures**ROOT, share]))

    def predict(self, pool: ArrayLike) -> tuple[Array, Array]:
        """Return the means [P] at the target, and by how much runs would move them [P, F]."""
        mixtures = np.asarray(pool, np.float64)
        means, spreads = [], []
        for part in np.array_split(mixtures, -(-len(mixtures) // CHUNK)):
            levels = np.tile(np.arange(self.fidelities), len(part))
            inputs = self._inputs(part.repeat(self.fidelities, axis=0), levels)
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                found = self.model.posterior(inputs).distribution
            shape = (len(part), self.fidelities)
            # [P, F, F] among the fidelities of each mixture
            own = found.covariance_matrix.reshape(*shape, *shape).diagonal(dim1=0, dim2=2)
            own = own.permute(2, 0, 1).numpy()
            variance = np.diagonal(own, axis1=1, axis2=2).clip(0) + self.noise
            means.append(found.mean.reshape(shape)[:, -1].numpy())
            spreads.append(np.abs(own[:, :, -1]) / np.sqrt(variance))
        return np.concatenate(means), np.concatenate(spreads).clip(LEAST_SPREAD)

    def suppose(self, mixture: Array, fidelity: int) -> None:
        """Take the prediction of a run for its result."""
        inputs = self._inputs(mixture[None], np.array([fidelity]))
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            mean = self.model.posterior(inputs).distribution.mean
            self.model = self.model.condition_on_observations(inputs, mean[:, None])
