"""What a run's files say for a decision: weights, hyper-gradients, epochs, and their spread."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tandem_pl.errors import InputError
from tandem_pl.mixture import Mixture, check_domains
from tandem_pl.run_files import Signal, read_signal, read_trajectory
from tandem_pl.simplex import Array

EPOCHS_LIMIT = 4.0  # Muennighoff et al. 2023, arXiv 2305.16264
LEAST_UPDATES = 8  # that an interval needs
LEAST_JUDGED = 16  # of the last half, to judge its quarters by
MOVED = 0.02  # share of the data that may move between quarters of a settled run
NOISY = 0.05  # share of the data that single weights may stray by in a settled run
# 97.5 % quantiles of Student's t for 3, 4, ... degrees of freedom.
STUDENT = (
    *(3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145),
    *(2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056),
)


class Run(NamedTuple):
    """The files of a run: `steps` [T] and `weights` [T, M] are the trajectory.

    `signal` is the hyper-gradient, None for a method without one; `settings` are the method's.
    """

    folder: Path
    mixture: Mixture
    steps: list[int]
    weights: Array
    signal: Signal | None

    @property
    def settings(self) -> Mapping[str, Any]:
        """The method's settings, as mixture.yaml has them."""
        return self.mixture.about.get("settings") or {}

    @property
    def learned(self) -> bool:
        """Whether a method chose the weights, rather than the user."""
        return self.mixture.about.get("method") != "fixed"

    @property
    def updates(self) -> int:
        """Updates of the weights; the trajectory of a long run of many domains has fewer rows."""
        return int(self.mixture.about.get("episodes", len(self.weights) - 1))

    def thinned(self, name: str) -> int:
        """Updates that a row of `name`.csv stands for."""
        return int((self.mixture.about.get("thinned") or {}).get(name, 1))


class Interval(NamedTuple):
    """A mean and the half width of its 95 % confidence interval (NaN: too few numbers)."""

    mean: float
    half: float

    @property
    def distinct(self) -> bool:
        """Whether the interval leaves out 0."""
        return abs(self.mean) > self.half


class Row(NamedTuple):
    """One domain.

    Weights are shares of samples. `spread` is the standard deviation of the weight over the last
    half of the run, `drift` its mean over the fourth quarter less that over the third. `late` is
    the centred hyper-gradient in nats, its mean over the last half; `way` its mean over what moved
    the average, see `on_the_way`. `epochs` were seen in this run; `final_epochs` would be in the
    final one. `seeds` is the mean and the standard deviation of the average weights of this run
    and its repetitions. None where it is not known.
    """

    name: str
    start: float
    average: float
    last: float
    spread: float
    drift: float
    late: Interval | None
    way: Interval | None
    epochs: float | None
    final_epochs: float | None
    seeds: tuple[float, float] | None = None


class Stability(NamedTuple):
    """`verdict` is "settled", "drifting", "noisy", "given" or "too short to judge".

    `moved` is half the sum of the domains' |drift|: the share of the data that moved between the
    third and the fourth quarter. `stray` is half the sum of the weights' standard deviations
    within these quarters.
    """

    verdict: str
    moved: float
    stray: float


def read_run(folder: Path) -> Run:
    """Reads the files of a run.

    Raises:
        InputError: no mixture.yaml or trajectory.csv there, or one that cannot be read.
    """
    path = folder / "mixture.yaml"
    if not path.is_file():
        raise InputError(f"{folder} has no mixture.yaml: give the folder of a run.")
    mixture = Mixture.load(path)
    domains, steps, weights = read_trajectory(folder / "trajectory.csv")
    signal = None
    if (folder / "hyper_gradient.csv").is_file():
        names, signal = read_signal(folder / "hyper_gradient.csv")
        if not len(signal.steps):
            signal = None
        elif names != domains or "delta" not in signal.columns:
            raise InputError(f"{folder}: hyper_gradient.csv and trajectory.csv differ in domains.")
    if list(mixture.domains) != domains:
        raise InputError(f"{folder}: mixture.yaml and trajectory.csv have different domains.")
    return Run(folder, mixture, steps, weights, signal)


