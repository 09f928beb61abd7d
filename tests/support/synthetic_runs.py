"""Tables of runs whose law is known."""

import numpy as np

from tandem_pl.search import Runs

DOMAINS = ("web", "code", "books", "math")
SLOPES = np.array([0.3, -1.2, 0.1, -0.4])  # of the log-linear law below; code helps most


def draw_mixtures(number: int, domains: int = 4, seed: int = 0) -> np.ndarray:
    """Return [number, domains] mixtures from a flat Dirichlet."""
    return np.random.default_rng(seed).dirichlet(np.ones(domains), number)


def log_linear(weights: np.ndarray, slopes: np.ndarray = SLOPES) -> np.ndarray:
    """Return 0.8 + exp(slopes·p)."""
    return 0.8 + np.exp(weights @ slopes)


def make_runs(number: int = 40, noise: float = 0.0, seed: int = 0, **metrics: np.ndarray) -> Runs:
    """Return runs on four domains with the metric "loss", and others if given."""
    weights = draw_mixtures(number, seed=seed)
    loss = log_linear(weights) + noise * np.random.default_rng(seed + 1).normal(size=number)
    return Runs(DOMAINS, weights, {"loss": loss, **metrics})
