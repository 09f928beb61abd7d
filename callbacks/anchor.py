"""`Anchor`: keeps a share of a prior mixture in the weights of any method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from tandem_pl.checks import check_choice, check_share
from tandem_pl.data_weights import resolve_data_weights
from tandem_pl.episode import MixtureData
from tandem_pl.errors import InputError, did_you_mean
from tandem_pl.simplex import Array, project, sum_to_one

AnchorSetting: TypeAlias = float | dict[str, Any]
KEYS, FORMS = ("share", "prior", "form"), ("projected", "exponentiated")


def anchor_weights(
    weights: Array, prior: Array, share: float, form: str = "projected", floor: float = 0.0
) -> Array:
    """Return weights [M] with a share a of the prior p0 [M] in them.

    - "projected": the nearest point of {a p0 + (1 - a) q : q a mixture, q_m >= floor}. It is
      `weights` itself, up to rounding, if these are in the set, so that repeating it in every
      update does not pull them any further.
    - "exponentiated": alpha_m^(1 - a) p0_m^a / Z. In every update of an exponentiated step it is
      mirror descent with a penalty of KL(alpha, p0). A domain without a share of the prior gets
      none.

    With a = 0 it returns `weights`, with a = 1 the prior, to the bit.

    >>> even = np.array([0.5, 0.5])
    >>> anchor_weights(np.array([1.0, 0.0]), even, 0.3).round(3).tolist()
    [0.85, 0.15]
    >>> anchor_weights(np.array([0.8, 0.2]), even, 0.5, "exponentiated").round(3).tolist()
    [0.667, 0.333]
    """
    if share == 0.0:
        return weights
    if share == 1.0:
        return prior.copy()
    if form == "projected":
        rest = project((weights - share * prior) / (1.0 - share), floor)
        return sum_to_one(share * prior + (1.0 - share) * rest)
    powers = weights ** (1.0 - share) * prior**share
    total = powers.sum()
    return sum_to_one(powers / total) if total > 0 else prior.copy()


class Anchor:
    """The `anchor` option of methods: a share, or a map of `share`, `prior` and `form`.

    It comes after a method's own bounds (`floor`, `caps`), which the weights may then leave.

    Args:
        setting: a of `anchor_weights`, 0 to 1; or {share: a, prior: mixture, form: of it}. The
            prior is written as the data module's `weights`, which it is if left out.

    Raises:
        InputError: for no share or one outside 0 to 1, an unknown key or form.

    >>> Anchor({"share": 0.3, "form": "exponentiated"}).share
    0.3
    """

    def __init__(self, setting: AnchorSetting) -> None:
        given: dict[str, Any] = {"share": setting}
        if isinstance(setting, Mapping):
            given = dict(setting)
        for key in given.keys() - set(KEYS):
            hint = did_you_mean(key, KEYS)
            raise InputError(f"anchor has the key {key!r}: {hint}use {', '.join(KEYS)}.")
        if "share" not in given:
            raise InputError(f"anchor={given} has no share: give one, from 0 to 1.")
        self.share = given["share"]
        check_share("anchor", self.share)
        self.spec, self.form = given.get("prior"), given.get("form", "projected")
        check_choice("anchor.form", self.form, FORMS)
        self._prior: Array = np.zeros(0)

    def prepare(self, data: MixtureData) -> None:
        """Read the prior."""
        self._prior = data.mixture.array
        if self.spec is not None:
            self._prior = resolve_data_weights(self.spec, data, "anchor.prior").array

    def __call__(self, weights: Array, floor: float) -> Array:
        """Return the anchored weights."""
        return anchor_weights(weights, self._prior, self.share, self.form, floor)