def batch_means(values: Array) -> list[Interval]:
    """Means of correlated series [T, M], with 95 % confidence intervals.

    The method of batch means: a series is cut into batches of about sqrt(T) numbers, whose means
    are nearly independent, and Student's t is applied to these. So the correlation of neighbours
    is taken into account; intervals are wide where there are few batches, and NaN where T < 8.

    >>> batch_means(np.array([[1.0], [3.0]] * 8))
    [Interval(mean=2.0, half=0.0)]
    """
    means = values.mean(axis=0)
    if len(values) < LEAST_UPDATES:
        return [Interval(mean, math.nan) for mean in means.tolist()]
    size = math.isqrt(len(values))
    count = len(values) // size
    batches = values[len(values) - size * count :].reshape(count, size, -1).mean(axis=1)
    quantile = STUDENT[count - 4] if count - 4 < len(STUDENT) else 1.96
    halves = quantile * batches.std(axis=0, ddof=1) / math.sqrt(count)
    return [Interval(*pair) for pair in zip(means.tolist(), halves.tolist(), strict=True)]


def centred(signal: Signal) -> Array:
    """Delta less its mean over the domains [T, M]: the projection takes out a common shift."""
    delta = signal.values[:, signal.columns.index("delta")]
    return delta - delta.mean(axis=1, keepdims=True)


def on_the_way(run: Run) -> list[Interval]:
    """The centred hyper-gradients that made the change from the first weights to the average.

    Means in which an update weighs by its share in the average over the second half of the run:
    1 in the first half, falling to 0 towards the end. Where no weight met a bound, the change is
    exactly minus learning rate, penalty, sum of these shares and this mean, multiplied. The 95 %
    interval, 1.96 times the root of the sum of squares, holds for updates of any, also of changing
    noise, as long as their noise is independent; NaN for fewer than 8 updates.
    """
    assert run.signal is not None
    gaps, total, first = centred(run.signal), len(run.weights), len(run.weights) // 2
    rows = np.interp(run.signal.steps, run.steps, np.arange(total))  # in between, where thinned
    share = ((total - np.maximum(rows, first)) / (total - first))[:, None]
    means = (share * gaps).sum(axis=0) / share.sum()
    halves = 1.96 * np.sqrt(((share * gaps) ** 2).sum(axis=0)) / share.sum()
    if len(gaps) < LEAST_UPDATES:
        halves[:] = math.nan
    return [Interval(*pair) for pair in zip(means.tolist(), halves.tolist(), strict=True)]


def stability(run: Run) -> Stability:
    """Compares the third and the fourth quarter of the trajectory.

    Drifting where the quarters' means differ by more than 2 % of the data and by more than the
    weights stray within a quarter; else noisy where they differ by more than 2 % or stray by more
    than 5 %; else settled.
    """
    third, fourth = _quarters(run.weights)
    moved = 0.5 * float(np.abs(fourth.mean(axis=0) - third.mean(axis=0)).sum())
    stray = 0.5 * float(np.sqrt((third.var(axis=0) + fourth.var(axis=0)) / 2).sum())
    if not run.learned:
        return Stability("given", moved, stray)
    if len(third) + len(fourth) < LEAST_JUDGED:
        return Stability("too short to judge", moved, stray)
    if moved > MOVED and moved > stray:
        return Stability("drifting", moved, stray)
    return Stability("noisy" if moved > MOVED or stray > NOISY else "settled", moved, stray)


