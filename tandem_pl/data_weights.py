"""What a setting of weights means for given data, their target's shares included."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np
from torch.utils.data import Dataset

from .errors import InputError
from .mixture import Mixture, resolve_weights
from .simplex import Array


class Domains(Protocol):
    """What of `episode.MixtureData` says which domains there are."""

    target_sets: dict[str, Dataset]
    target_clusters: dict[str, dict[str, float]]

    @property
    def target_shares(self) -> Array | None:
        """[M'] shares of the target domains; None without target data."""

    def domain_sizes(self) -> Mapping[str, int]:
        """Return the number of training samples of each domain."""


def resolve_data_weights(
    spec: Any, data: Domains, key: str = "weights", budget: float | None = None
) -> Mixture:
    """Return the mixture of the training domains that a setting means.

    It is written as in `resolve_weights`, or as "target": see `target_mixture`.

    Args:
        spec: the setting.
        data: after its data sets are known.
        key: name of the setting, for error messages.
        budget: samples of the run, for caps on passes over a domain.

    Raises:
        InputError: for a setting that is not a mixture of these domains.
    """
    target = partial(target_mixture, data)
    return resolve_weights(spec, data.domain_sizes(), key, budget, target=target)


def target_mixture(data: Domains, key: str = "weights") -> Mixture:
    """Return p [M] = sum_t s_t q_t: the shares of the training domains in the target data.

    s_t is the share of target domain t (`target_weights`), and q_t [M] says where it lies: the
    shares of its samples that are nearest to each training domain, if these are clusters, or else
    all on the training domain of its name.

    Raises:
        InputError: there are no target data, or a target domain lies nowhere.
    """
    rows = locate_targets(data)
    if not rows:
        raise InputError(f"{key}='target' needs target data, and there are none.")
    for name, row in rows.items():
        if not row.any():
            raise InputError(
                f"{key}='target' needs every target domain to have the name of a training domain, "
                f"or training domains that are clusters, and {name!r} has neither: rename it, set "
                "cluster, or give the shares as a map."
            )
    return Mixture.from_array(data.domain_sizes(), np.sum(list(rows.values()), axis=0))


def locate_targets(data: Domains) -> dict[str, Array]:
    """Return target domain -> s_t q_t [M], as in `target_mixture`; 0 if it lies nowhere.

    Target domains without a share are left out.
    """
    names, rows = data.domain_sizes(), {}
    if data.target_shares is not None:
        for target, share in zip(data.target_sets, data.target_shares.tolist(), strict=True):
            nearest = data.target_clusters.get(target, {target: 1.0})
            if share:
                rows[target] = share * np.array([nearest.get(name, 0.0) for name in names])
    return rows
