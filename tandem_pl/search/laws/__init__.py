"""The laws: each gives a metric as a function of the mixture, fitted on runs."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

from tandem_pl.domain_names import list_names
from tandem_pl.errors import InputError, did_you_mean

from ..libraries import require
from .model import Model, Problem


class Kind(NamedTuple):
    """A row of the table of laws.

    `least` and `advised` give numbers of different mixtures from the number of domains M: fewer
    than `least` cannot be fitted, and with fewer than `advised` the fit is not to be trusted.
    """

    module: str
    about: str
    least: Callable[[int], int]
    advised: Callable[[int], int]
    smooth: bool = True  # whether it has a gradient
    convex: bool = True  # whether every minimum is the optimum
    needs_length: bool = False  # whether it fits runs of several lengths: a column tokens or steps
    library: tuple[str, str] | None = None  # module that it imports, and what that is called

    def fit(self, problem: Problem) -> Model:
        """Return the law fitted on runs."""
        model: Model = import_module(f"{__name__}.{self.module}").fit(problem)
        return model

    def check_installed(self) -> None:
        """Raise an error if the library that the law needs is not installed."""
        if self.library is not None:
            what, otherwise = f"the law {self.module!r}", "use another law, such as 'log_linear'"
            require(*self.library, what, otherwise)


def _olmix(domains: int) -> int:
    return 3 * (domains + 1)  # arXiv 2602.12237


LAWS = {
    "linear": Kind("linear", "t·p", lambda m: m + 1, _olmix),
    "log_linear": Kind("log_linear", "exp(c) + exp(t·p), Olmix", lambda m: m + 2, _olmix),
    "exponential": Kind("exponential", "c + k exp(t·p), data mixing laws", lambda m: m + 3, _olmix),
    "bimix": Kind(
        "bimix",
        "(B/s^β + C) / r^α of the metric's own domain's share r and the length s",
        lambda m: 5,
        lambda m: 10,
        needs_length=True,
    ),
    "autoscale": Kind(
        "autoscale",
        "c + Σ k (n0 + n)^-γ of the tokens n of each domain",
        lambda m: 3 * m + 2,
        lambda m: 6 * m,
        needs_length=True,
    ),
    # LightGBM wants 20 samples a leaf, and in Olmix's study about 118 runs to do well
    "lightgbm": Kind(
        "lightgbm",
        "boosted trees, RegMix",
        lambda m: 40,
        lambda m: 120,
        smooth=False,
        convex=False,
        library=("lightgbm", "LightGBM"),
    ),
    "gaussian_process": Kind(
        "gaussian_process",
        "of the shares' roots",
        lambda m: 8,
        _olmix,
        convex=False,
        library=("sklearn.gaussian_process", "scikit-learn"),
    ),
}


def find_law(name: str) -> Kind:
    """Return a law's row of the table; raise an error if there is none."""
    if name not in LAWS:
        hint = did_you_mean(name, LAWS)
        raise InputError(f"law {name!r} is unknown: {hint}use one of {list_names(LAWS)}.")
    return LAWS[name]
