"""The D-CPT law (arXiv 2406.01375): L(N, D, r) = E + A/N^α + B r^η/D^β + C/(r + ε)^γ.

N is the number of parameters, D that of tokens, and r the share of the corpus that the loss is
measured on: of the new domain for the domain's loss, and of the general data for the general loss.

A loss must not rise with the share of its own corpus. For all r in [0, 1] that holds if and only if
η >= 1 and C >= C0 = B η (1 + ε)^(γ + 1) / (γ D^β). The fit is over η - 1 and C - C0 at the fewest
tokens of the runs, so that the law falls with N, D and r from there on, whatever it finds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import least_squares, nnls

from tandem_pl.errors import InputError
from tandem_pl.simplex import Array

DELTA = 0.02  # of the Huber loss
STARTS, FINISHED = 60, 3  # starts that are screened, and of these finished
LEAST_SHARES, LEAST_LENGTHS = 3, 3
#: ranges that α, η - 1, β, γ and ε start in
LOW, HIGH = (0.1, 0.01, 0.1, 0.05, 0.005), (1.0, 1.0, 1.0, 1.5, 0.5)
#: least and largest E, A, B and C - C0 over the mean loss, exponents, and ε while they are searched
BOX = np.log([[1e-9] * 4 + [1e-4] * 5, [1e3] * 4 + [5.0] * 4 + [2.0]])


@dataclass(frozen=True, eq=False)
class DCPTLaw:
    """A fitted law.

    Attributes:
        parameters: E, A, alpha, B, eta, beta, C, gamma and epsilon, for N and D in units. If all
            runs have one size, A is 0 and the law is only of that size.
        size_unit: unit of N; sizes are counted in it.
        token_unit: unit of D, the fewest tokens fitted on.
        one_size: the only size of the runs, if there is one and it is known.
        shares: the least and the largest r fitted on.
        tokens: the least and the largest D fitted on.
        r_squared: share of the loss's variance that the law explains.
        error: mean Huber loss, as the paper gives it.
        error_unseen: mean absolute error on each share of the fit on the others.
    """

    parameters: dict[str, float]
    size_unit: float
    token_unit: float
    one_size: float | None
    shares: tuple[float, float]
    tokens: tuple[float, float]
    r_squared: float
    error: float
    error_unseen: float

    def predict(self, size: ArrayLike | None, tokens: ArrayLike, share: ArrayLike) -> Array:
        """Return L at N parameters, D tokens and shares r, which are broadcast.

        Args:
            size: N; None for the only size of the runs.
            tokens: D > 0.
            share: r from 0 to 1.

        Raises:
            InputError: another size than the only one that the law was fitted on, or none.
        """
        p = self.parameters
        units = np.asarray(self._size(size), np.float64) / self.size_unit
        length = np.asarray(tokens, np.float64) / self.token_unit
        part = np.asarray(share, np.float64)
        learnt = p["A"] * units ** -p["alpha"]
        data = p["B"] * part ** p["eta"] * length ** -p["beta"]
        return np.asarray(p["E"] + learnt + data + p["C"] * (part + p["epsilon"]) ** -p["gamma"])

    @property
    def raw_parameters(self) -> dict[str, float]:
        """The nine parameters for N in parameters and D in tokens."""
        p = self.parameters
        learnt, data = p["A"] * self.size_unit ** p["alpha"], p["B"] * self.token_unit ** p["beta"]
        return p | {"A": learnt, "B": data}

    def _size(self, size: ArrayLike | None) -> ArrayLike:
        if size is None:
            if self.parameters["A"]:
                raise InputError("the runs have several sizes: give size, the one to predict for.")
            return self.size_unit
        if self.one_size is not None and not np.allclose(size, self.one_size, rtol=0.01):
            raise InputError(
                f"size={size:g} is not that of the runs, which is {self.one_size:g} in all of "
                "them: add runs of another size, or leave size out."
            )
        return size


def fit_dcpt(
    size: ArrayLike | None, tokens: ArrayLike, share: ArrayLike, loss: ArrayLike, seed: int = 0
) -> DCPTLaw:
    """Return the law that fits losses best.

    For given exponents and ε the law is linear in E, A, B and C - C0 >= 0: starts are screened so,
    and the best are finished by least squares with the Huber loss in all parameters together.

    Args:
        size: [n] N of each loss; None if all runs have one.
        tokens: [n] D > 0.
        share: [n] r from 0 to 1.
        loss: [n].
        seed: of the starts.

    Raises:
        InputError: too few losses, shares or lengths of runs, or values out of range.
    """
    length, part, values = (np.asarray(given, np.float64) for given in (tokens, share, loss))
    sizes = np.ones_like(values) if size is None else np.asarray(size, np.float64)
    several = len(np.unique(sizes)) > 1
    _check(sizes, length, part, values, 9 if several else 7)
    size_unit, token_unit = float(np.exp(np.log(sizes).mean())), float(length.min())
    points = np.stack([sizes / size_unit, length / token_unit, part])
    generator = np.random.default_rng(seed)
    screened = []
    for inner in np.exp(generator.uniform(np.log(LOW), np.log(HIGH), (STARTS, len(LOW)))):
        outer, distance = nnls(_columns(points, inner, several), values)
        start = np.concatenate([np.maximum(outer, 1e-4 * np.abs(values).mean()), inner])
        screened.append((distance, np.log(start)))
    screened.sort(key=lambda pair: pair[0])
    fits = [_finish(points, values, start, several) for _, start in screened[:FINISHED]]
    logs, cost = min(fits, key=lambda found: found[1])
    guess = np.empty_like(values)
    for one in np.unique(part):
        inside = part == one
        without = _finish(points[:, ~inside], values[~inside], logs, several)[0]
        guess[inside] = _values(points[:, inside], without, several)
    level, learnt, data, extra, alpha, more, beta, gamma, offset = np.exp(logs).tolist()
    left = _values(points, logs, several) - values
    return DCPTLaw(
        {
            "E": level,
            "A": learnt if several else 0.0,
            "alpha": alpha,
            "B": data,
            "eta": 1.0 + more,
            "beta": beta,
            "C": extra + data * _bend(more, gamma, offset),
            "gamma": gamma,
            "epsilon": offset,
        },
        size_unit,
        token_unit,
        None if several or size is None else float(sizes[0]),
        (float(part.min()), float(part.max())),
        (float(length.min()), float(length.max())),
        r_squared=float(1.0 - (left**2).sum() / ((values - values.mean()) ** 2).sum()),
        error=cost / len(values),
        error_unseen=float(np.abs(guess - values).mean()),
    )


def _bend(more: float, gamma: float, offset: float) -> float:
    """Return C0 / B at the fewest tokens."""
    return (1.0 + more) * (1.0 + offset) ** (gamma + 1.0) / gamma


def _columns(points: Array, inner: Array, several: bool) -> Array:
    """Return [n, 4] what E, A, B and C - C0 are multiplied by."""
    (size, length, part), (alpha, more, beta, gamma, offset) = points, inner
    fall = (part + offset) ** -gamma
    data = part ** (1.0 + more) * length**-beta + _bend(more, gamma, offset) * fall
    learnt = size**-alpha if several else np.zeros_like(size)
    return np.column_stack([np.ones_like(size), learnt, data, fall])


def _values(points: Array, logs: Array, several: bool) -> Array:
    return _columns(points, np.exp(logs[4:]), several) @ np.exp(logs[:4])


def _finish(points: Array, values: Array, start: Array, several: bool) -> tuple[Array, float]:
    """Return the logarithms of the parameters, and the summed Huber loss."""
    scale = np.array([np.log(np.abs(values).mean())] * 4 + [0.0] * 5)
    lower, upper = BOX + scale
    found = least_squares(
        lambda logs: _values(points, logs, several) - values,
        np.clip(start, lower + 1e-6, upper - 1e-6),
        bounds=(lower, upper),
        loss="huber",
        f_scale=DELTA,
        x_scale="jac",
        ftol=1e-11,
        xtol=1e-11,
        gtol=1e-11,
        max_nfev=200,
    )
    return found.x, float(found.cost)


def _check(sizes: Array, length: Array, part: Array, values: Array, parameters: int) -> None:
    if not (np.isfinite(values).all() and (length > 0).all() and (sizes > 0).all()):
        raise InputError("the D-CPT law needs losses, and tokens and sizes above 0.")
    if not ((part >= 0) & (part <= 1)).all():
        raise InputError(f"shares must be between 0 and 1, and one is {part.max():g}.")
    for number, least, what in (
        (len(values), parameters + 1, "losses"),
        (len(np.unique(part)), LEAST_SHARES, "different shares"),
        (len(np.unique(length)), LEAST_LENGTHS, "different numbers of tokens"),
    ):
        if number < least:
            raise InputError(
                f"the D-CPT law needs at least {least} {what}, and the table has {number}: add "
                "runs, or more checkpoints of them."
            )
    if np.ptp(values) <= 1e-11 * np.abs(values).max():
        raise InputError(f"the loss is {values[0]:g} in all runs: choose one that differs.")
