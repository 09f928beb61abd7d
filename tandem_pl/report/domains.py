"""What a report says of each domain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tandem_pl.errors import InputError
from tandem_pl.mixture import Mixture, check_domains
from tandem_pl.steadiness import (
    Interval,
    centred,
    evenly_scaled,
    last_quarters,
    mean_gradients,
)

from .run import Run
from .statistics import batch_means, significance

EPOCHS_LIMIT = 4.0  # Muennighoff et al. 2023, arXiv 2305.16264


class DomainSummary(NamedTuple):
    """One domain; None for what is not known.

    Weights are shares of samples. `spread` is the standard deviation of the weight over the second
    half of the run, `drift` its mean over the fourth quarter minus that over the third. `late` is
    the mean of the centred hyper-gradient in nats over the second half, `mean` that over the whole
    run; updates weigh as in `evenly_scaled`. `significant` is whether `mean` differs from 0 beyond
    chance in a run that is not too short to judge, see `significant_moves`. `epochs` are
    the passes over the domain in this run, `final_epochs` those in the final one. `seeds` is the
    mean and the standard deviation of the average weights of this run and its repetitions.
    """

    name: str
    start: float
    average: float
    last: float
    spread: float
    drift: float
    late: Interval | None
    mean: Interval | None
    significant: bool
    epochs: float | None
    final_epochs: float | None
    seeds: tuple[float, float] | None = None


def summarize_domains(
    run: Run,
    tokens: float | None = None,
    tokens_per_domain: Mapping[str, float] | None = None,
    samples: float | None = None,
    others: Sequence[Mixture] = (),
) -> list[DomainSummary]:
    """Summarize each domain, in the order of the run.

    Args:
        run: see `read_run`.
        tokens: length of the final run in tokens, or None.
        tokens_per_domain: tokens that the final run has of each domain; None for those of this
            run's training data.
        samples: length of the final run in samples, for data without tokens.
        others: mixtures of runs that repeat this one, for example with other seeds.

    Raises:
        InputError: the others have other domains.
    """
    for other in others:
        check_domains(other.domains, run.mixture.domains, "seeds")
    names = run.mixture.domains
    third, fourth = last_quarters(run.weights)
    spread = run.weights[len(run.weights) // 2 :].std(axis=0)
    drift = fourth.mean(axis=0) - third.mean(axis=0)
    late: Sequence[Interval | None] = [None] * len(names)
    means, significant = late, significance(run) or {}
    if run.signal is not None:
        deltas = centred(run.signal)
        late = batch_means(evenly_scaled(deltas[len(deltas) // 2 :]))
        means = mean_gradients(run.signal)
    epochs = run.mixture.about.get("epochs") or {}
    final = final_epochs(run.mixture, tokens, tokens_per_domain, samples)
    averages = [mixture.average for mixture in (run.mixture, *others)]
    return [
        DomainSummary(
            name,
            float(run.weights[0, m]),
            averages[0][name],
            float(run.mixture.array[m]),
            float(spread[m]),
            float(drift[m]),
            late[m],
            means[m],
            significant.get(name, False),
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
    """Return the passes over each domain in a run of the average weights and a given length.

    Weights are shares of samples; tokens a sample are those that the run counted for each domain.
    Empty without a length; a domain whose size is unknown, because nothing of it was drawn and the
    run kept no sizes, is left out. Sizes are those of the whole domains, also if the run drew from
    pools (`final_samples`).

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
    sizes |= (mixture.about.get("data") or {}).get("samples") or {}
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


def _mean_and_sd(values: list[float]) -> tuple[float, float] | None:
    return (float(np.mean(values)), float(np.std(values, ddof=1))) if len(values) > 1 else None
