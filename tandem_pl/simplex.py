"""The probability simplex: exact projection and two update rules. NumPy float64 only."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import InputError

Array = NDArray[np.float64]


def project(point: ArrayLike, floor: float = 0.0, caps: ArrayLike | None = None) -> Array:
    """Return the nearest point of A = {x : sum x = 1, floor <= x_m <= cap_m} in Euclidean distance.

    The solution is x = clip(point - tau, floor, caps) for the one tau that makes it sum to 1.
    That sum is piecewise linear and falls with tau, with kinks at point - floor and point - caps:
    the kinks are sorted, the piece that crosses 1 is found, and tau is solved on it exactly.

    Args:
        point: [M] any finite numbers.
        floor: least weight of a domain, 0 <= floor <= 1/M.
        caps: [M] largest weight of each domain; None for no cap.

    Returns:
        [M] float64 weights.

    Raises:
        InputError: A is empty, or the point is not finite.

    Source: the sort-and-threshold projection (Duchi et al., 2008), extended to caps.

    >>> project([0.5, 0.4, 0.4]).round(3).tolist()
    [0.4, 0.3, 0.3]
    >>> project([2.0, 0.0], caps=[0.7, 1.0]).round(3).tolist()
    [0.7, 0.3]
    """
    z = np.asarray(point, dtype=np.float64)
    upper = np.ones_like(z) if caps is None else np.minimum(np.asarray(caps, np.float64), 1.0)
    check_feasible(len(z), floor, upper)
    if not np.isfinite(z).all():
        raise InputError(
            f"cannot project {z.tolist()} onto the simplex: every entry must be finite."
        )
    z = z - z.max()  # a common shift changes nothing, and huge entries lose their low bits
    kinks = np.sort(np.concatenate([z - floor, z - upper]))  # the sum falls from left to right
    left, right = 0, len(kinks) - 1
    while right - left > 1:  # invariant: sum at left >= 1 >= sum at right
        half = (left + right) // 2
        if np.clip(z - kinks[half], floor, upper).sum() >= 1.0:
            left = half
        else:
            right = half
    middle = z - 0.5 * (kinks[left] + kinks[right])
    free = (middle > floor) & (middle < upper)  # the entries that change on this piece
    tau = kinks[left]
    if free.any():
        fixed = np.where(middle <= floor, floor, upper)[~free].sum()
        tau = (z[free].sum() + fixed - 1.0) / free.sum()
    return sum_to_one(np.clip(z - tau, floor, upper), floor, upper)


def sum_to_one(x: Array, floor: float = 0.0, caps: Array | None = None) -> Array:
    """Return weights [M] that sum to exactly 1, from weights that do up to rounding.

    The largest entry that has room between floor and cap takes the rounding error; the others,
    which may be tiny, keep their bits.
    """
    gap = 1.0 - x.sum()
    upper = np.ones_like(x) if caps is None else caps
    room = (x > floor) & (x + gap >= floor) & (x + gap <= upper)
    if gap == 0.0 or not room.any():
        return x
    x = x.copy()
    x[np.where(room, x, -1.0).argmax()] += gap
    return x


def check_weights(weights: Array, size: int, where: str) -> None:
    """Raise an error unless weights are [size] finite numbers, 0 or more, with the sum 1.

    Args:
        weights: what to check.
        size: number of domains.
        where: what gave the weights, for the message.
    """
    shape = np.shape(weights)
    if shape != (size,):
        reason = f"their shape is {list(shape)} and must be [{size}]"
    elif not np.isfinite(weights).all() or weights.min() < 0:
        reason = f"{weights.tolist()} must be finite, and 0 or more"
    elif abs(weights.sum() - 1.0) > 1e-9:
        reason = f"their sum is {weights.sum():.6g} and must be 1"
    else:
        return
    raise InputError(f"{where} returned weights that are no mixture: {reason}.")


def check_feasible(size: int, floor: float, caps: Array) -> None:
    """Raise an error if no weights satisfy the bounds, naming the setting to change."""
    if not 0.0 <= floor <= 1.0 / size:
        raise InputError(
            f"floor={floor} leaves no mixture of {size} domains: "
            f"choose 0 <= floor <= {1 / size:.6g}."
        )
    if not np.isfinite(caps).all() or (caps < floor).any():
        raise InputError(f"caps={caps.tolist()} must be finite and at least floor={floor}.")
    if caps.sum() < 1.0 - 1e-12:
        raise InputError(f"caps sum to {caps.sum():.6g}: raise them until they sum to at least 1.")


def projected_step(
    weights: ArrayLike,
    gradient: ArrayLike,
    learning_rate: float,
    floor: float = 0.0,
    caps: ArrayLike | None = None,
) -> Array:
    """Return TANDEM's update: alpha <- Pi_A(alpha - eta * gradient), with an exact projection.

    Args:
        weights: [M] the mixture now.
        gradient: [M] the hyper-gradient, gamma * Delta, in nats.
        learning_rate: eta, weight per nat.
        floor: least weight of a domain.
        caps: [M] largest weight of each domain, or None.

    Returns:
        [M] the next mixture. A constant added to the gradient changes nothing.
    """
    return project(np.asarray(weights) - learning_rate * np.asarray(gradient), floor, caps)


def exponentiated_step(
    weights: ArrayLike,
    gradient: ArrayLike,
    learning_rate: float,
    floor: float = 0.0,
    caps: ArrayLike | None = None,
) -> Array:
    """Return mirror descent's update: alpha_m exp(-eta gradient_m) / Z, projected into the bounds.

    This is the rule of DoReMi and DoGE, for comparison; it is not TANDEM's. A weight of 0 stays 0
    unless the floor is higher.
    """
    alpha = np.asarray(weights, np.float64)
    step = -learning_rate * np.asarray(gradient, np.float64)
    step = np.where(alpha > 0, step, -np.inf)
    grown = alpha * np.exp(step - step.max())
    grown = grown / grown.sum()
    if floor == 0.0 and caps is None:
        return sum_to_one(grown)
    return project(grown, floor, caps)
