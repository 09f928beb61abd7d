"""The best mixture within bounds: SLSQP with gradients from many starts, and search by samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from tandem_pl.simplex import Array

from .bounds import Bounds

SMALLEST = 1e-13  # share at which KL still has a finite slope
CHUNK = 20_000  # mixtures valued at a time
ISLANDS, KEPT, ROUNDS, MOVES = 6, 6, 24, 40  # of the refinement: mixtures kept, moves of each
SLACK = 1e-9  # by which a constraint may be missed


class Goal(NamedTuple):
    """What to minimise over mixtures.

    Attributes:
        values: [K, M] -> [K].
        gradient: [M] -> [M].
        limits: pairs of functions of the same kinds that must be at most 0.
    """

    values: Callable[[Array], Array]
    gradient: Callable[[Array], Array]
    limits: Sequence[tuple[Callable[[Array], Array], Callable[[Array], Array]]] = ()


def with_kl(goal: Goal, strength: float, prior: Array) -> Goal:
    """Return the goal plus strength · KL(p ‖ prior); where the prior is 0, p must be 0 too."""
    if strength == 0:
        return goal

    def values(points: Array) -> Array:
        ratio = np.maximum(points, SMALLEST) / np.where(prior > 0, prior, 1.0)
        terms = np.where(prior > 0, points * np.log(ratio), 0.0)
        return goal.values(points) + strength * terms.sum(axis=1)

    def gradient(point: Array) -> Array:
        ratio = np.maximum(point, SMALLEST) / np.where(prior > 0, prior, 1.0)
        return goal.gradient(point) + np.where(prior > 0, strength * (np.log(ratio) + 1.0), 0.0)

    return Goal(values, gradient, goal.limits)


def allowed(goal: Goal, points: Array) -> NDArray[np.bool_]:
    """Return which [K] of the points meet the goal's limits."""
    met = np.ones(len(points), bool)
    for limit, _ in goal.limits:
        met &= limit(points) <= SLACK
    return met


def descend(goal: Goal, bounds: Bounds, starts: Iterable[Array]) -> Array | None:
    """Return the best of the minima that SLSQP finds from each start, or None if none is allowed.

    SLSQP stops early on a scale of its own: it is started again at its own result, until that
    does not improve.
    """
    free = bounds.upper > bounds.lower
    if not free.any():
        point = bounds.settle(bounds.upper.copy())
        return point if allowed(goal, point[None]).all() else None
    upper = bounds.upper[free]
    lower = np.minimum(np.maximum(bounds.lower[free], SMALLEST), upper)
    fixed = np.where(free, 0.0, bounds.lower)

    def whole(part: Array) -> Array:
        point = fixed.copy()
        point[free] = part
        return point

    total = 1.0 - fixed.sum()
    constraints = [{"type": "eq", "fun": lambda part: part.sum() - total, "jac": np.ones_like}] + [
        {
            "type": "ineq",
            "fun": lambda part, limit=limit: -limit(whole(part)[None])[0],
            "jac": lambda part, slope=slope: -slope(whole(part))[free],
        }
        for limit, slope in goal.limits
    ]
    found = []
    for start in starts:
        part = np.clip(start[free], lower, upper)
        last = np.inf
        for _ in range(4):
            scale = np.abs(np.ptp(goal.gradient(whole(part))[free])) + 1e-12
            result = minimize(
                lambda part, scale=scale: goal.values(whole(part)[None])[0] / scale,
                part,
                jac=lambda part, scale=scale: goal.gradient(whole(part))[free] / scale,
                bounds=list(zip(lower, upper, strict=True)),
                constraints=constraints,
                method="SLSQP",
                options={"maxiter": 300, "ftol": 1e-15},
            )
            if not np.isfinite(result.x).all():
                break
            part = np.clip(result.x, lower, upper)
            if not result.fun * scale < last - 1e-14 * (1.0 + abs(last)):
                break
            last = result.fun * scale
        found += [bounds.settle(start), bounds.settle(whole(part))]
    points = np.array(found)
    met = allowed(goal, points)
    if not met.any():
        return None
    if not met.all():  # by a little: go back towards a start that meets the limits
        anchor = points[met][goal.values(points[met]).argmin()]
        steps = 1.0 - np.geomspace(1e-10, 1.0, 41)[:, None]
        ways = [anchor + steps * (point - anchor) for point in points[~met]]
        points = np.array([bounds.settle(point) for point in np.vstack([points[met], *ways])])
        points = points[allowed(goal, points)]
    return np.asarray(points[goal.values(points).argmin()], np.float64)


def sample(
    prior: Array, bounds: Bounds, number: int, strength: float, generator: np.random.Generator
) -> Array:
    """Return mixtures drawn from Dirichlet(strength · prior), put inside the bounds."""
    gammas = generator.gamma(np.maximum(strength * prior, 1e-12), size=(number, len(prior)))
    drawn = gammas.sum(axis=1) > 0  # tiny strengths underflow
    return bounds.put_inside(gammas[drawn] / gammas[drawn].sum(axis=1, keepdims=True))


def values_of(goal: Goal, points: Array) -> Array:
    """Return the [K] values, infinite where a limit is not met."""
    parts = [
        np.where(allowed(goal, part), goal.values(part), np.inf)
        for part in np.array_split(points, -(-len(points) // CHUNK))
    ]
    return np.concatenate(parts)


def refine(goal: Goal, bounds: Bounds, points: Array, generator: np.random.Generator) -> Array:
    """Return better mixtures near the best of the given ones, the best first.

    The points are dealt to islands, which do not compete, since there may be many minima. In each
    round the best of an island are moved by ever smaller steps: half of the moves scale some of the
    weights, half shift weight from one domain to another. No gradient is needed.
    """
    values = values_of(goal, points)
    order = np.argsort(values, kind="stable")[: ISLANDS * KEPT]
    found = [
        _refine_island(goal, bounds, points[own], values[own], generator)
        for own in (order[start::ISLANDS] for start in range(min(ISLANDS, len(order))))
    ]
    points = np.vstack([island for island, _ in found])
    return points[np.argsort(np.concatenate([value for _, value in found]), kind="stable")]


def _refine_island(
    goal: Goal, bounds: Bounds, points: Array, values: Array, generator: np.random.Generator
) -> tuple[Array, Array]:
    width = points.shape[1]
    for step in np.geomspace(0.5, 1e-3, ROUNDS):
        near = np.repeat(points, MOVES, axis=0)
        rows = np.arange(len(near))
        scaled = rows % 2 == 0
        factors = generator.normal(0.0, step, near.shape)
        factors *= generator.random(near.shape) < max(2.0 / width, 0.3)
        near[scaled] *= np.exp(factors[scaled])
        source, sink = generator.integers(width, size=(2, len(near)))
        part = generator.random(len(near)) ** (0.5 / step)  # often all of it at first
        moved = np.where(scaled, 0.0, part * near[rows, source])
        np.subtract.at(near, (rows, source), moved)
        np.add.at(near, (rows, sink), moved)
        near = bounds.put_inside(near)
        points = np.vstack([points, near])
        values = np.concatenate([values, values_of(goal, near)])
        order = np.argsort(values, kind="stable")[:KEPT]
        points, values = points[order], values[order]
    return points, values
