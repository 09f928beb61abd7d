"""Sentences of a report, which claim no more than the numbers show."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tandem_pl.steadiness import TOO_SHORT, Stability
from tandem_pl.text_tables import counted

from .domains import EPOCHS_LIMIT, DomainSummary
from .run import Run


def explain(domain: DomainSummary, run: Run) -> str:
    """Return one sentence on a domain: which way, how far, and what the numbers say of why."""
    floor = float(run.settings.get("floor") or 0)
    cap = (run.settings.get("caps") or {}).get(domain.name)
    change = domain.average - domain.start
    level = abs(change) <= domain.spread
    if not run.learned:
        text = f"given at {percent(domain.average)}, not learned"
    elif level:
        text = f"about level at {percent(domain.average)}, having moved by less than it fluctuates"
    else:
        times = f" (×{domain.average / domain.start:.2g})" if domain.start > 0 else ""
        direction = "up" if change > 0 else "down"
        text = f"{direction} from {percent(domain.start)} to {percent(domain.average)}{times}"
    reasons = []
    delta = domain.mean
    if run.learned and delta is not None and not math.isnan(delta.half):
        if domain.significant:
            verb = "lowered" if delta.mean < 0 else "raised"
            size = f"{plus_minus(abs(delta.mean), delta.half)} nats an episode"
            reasons.append(f"relative to the average domain, target data {verb} its loss by {size}")
        else:
            gap = f"its Δ, {plus_minus(delta.mean, delta.half)} nats next to the average's"
            reasons.append(gap if level else f"{gap}, does not rule out chance")
    if run.learned and domain.last <= floor + 1e-9:
        reasons.append(f"it is held at the floor of {percent(floor)}" if floor else "it ended at 0")
    if cap is not None and domain.last >= cap - 1e-9:
        reasons.append(f"it is held at its cap of {percent(cap)}")
    if domain.epochs is not None and domain.epochs > EPOCHS_LIMIT:
        reasons.append(f"its data was seen {domain.epochs:.1f} times in this run")
    return "; ".join([text, *reasons]) + "."


def headline(domains: Sequence[DomainSummary], most: int = 5) -> str:
    """Return what to train with, the largest shares first; of more than 8 domains the first 5."""
    order = sorted(domains, key=lambda domain: -domain.average)
    most = len(order) if len(order) <= 8 else most
    parts = [f"{domain.name} {percent(domain.average)}" for domain in order[:most]]
    if len(order) > most:
        rest = sum(domain.average for domain in order[most:])
        parts.append(f"{len(order) - most} others {percent(rest)}")
    return "Train with " + ", ".join(parts) + "."


def verdict(result: Stability, run: Run) -> str:
    """Return the stability in one sentence with its rule, and what follows from it."""
    numbers = (
        f"the means of the third and the fourth quarter differ by {percent(result.moved)} of the "
        f"data, and the weights fluctuate by {percent(result.fluctuation)} within a quarter"
    )
    rate, advice = run.settings.get("learning_rate"), []
    if "measure_batches" in run.settings:
        advice.append("measure more")
    if isinstance(rate, int | float):
        advice.append("lower learning_rate")
    more = f", and {' or '.join(advice)}" if advice else ""
    return {
        "given": "The weights were given, not learned: there is nothing to settle.",
        TOO_SHORT: (
            f"Too short to judge: the run has {counted(run.updates, 'update')}; its average is a "
            "snapshot, and a longer run is needed."
        ),
        "drifting": f"Still drifting: {numbers}. A longer run may give other weights.",
        "noisy": f"Noisy: {numbers}. Use the average{more}.",
        "settled": f"Settled: {numbers}.",
    }[result.verdict]


def agreement(domains: Sequence[DomainSummary], runs: int) -> str:
    """Return one sentence on how far apart the average weights of repeated runs are."""
    spreads = {d.name: d.seeds[1] for d in domains if d.seeds is not None}
    widest = max(spreads, key=lambda name: spreads[name])
    usual = sum(spreads.values()) / len(spreads)
    return (
        f"The averages of {runs} runs have standard deviations of {100 * usual:.1f} points on "
        f"average, and {100 * spreads[widest]:.1f} at most, of {widest}."
    )


def percent(share: float) -> str:
    """Write a share in percent.

    >>> percent(0.3478), percent(0.00042), percent(0.0)
    ('34.8 %', '0.042 %', '0.0 %')
    """
    value = 100 * share
    return f"{value:.1f} %" if abs(value) >= 0.1 or value == 0 else f"{value:.2g} %"


def plus_minus(mean: float, half: float) -> str:
    """Write a mean and its interval, with two digits of the interval.

    >>> plus_minus(-0.012345, 0.004321), plus_minus(0.5, math.nan)
    ('-0.0123 ± 0.0043', '0.5')
    """
    if not (math.isfinite(half) and half > 0):
        return f"{mean:.2g}"
    digits = max(0, 1 - math.floor(math.log10(half)))
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def number(value: float) -> str:
    """Write a round number briefly.

    >>> number(1e9), number(250000), number(1500)
    ('1e9', '2.5e5', '1500')
    """
    if value < 1e5:
        return f"{value:g}"
    digits, power = f"{value:.2e}".split("e")
    return f"{float(digits):g}e{int(power)}"
