"""Domain weights with names: `Mixture`, its file, and the ways a user can write one."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from .domain_names import check_domains, check_known, check_texts
from .errors import InputError
from .files import write_atomically
from .mixture_files import read_mixture
from .simplex import Array, project, sum_to_one
from .static_mixtures import epoch_capped, unimax
from .yaml_files import dump_yaml


class Mixture:
    """How much of each domain to draw: float64 shares that sum to 1.

    Args:
        weights: domain -> any non-negative number; divided by their sum.
        average: the mean over the second half of the run that learned the weights, less noisy
            than the last value and the default to train with. Without one it equals `weights`.
        about: plain facts saved beside the weights: method, settings, steps, versions.

    Raises:
        InputError: for negative, NaN, infinite or all-zero weights, or no domain.

    >>> mixture = Mixture({"code": 3, "books": 1})
    >>> mixture.weights
    {'code': 0.75, 'books': 0.25}
    >>> mixture.mix(Mixture.uniform(["code", "books"]), 0.5).weights["code"]
    0.625
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        average: Mapping[str, float] | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.domains = check_texts(weights, "weights")
        self.array: Array = _normalise(self.domains, weights, "weights")
        self.average_array: Array = self.array
        if average is not None:
            check_domains(check_texts(average, "average"), self.domains, "average")
            self.average_array = _normalise(self.domains, average, "average")
        self.about: dict[str, Any] = dict(about or {})

    @property
    def weights(self) -> dict[str, float]:
        """Domain -> weight, last value."""
        return dict(zip(self.domains, self.array.tolist(), strict=True))

    @property
    def average(self) -> dict[str, float]:
        """Domain -> mean weight over the second half of the trajectory."""
        return dict(zip(self.domains, self.average_array.tolist(), strict=True))

    @classmethod
    def uniform(cls, domains: Iterable[str]) -> Mixture:
        """Return the same share for each domain."""
        return cls(dict.fromkeys(domains, 1.0))

    @classmethod
    def proportional(cls, sizes: Mapping[str, float]) -> Mixture:
        """Return shares proportional to size in samples: equally many epochs of each domain."""
        return cls(sizes)

    @classmethod
    def temperature(cls, sizes: Mapping[str, float], tau: float) -> Mixture:
        """Return shares proportional to size^(1/tau): proportional for tau=1, uniform for large."""
        if not (math.isfinite(tau) and tau > 0):
            raise InputError(f"temperature:{tau} must be a positive number, such as temperature:2.")
        return cls.proportional(sizes).tempered(tau)

    @classmethod
    def unimax(cls, sizes: Mapping[str, int], budget: float, epochs: float) -> Mixture:
        """Return the most uniform mixture of `budget` samples with at most `epochs` of a domain."""
        return cls.from_array(sizes, unimax(list(sizes.values()), budget, epochs))

    @classmethod
    def epoch_capped(
        cls, sizes: Mapping[str, int], budget: float, epochs: float, start: Any = "temperature:2"
    ) -> Mixture:
        """Return `start`, bounded so that `budget` samples see no domain more than `epochs` times.

        `start` is written as in `resolve_weights`; what is cut off goes to the other domains.
        """
        shares = resolve_weights(start, sizes, "start").array
        return cls.from_array(sizes, epoch_capped(shares, list(sizes.values()), budget, epochs))

    @classmethod
    def from_array(cls, domains: Iterable[str], array: Array, **more: Any) -> Mixture:
        """Make a mixture from [M] numbers in the order of `domains`."""
        return cls(dict(zip(domains, np.asarray(array, np.float64).tolist(), strict=True)), **more)

    def tempered(self, tau: float) -> Mixture:
        """Return weights to the power 1/tau, normalised. Zero stays zero."""
        log = np.log(self.array, where=self.array > 0, out=np.full(len(self.array), -np.inf))
        return Mixture.from_array(self.domains, np.exp((log - log.max()) / tau))

    def mix(self, other: Mixture, share: float) -> Mixture:
        """Return (1 - share) * self + share * other."""
        check_domains(other.domains, self.domains, "mix")
        weights = other.weights
        there = np.array([weights[name] for name in self.domains])
        return Mixture.from_array(self.domains, (1 - share) * self.array + share * there)

    def restrict(self, domains: Iterable[str]) -> Mixture:
        """Return the mixture of these domains alone, normalised."""
        weights = self.weights
        kept = {name: weights[name] for name in check_known(domains, self.domains, "restrict")}
        return Mixture(kept)

    def project(self, floor: float = 0.0, caps: Mapping[str, float] | None = None) -> Mixture:
        """Return the nearest mixture with every weight in [floor, cap] (see `simplex.project`)."""
        upper = np.ones(len(self.domains))
        place = {name: m for m, name in enumerate(self.domains)}
        for name in check_known(caps or {}, self.domains, "caps"):
            upper[place[name]] = (caps or {})[name]
        return Mixture.from_array(self.domains, project(self.array, floor, upper))

    def entropy(self) -> float:
        """Return -sum alpha log alpha, in nats."""
        positive = self.array[self.array > 0]
        return float(-(positive * np.log(positive)).sum())

    def effective_domains(self) -> float:
        """Return exp(entropy): 1 for one domain alone, M for uniform."""
        return math.exp(self.entropy())

    def distance(self, other: Mixture) -> float:
        """Return total variation, half the sum of |differences|: the share of data that moves."""
        check_domains(other.domains, self.domains, "distance")
        weights = other.weights
        there = np.array([weights[name] for name in self.domains])
        return float(0.5 * np.abs(self.array - there).sum())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a YAML file that `load` reads back bit for bit; it is complete or absent."""
        weights = {"weights": self.weights, "average": self.average}
        content = {**weights, **self.about, **weights}  # `about` cannot replace the weights
        write_atomically(path, dump_yaml(content).encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str], key: str = "weights") -> Mixture:
        """Read a run's folder, a file that `save` wrote, or another one; see `read_mixture`."""
        content = read_mixture(path, key)
        weights, average = content.pop("weights"), content.pop("average", None)
        return cls(weights, average, content)

    def __getitem__(self, domain: str) -> float:
        return self.weights[domain]

    def __len__(self) -> int:
        return len(self.domains)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Mixture)
            and self.weights == other.weights
            and self.average == other.average
        )

    __hash__ = None  # type: ignore[assignment] # mutable `about`: not hashable

    def __repr__(self) -> str:
        shares = ", ".join(f"{name}: {weight:.4f}" for name, weight in self.weights.items())
        return f"Mixture({shares})"


