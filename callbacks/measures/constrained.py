"""The nearest mixture under which chosen targets are predicted not to lose."""

from __future__ import annotations

import numpy as np

from tandem_pl.simplex import Array, project

TOLERANCE = 1e-6  # of a constraint whose row has the norm 1


def nearest_that_keeps(point: Array, gains: Array, least: Array) -> Array | None:
    """Return the mixture w [M] nearest to `point` with `gains` w >= `least`; None if there is none.

    A `point` that satisfies this is returned as it is. Otherwise w = Pi(point + gains' nu) for the
    nu >= 0 [L] that maximises the dual, which has one number for each constraint, so that a
    thousand domains are as easy as ten. (Pi is `simplex.project`; the search is L-BFGS-B.)

    Args:
        point: [M] a mixture.
        gains: [L, M] the gain of target l for a unit of weight on domain m; any scale.
        least: [L] least gains.

    >>> point, gains = np.array([0.7, 0.3, 0.0]), np.array([[0.0, 1.0, 0.0]])
    >>> nearest_that_keeps(point, gains, np.array([0.5])).round(3).tolist()
    [0.5, 0.5, 0.0]
    """
    from scipy.optimize import minimize

    # a constant added to a row and its bound changes nothing, and neither does their scale
    middle = gains.mean(axis=1, keepdims=True)
    size = np.linalg.norm(gains - middle, axis=1, keepdims=True)
    size[size == 0] = 1.0
    rows, bounds = (gains - middle) / size, (least - middle[:, 0]) / size[:, 0]
    if (rows @ point - bounds >= -TOLERANCE / 10).all():
        return point

    def dual(nu: Array) -> tuple[float, Array]:
        """Return the negative dual and its gradient."""
        weights = project(point + nu @ rows)
        slack = rows @ weights - bounds
        return float(nu @ slack - 0.5 * ((weights - point) ** 2).sum()), slack

    start = np.zeros(len(rows))
    options = {"maxiter": 500, "ftol": 1e-15, "gtol": TOLERANCE / 10}
    limits = [(0.0, 1e3)] * len(rows)
    found = minimize(dual, start, jac=True, method="L-BFGS-B", bounds=limits, options=options)
    weights = project(point + found.x @ rows)
    return weights if (rows @ weights - bounds >= -TOLERANCE).all() else None
