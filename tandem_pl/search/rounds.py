"""Search in rounds: evaluate mixtures, fit a law, evaluate those that it likes, and again.

It is for evaluations that are cheap beside a run, such as those of merged networks (DeMix,
arXiv 2602.00747, and MergeMix, 2601.17858), and takes any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tandem_pl.errors import InputError
from tandem_pl.simplex import Array

from .bounds import PerDomain, make_bounds
from .fitting import fit_law
from .laws import find_law
from .proposal import Proposal
from .proposing import propose
from .runs import Runs, as_share
from .solver import sample

STRENGTHS = (0.5, 5.0)  # of Dirichlet candidates, DeMix's
FLATTER = 0.7  # power of the prior that candidates are drawn around
MOST_OF_PRIOR = 4.0  # times the prior's share of a domain, in candidates
CANDIDATES = 50  # of which each mixture that is evaluated is the best predicted
SAMPLES, TOP = 200_000, 1280  # whose mean is the proposal


def search_in_rounds(
    evaluate: Callable[[Array], Runs],
    domains: Sequence[str],
    prior: PerDomain = None,
    rounds: Sequence[int] = (96, 48, 24),
    law: str = "lightgbm",
    caps: PerDomain = None,
    seed: int = 0,
) -> tuple[Proposal, Runs]:
    """Return the proposal after the last round, and all that was evaluated.

    The first round evaluates Dirichlet samples around the prior. Each of the next ones fits laws on
    all runs so far, draws candidates and evaluates those with the best predictions: the sum of the
    metrics' ranks, so that no unit matters.

    Args:
        evaluate: returns a table of runs for [n, M] mixtures, such as a partial of `merged_runs`.
        domains: [M] names.
        prior: shares to draw around; None for equal ones.
        rounds: mixtures in each; DeMix halves them.
        law: of `fit_law`; with few runs "log_linear" or "gaussian_process".
        caps: largest shares of the proposal.
        seed: of samples and fits.

    Raises:
        InputError: what `check_rounds` finds, or a prior that is no mixture of the domains.
    """
    names = tuple(domains)
    check_rounds(names, rounds, law, caps)
    equal = np.full(len(names), 1.0 / len(names))
    centre = equal if prior is None else as_share(prior, names, "prior")
    bounds = make_bounds(names, caps=np.minimum(1.0, np.maximum(MOST_OF_PRIOR * centre, equal)))
    flat = centre**FLATTER / (centre**FLATTER).sum()
    generator = np.random.default_rng(seed)

    def draw(number: int) -> Array:
        strengths = np.geomspace(*STRENGTHS, min(number, 10))
        each = -(-number // len(strengths))
        drawn = [
            sample(flat, bounds, each, len(names) * strength, generator) for strength in strengths
        ]
        return generator.permutation(np.vstack(drawn))[:number]

    runs = evaluate(draw(rounds[0]))
    for number in rounds[1:]:
        candidates = draw(CANDIDATES * number)
        ranks = np.zeros(len(candidates))
        for metric in runs.metrics:
            predicted = fit_law(law, runs, metric, seed).predict(candidates)
            ranks += predicted.argsort(kind="stable").argsort(kind="stable")
        best = candidates[ranks.argsort(kind="stable")[:number]]
        runs = _join(runs, evaluate(best))
    laws = {metric: fit_law(law, runs, metric, seed) for metric in runs.metrics}
    spread = {metric: 1.0 / values.std() for metric, values in runs.metrics.items()}
    found = propose(
        laws,
        prior=centre,
        kl=0.0,
        caps=caps,
        metric_weights={metric: scale / sum(spread.values()) for metric, scale in spread.items()},
        method="top_mean",
        samples=SAMPLES,
        top=TOP,
        seed=seed,
    )
    return found, runs


def check_rounds(domains: Sequence[str], rounds: Sequence[int], law: str, caps: PerDomain) -> None:
    """Raise an error for what would else fail after mixtures were evaluated.

    Raises:
        InputError: no round, fewer mixtures in the first one than the law needs, fewer than two
            domains, an unknown law, one of runs of several lengths, or one whose library is not
            installed, or caps that no mixture meets.
    """
    if not rounds or min(rounds) < 1:
        raise InputError(f"rounds={list(rounds)} must be numbers of mixtures, such as [96, 48].")
    if len(domains) < 2:
        raise InputError(f"a search needs two or more domains, and there are {len(domains)}.")
    kind = find_law(law)
    if kind.needs_length:
        raise InputError(
            f"law={law!r} is of runs of several lengths, and rounds evaluate mixtures without one: "
            "use another law, such as 'gaussian_process'."
        )
    least = kind.least(len(domains))
    if rounds[0] < least:
        raise InputError(
            f"the law {law!r} of {len(domains)} domains needs at least {least} mixtures in the "
            f"first round, and rounds={list(rounds)} has {rounds[0]}: evaluate more, or use "
            "another law."
        )
    kind.check_installed()
    make_bounds(domains, caps=caps)


def _join(first: Runs, second: Runs) -> Runs:
    metrics = {
        name: np.concatenate([values, second.values(name)])
        for name, values in first.metrics.items()
    }
    parts = {
        name: np.concatenate([values, second.parts[name]])
        for name, values in first.parts.items()
        if name in second.parts
    }
    weights = np.vstack([first.weights, second.weights])
    return Runs(first.domains, weights, metrics, parts=parts)