def resolve_weights(
    spec: Any,
    sizes: Mapping[str, int],
    key: str = "weights",
    budget: float | None = None,
    partial: bool = False,
    target: Callable[[str], Mixture] | None = None,
) -> Mixture:
    """Return the mixture that a user's `weights` setting means.

    Args:
        spec: None or "uniform"; "proportional"; "temperature:TAU"; "unimax:EPOCHS:SAMPLES" for
            uniform, capping each domain at EPOCHS passes in a run of so many samples;
            "epoch_capped:EPOCHS:SAMPLES:SPEC" for another spec with the same caps (SPEC defaults to
            temperature:2, and SAMPLES, which may be left out, to `budget`); "target", where it is
            known; a map; a `Mixture`, or the path of a mixture file, which may be DoReMi's JSON, or
            of the folder of a run (their average); "last:PATH" for a file's last weights.
        sizes: domain -> number of samples, in the order of the data set.
        key: name of the setting, for error messages.
        budget: samples of the run, for a spec without SAMPLES ("unimax:4").
        partial: whether a map may leave domains out, which then have weight 0.
        target: key -> the mixture that the spec "target" stands for; see `resolve_data_weights`.

    Raises:
        InputError: for a setting that is not a mixture of these domains.

    >>> resolve_weights("temperature:2", {"web": 100, "code": 25}).weights
    {'web': 0.6666666666666666, 'code': 0.3333333333333333}
    """
    if spec is None or spec == "uniform":
        return Mixture.uniform(sizes)
    if spec == "proportional":
        return Mixture.proportional(sizes)
    if spec == "target":
        if target is None:
            raise InputError(
                f"{key}='target' is not known here: 'target' is the target's shares of the "
                "training domains, in settings of a run on these data."
            )
        return target(key)
    if isinstance(spec, str) and spec.startswith("temperature:"):
        try:
            return Mixture.temperature(sizes, float(spec.split(":", 1)[1]))
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{key}={spec!r} needs a number, such as 'temperature:2'.") from None
    if isinstance(spec, str) and spec.split(":")[0] in ("unimax", "epoch_capped"):
        return _bounded(spec, sizes, key, budget, target)
    about: dict[str, Any] = {}
    if isinstance(spec, str | os.PathLike):
        last = str(spec).startswith("last:")
        mixture = Mixture.load(str(spec).removeprefix("last:"), key)
        given, about = mixture.weights if last else mixture.average, mixture.about
    elif isinstance(spec, Mixture):
        given = spec.average
    elif isinstance(spec, Mapping):
        check_texts(spec, key)
        given = dict(spec)
    else:
        raise InputError(
            f"{key}={spec!r} is not a mixture: give a name, a map, a Mixture or a file."
        )
    checked = _normalise(tuple(given), given, key)
    if not (partial and isinstance(spec, Mapping)):
        check_domains(given, sizes, key)
    check_known(given, sizes, key)
    by_name = dict.fromkeys(sizes, 0.0) | dict(zip(given, checked.tolist(), strict=True))
    return Mixture.from_array(sizes, np.array([by_name[name] for name in sizes]), about=about)