def domain_rows(
    run: Run,
    tokens: float | None = None,
    tokens_per_domain: Mapping[str, float] | None = None,
    samples: float | None = None,
    others: Sequence[Mixture] = (),
) -> list[Row]:
    """One row a domain, in the order of the run.

    Args:
        run: see `read_run`.
        tokens: length of the final run; None for none.
        tokens_per_domain: tokens that the final run has of each domain; None for those of this
            run's training data.
        samples: length of the final run in samples, for data without tokens.
        others: of runs that repeat this one, for example with other seeds.

    Raises:
        InputError: the others have other domains.
    """
    for other in others:
        check_domains(other.domains, run.mixture.domains, "seeds")
    names = run.mixture.domains
    third, fourth = _quarters(run.weights)
    half = run.weights[len(run.weights) // 2 :]
    drift = fourth.mean(axis=0) - third.mean(axis=0)
    late: Sequence[Interval | None] = [None] * len(names)
    way = late
    if run.signal is not None:
        gaps = centred(run.signal)
        late, way = batch_means(gaps[len(gaps) // 2 :]), on_the_way(run)
    epochs = run.mixture.about.get("epochs") or {}
    final = final_epochs(run.mixture, tokens, tokens_per_domain, samples)
    averages = [mixture.average for mixture in (run.mixture, *others)]
    spread = half.std(axis=0)
    return [
        Row(
            name,
            float(run.weights[0, m]),
            averages[0][name],
            float(run.mixture.array[m]),
            float(spread[m]),
            float(drift[m]),
            late[m],
            way[m],
            epochs.get(name),
            final.get(name),
            _mean_and_sd([average[name] for average in averages]),
        )
        for m, name in enumerate(names)
    ]


def final_epochs(
    mixture: Mixture,
    tokens: float | None = None,
    tokens_per_domain: Mapping[str, float] | None = None,
    samples: float | None = None,
) -> dict[str, float]:
    """Passes over each domain in a run of the average weights and a given length.

    Weights are shares of samples; where samples of different domains have different numbers of
    tokens, those of the run that learned the weights are used. Empty without a length; a domain
    is left out where its size is not known, since nothing was drawn of it.

    Raises:
        InputError: a length that is not positive, or tokens for a run that counted none.

    >>> about = {"samples": {"a": 100, "b": 50}, "epochs": {"a": 1.0, "b": 5.0}}
    >>> final_epochs(Mixture({"a": 0.5, "b": 0.5}, about=about), samples=200)
    {'a': 1.0, 'b': 10.0}
    """
    for key, value in (("tokens", tokens), ("samples", samples)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise InputError(f"--{key}={value:g} must be a positive number, such as 1e9.")
    if tokens is None and samples is None:
        return {}
    drawn = mixture.about.get("samples") or {}
    passes = mixture.about.get("epochs") or {}
    counted = mixture.about.get("tokens")
    if tokens is not None and counted is None and tokens_per_domain is None:
        raise InputError(
            "--tokens needs a run that counted tokens, and this one's data has no "
            "tokens_per_sample: give --samples, the length in samples."
        )
    known = [name for name in mixture.domains if drawn.get(name)]
    length = dict.fromkeys(mixture.domains, 1.0)  # tokens a sample
    sizes = {name: drawn[name] / passes[name] for name in known if passes.get(name)}
    if tokens is not None:
        if counted is not None and known:
            length = {name: counted[name] / drawn[name] for name in known}
            usual = sum(length.values()) / len(length)
            length |= {name: usual for name in mixture.domains if name not in length}
        sizes = {name: size * length[name] for name, size in sizes.items()}
    if tokens_per_domain is not None:
        sizes = {name: float(size) for name, size in tokens_per_domain.items() if size > 0}
    asked = {name: share * length[name] for name, share in mixture.average.items()}
    total = (tokens if tokens is not None else samples or 0.0) / sum(asked.values())
    return {name: total * asked[name] / sizes[name] for name in mixture.domains if name in sizes}


def _quarters(weights: Array) -> tuple[Array, Array]:
    half = weights[len(weights) // 2 :]
    middle = len(half) // 2
    return half[:middle] if middle else half, half[middle:]


def _mean_and_sd(values: list[float]) -> tuple[float, float] | None:
    return (float(np.mean(values)), float(np.std(values, ddof=1))) if len(values) > 1 else None
