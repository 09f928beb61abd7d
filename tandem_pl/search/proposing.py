"""Propose a mixture: minimise what laws predict, near a prior and within bounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tandem_pl.checks import check_choice, check_not_negative
from tandem_pl.domain_names import list_names
from tandem_pl.errors import InputError, did_you_mean
from tandem_pl.mixture import Mixture
from tandem_pl.simplex import Array

from .bounds import Bounds, PerDomain, make_bounds
from .expectations import expect, find_doubts
from .fitting import Law
from .proposal import Proposal
from .reuse import FrozenDomains
from .runs import as_share, as_weights
from .solver import Goal, allowed, descend, refine, sample, values_of, with_kl

METHODS = OPTIMUM, TOP_MEAN = "optimum", "top_mean"
BEST_STARTS = 4
STRENGTHS = (1.0, 5.0, 25.0)  # of Dirichlet samples for laws that are not convex
LEAST_PRIOR = 1e-3  # share in these samples of a domain that the prior leaves out
SMOOTH_SAVING = 5  # a fifth of the samples is enough if gradients lead on


def propose(
    laws: Mapping[str, Law],
    prior: PerDomain | Mixture = None,
    kl: float = 0.05,
    caps: PerDomain = None,
    floors: PerDomain | float = None,
    *,
    tokens_per_domain: PerDomain = None,
    tokens: float | None = None,
    repeats: float | None = None,
    metric_weights: Mapping[str, float] | None = None,
    no_worse: bool | Sequence[str] = False,
    reference: PerDomain | Mixture = None,
    method: str = OPTIMUM,
    samples: int = 100_000,
    top: int = 128,
    seed: int = 0,
    frozen: FrozenDomains | None = None,
) -> Proposal:
    """Return the mixture p that minimises Σ w_i f_i(p) + kl · KL(p ‖ prior).

    Args:
        laws: name -> f_i, all on the same domains.
        prior: shares, such as those of all available data; None for the mean of the runs.
        kl: strength of the pull to the prior, in the metrics' units; Olmix (arXiv 2602.12237) has
            0.05.
        caps: largest share of each domain.
        floors: least share of each domain, or one for all.
        tokens_per_domain: N_j; with `tokens` and `repeats`, p_j <= repeats · N_j / tokens.
        tokens: R, of the final run.
        repeats: k, the most passes over a domain.
        metric_weights: name -> w_i, negative for a metric that should rise; None for equal shares.
        no_worse: metrics that must not be worse than at the reference; True for all.
        reference: mixture that the gain is over; None for the prior.
        method: "optimum", or "top_mean": the mean of the `top` best of `samples` mixtures from
            Dirichlet(prior), RegMix's (arXiv 2407.01492), which has no KL.
        samples: mixtures drawn, by "top_mean" and for laws that are not convex.
        top: mixtures in the mean.
        seed: of starts and samples.
        frozen: the laws are on runs that it collapsed; then prior, reference and bounds are those
            of the real domains.

    Raises:
        InputError: laws on other domains, unknown metrics, bounds that no mixture meets, or no
            mixture with all metrics as good as the reference's.
    """
    domains = _common_domains(laws)
    check_choice("method", method, METHODS)
    check_not_negative("kl", kl)
    if not 1 <= top <= samples:
        raise InputError(f"top={top} must be at least 1 and at most samples={samples}.")
    weights = weigh_metrics(laws, metric_weights)
    first = next(iter(laws.values()))
    mean = first.runs.weights.mean(axis=0)
    centre = mean if prior is None else _share(prior, domains, "prior", frozen)
    base = centre if reference is None else _share(reference, domains, "reference", frozen)
    real = domains if frozen is None else frozen.real_domains(domains)
    bounds = make_bounds(real, floors, caps, tokens_per_domain, tokens, repeats)
    if frozen is not None:
        bounds = frozen.collapse_bounds(bounds, real)
    pulled = kl if method == OPTIMUM else 0.0
    if pulled > 0:
        bounds = _stay_on_prior(bounds, centre, domains)
    limited = _limited(no_worse, laws)
    goal = with_kl(_goal(laws, weights, limited, base), pulled, centre)
    generator = np.random.default_rng(seed)
    if method == TOP_MEAN:
        point = _top_mean(goal, bounds, centre, samples, top, generator)
    else:
        positive = all(weight >= 0 for weight in weights.values())
        point = _optimum(goal, bounds, laws, centre, positive, samples, generator)
    if point is None:
        raise InputError(
            f"no mixture within the bounds is as good as the reference in {list_names(limited)}: "
            "raise caps (or repeats), or leave metrics out of no_worse."
        )
    settings: dict[str, Any] = {
        "law": sorted({law.name for law in laws.values()}),
        "runs": len(first.runs),
        "method": method,
        "kl": pulled,
        "metric_weights": weights,
        "seed": seed,
    }
    if sums := {name: list(law.parts) for name, law in laws.items() if law.parts}:
        settings["sums"] = sums
    if repeats is not None:
        settings |= {"tokens": tokens, "repeats": repeats}
    metrics, total, start, error = expect(laws, weights, point, base)
    return Proposal(
        weights=dict(zip(domains, point.tolist(), strict=True)),
        prior=dict(zip(domains, centre.tolist(), strict=True)),
        reference=dict(zip(domains, base.tolist(), strict=True)),
        predicted=total,
        predicted_reference=start,
        error=error,
        metrics=metrics,
        laws=laws,
        metric_weights=weights,
        settings=settings,
        warnings=tuple(find_doubts(laws, point, start - total, error)),
        frozen=frozen,
    )


def _common_domains(laws: Mapping[str, Law]) -> tuple[str, ...]:
    if not laws:
        raise InputError("propose needs at least one law: fit one with fit_law.")
    domains = next(iter(laws.values())).runs.domains
    for name, law in laws.items():
        if law.runs.domains != domains:
            raise InputError(
                f"law {name!r} has the domains {list_names(law.runs.domains)} and another has "
                f"{list_names(domains)}: fit all on the same columns."
            )
    return domains


def weigh_metrics(metrics: Iterable[str], given: Mapping[str, float] | None) -> dict[str, float]:
    """Return the weight of each metric: 0 if it is not given, equal ones without any.

    Raises:
        InputError: an unknown metric, or weights that cannot be used.
    """
    names = list(metrics)
    if given is None:
        return dict.fromkeys(names, 1.0 / len(names))
    for name, weight in given.items():
        if name not in names:
            raise InputError(
                f"metric_weights names the unknown metric {name!r}: {did_you_mean(name, names)}"
                f"the metrics are {list_names(names)}."
            )
        if not np.isfinite(weight):
            raise InputError(f"metric_weights[{name!r}]={weight} must be a number.")
    weights = {name: float(given.get(name, 0.0)) for name in names}
    if not any(weights.values()):
        raise InputError("metric_weights are all 0: give at least one metric a weight.")
    return weights


def _share(
    given: PerDomain | Mixture, domains: tuple[str, ...], key: str, frozen: FrozenDomains | None
) -> Array:
    given = given.weights if isinstance(given, Mixture) else given
    if frozen is not None:
        real = frozen.real_domains(domains)
        share = as_weights(given, real, key)[0]
        given = frozen.collapse_weights(dict(zip(real, share.tolist(), strict=True)))
    return as_share(given, domains, key)


def _limited(no_worse: bool | Sequence[str], laws: Mapping[str, Law]) -> list[str]:
    if isinstance(no_worse, bool):
        return list(laws) if no_worse else []
    for name in no_worse:
        if name not in laws:
            raise InputError(
                f"no_worse names the unknown metric {name!r}: {did_you_mean(name, laws)}"
                f"the metrics are {list_names(laws)}."
            )
    return list(no_worse)


def _stay_on_prior(bounds: Bounds, prior: Array, domains: Sequence[str]) -> Bounds:
    """Return bounds with 0 where the prior is 0, since KL is infinite elsewhere."""
    raised = (prior == 0) & (bounds.lower > 0)
    upper = np.where(prior > 0, bounds.upper, 0.0)
    if raised.any() or upper.sum() < 1.0 - 1e-12:
        unused = [name for name, share in zip(domains, prior, strict=True) if share == 0]
        raise InputError(
            f"the prior gives {list_names(unused)} no share, so that KL keeps them at 0, and the "
            "bounds do not allow it: give them a share in the prior, or set kl=0."
        )
    return Bounds(bounds.lower, upper)


def _goal(
    laws: Mapping[str, Law], weights: Mapping[str, float], limited: Sequence[str], base: Array
) -> Goal:
    used = [(weight, laws[name]) for name, weight in weights.items() if weight]

    def values(points: Array) -> Array:
        parts = [weight * law.predict_by(law.model, points) for weight, law in used]
        return np.sum(parts, axis=0, dtype=np.float64)

    def gradient(point: Array) -> Array:
        return np.sum([weight * law.gradient(point) for weight, law in used], axis=0)

    limits = []
    for name in limited:
        law, sign = laws[name], -1.0 if weights[name] < 0 else 1.0
        most = float(law.predict_by(law.model, base[None])[0])
        limits.append(
            (
                lambda points, law=law, sign=sign, most=most: (
                    sign * (law.predict_by(law.model, points) - most)
                ),
                lambda point, law=law, sign=sign: sign * law.gradient(point),
            )
        )
    return Goal(values, gradient, limits)


def _optimum(
    goal: Goal,
    bounds: Bounds,
    laws: Mapping[str, Law],
    prior: Array,
    convex: bool,
    samples: int,
    generator: np.random.Generator,
) -> Array | None:
    """Return the optimum, or None if no mixture is allowed.

    Convex laws are minimised from a few starts. For the others samples are refined first, and
    gradients, if there are any, lead on from the best. `convex`: whether the sum of convex laws is.
    """
    runs = next(iter(laws.values())).runs.weights
    near = bounds.put_inside(np.vstack([prior, np.full_like(prior, 1.0 / len(prior)), runs]))
    kinds = [law.kind for law in laws.values()]
    smooth = all(kind.smooth for kind in kinds)
    if convex and all(kind.convex for kind in kinds):
        order = np.argsort(goal.values(near), kind="stable")[:BEST_STARTS]
        return descend(goal, bounds, [*near[:2], *near[order]])
    share = np.maximum(prior, LEAST_PRIOR) / np.maximum(prior, LEAST_PRIOR).sum()
    number = samples // len(STRENGTHS) // (SMOOTH_SAVING if smooth else 1)
    parts = [sample(share, bounds, number, strength, generator) for strength in STRENGTHS]
    best = refine(goal, bounds, np.vstack([near, *parts]), generator)
    if smooth:
        return descend(goal, bounds, [*near[:2], *best[:BEST_STARTS]])
    return bounds.settle(best[0]) if allowed(goal, best[:1]).all() else None


def _top_mean(
    goal: Goal,
    bounds: Bounds,
    prior: Array,
    samples: int,
    top: int,
    generator: np.random.Generator,
) -> Array | None:
    drawn = sample(prior, bounds, samples, 1.0, generator)
    values = values_of(goal, drawn)
    best = np.argsort(values, kind="stable")[:top]
    best = best[np.isfinite(values[best])]
    if not len(best):
        return None
    point = bounds.settle(drawn[best].mean(axis=0))
    return point if allowed(goal, point[None]).all() else bounds.settle(drawn[best[0]])
