"""The two questions put to D-CPT laws: the largest share of the domain, and the best one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq, minimize_scalar

from tandem_pl.checks import check_positive, check_share
from tandem_pl.errors import InputError
from tandem_pl.simplex import Array

from .dcpt import DCPTLaw

GRID = 1001  # shares tried, before the best is refined
FAR = 3.0  # times the longest run


@dataclass(frozen=True, eq=False)
class Outlook:
    """What laws predict of a run at each share of the domain.

    Attributes:
        domain: law of the domain's loss, in the domain's share.
        general: law of the general loss, in the general share; None if it was not measured.
        size: parameters of the network; None if the runs have one size.
        tokens: of the run; None if only `domain_tokens` ends it.
        domain_tokens: tokens of the domain that there are, with repeats; the run ends with them.
        start: general loss of the checkpoint; None if no rise is asked for.
    """

    domain: DCPTLaw
    general: DCPTLaw | None = None
    size: float | None = None
    tokens: float | None = None
    domain_tokens: float | None = None
    start: float | None = None

    def __post_init__(self) -> None:
        if self.tokens is None and self.domain_tokens is None:
            raise InputError("give tokens, the length of the run, or domain_tokens, or both.")
        for key, value in (("tokens", self.tokens), ("domain_tokens", self.domain_tokens)):
            if value is not None:
                check_positive(key, value)

    def length(self, share: Array) -> Array:
        """Return the tokens of a run at each share."""
        most = np.inf if self.tokens is None else self.tokens
        if self.domain_tokens is None:
            return np.full_like(share, most)
        with np.errstate(divide="ignore"):
            return np.minimum(most, self.domain_tokens / share)

    def domain_loss(self, share: Array) -> Array:
        """Return the domain's loss at each share."""
        return self.domain.predict(self.size, self.length(share), share)

    def general_loss(self, share: Array) -> Array:
        """Return the general loss at each share.

        Raises:
            InputError: there is no law of it.
        """
        if self.general is None:
            raise InputError("the general loss was not measured: add a column 'general_loss'.")
        return self.general.predict(self.size, self.length(share), 1.0 - share)


def largest_share(outlook: Outlook, epsilon: float) -> float:
    """Return the largest share with which the general loss rises by at most epsilon.

    It is 1 if no share raises it so much. The general loss rises with the share, because its law
    falls with the general share and with the tokens.

    Raises:
        InputError: the general loss rises by more with any share, or is not known at the start.
    """
    start = outlook.start
    if start is None:
        raise InputError("epsilon needs start, the general loss of the checkpoint.")
    if not np.isfinite(epsilon):
        raise InputError(f"epsilon={epsilon} must be a number, such as 0.05.")

    def excess(share: float) -> float:
        return float(outlook.general_loss(np.array([share]))[0]) - start - epsilon

    if excess(1.0) <= 0:
        return 1.0
    if excess(0.0) > 0:
        raise InputError(
            f"the general loss is predicted to rise by {excess(0.0) + epsilon:.4g} without any of "
            f"the domain, more than {epsilon:g}: allow more by epsilon, or train longer."
        )
    share = brentq(excess, 0.0, 1.0, xtol=1e-10)
    return float(share if excess(share) <= 0 else np.nextafter(share - 1e-10, 0.0))


def best_share(
    outlook: Outlook, general_weight: float = 0.0, epsilon: float | None = None
) -> float:
    """Return the share that minimises (1 - w) · domain loss + w · general loss.

    With a limited domain (`domain_tokens`), a large share ends the run early and a small one leaves
    the domain's tokens among too many others, so that there is a best share for the domain alone.

    Args:
        outlook: what laws predict.
        general_weight: w, from 0 to 1.
        epsilon: how much the general loss may rise; None for any.

    Raises:
        InputError: nothing limits the share, or no share meets epsilon.
    """
    check_share("general_weight", general_weight)
    if general_weight == 0 and epsilon is None and outlook.domain_tokens is None:
        raise InputError(
            "the domain's loss is lowest at a share of 1: give epsilon, general_weight or "
            "domain_tokens, which limit the share."
        )
    most = 1.0 if epsilon is None else largest_share(outlook, epsilon)

    def value(shares: Array) -> Array:
        total = (1.0 - general_weight) * outlook.domain_loss(shares)
        return total + general_weight * outlook.general_loss(shares) if general_weight else total

    grid = np.linspace(0.0, most, GRID)
    if outlook.tokens is None:
        grid = grid[1:]  # without the domain such a run would not end
    best = int(value(grid).argmin())
    around = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = minimize_scalar(
        lambda share: float(value(np.array([share]))[0]),
        bounds=around,
        method="bounded",
        options={"xatol": 1e-9},
    )
    refined = np.array([grid[best], found.x])
    return float(refined[value(refined).argmin()])


def find_doubts(outlook: Outlook, share: float) -> list[str]:
    """Return why the laws are not to be trusted at a share, one sentence each."""
    doubts = []
    laws = [("domain", outlook.domain, share)]
    if outlook.general is not None:
        laws.append(("general", outlook.general, 1.0 - share))
    tokens = float(outlook.length(np.array([share]))[0])
    for name, law, own in laws:
        if law.r_squared < 0.9:
            doubts.append(f"the law explains {law.r_squared:.2f} of the {name} loss's variance.")
        if not law.shares[0] <= own <= law.shares[1]:
            doubts.append(
                f"the {name} share {own:.3f} lies outside the shares measured, {law.shares[0]:g} "
                f"to {law.shares[1]:g}."
            )
        if not law.tokens[0] <= tokens <= FAR * law.tokens[1]:
            doubts.append(
                f"{tokens:.3g} tokens are outside the lengths measured, {law.tokens[0]:.3g} to "
                f"{law.tokens[1]:.3g}."
            )
    return list(dict.fromkeys(doubts))