def _bounded(
    spec: str,
    sizes: Mapping[str, int],
    key: str,
    budget: float | None,
    target: Callable[[str], Mixture] | None,
) -> Mixture:
    rule, epochs, rest = [*spec.split(":", 2), "", ""][:3]
    samples, _, start = rest.partition(":")
    if samples and not _is_number(samples):
        samples, start = "", rest
    if start and rule == "unimax":
        raise InputError(
            f"{key}={spec!r}: unimax is uniform but for its limits; write epoch_capped:{epochs}:"
            f"{start} for another mixture with the same limits."
        )
    try:
        bounds = float(samples) if samples or budget is None else budget, float(epochs)
    except ValueError:
        raise InputError(
            f"{key}={spec!r} needs the most epochs of a domain and the samples of the run, such as "
            f"'{rule}:4:64000'."
        ) from None
    try:
        if rule == "unimax":
            return Mixture.unimax(sizes, *bounds)
        shares = resolve_weights(start or "temperature:2", sizes, "start", target=target)
        return Mixture.epoch_capped(sizes, *bounds, shares)
    except InputError as error:
        raise InputError(f"{key}={spec!r}: {error}") from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _normalise(domains: tuple[str, ...], weights: Mapping[str, float], key: str) -> Array:
    if not domains:
        raise InputError(f"{key} is empty: give at least one domain a weight.")
    values = []
    for name in domains:
        try:
            value = float(weights[name])
        except (TypeError, ValueError):
            value = math.nan
        if not (math.isfinite(value) and value >= 0):
            raise InputError(
                f"{key}[{name!r}]={weights[name]!r} must be a finite number, 0 or more."
            )
        values.append(value)
    array = np.array(values, dtype=np.float64)
    if array.max() == 0:
        raise InputError(f"{key} are all 0: give at least one domain a positive weight.")
    if abs(array.sum() - 1.0) <= 1e-15 * len(array):
        return array  # normalised already: keep the bits, so that files and states round-trip
    array = array / array.max()  # so that neither huge nor tiny numbers overflow the sum
    return sum_to_one(array / array.sum())
