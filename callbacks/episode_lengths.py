"""How long episodes are and how much they measure, if the settings are "auto"."""

from __future__ import annotations

import math

from tandem_pl.checks import AUTO, check_at_least
from tandem_pl.errors import InputError

ENOUGH_UPDATES = 120  # of a run; with 100, 40, 20 of 2000 batches losses were 2.200, 2.211, 2.226
LEAST_FREE = 15  # shorter episodes cost more than twice as much as plain training
USUAL_FREE = 45  # of a run of unknown length
ENOUGH_SAMPLES = 32  # of a domain, measured for an update


def check_batches(key: str, value: int | str, least: int) -> None:
    """Raise an error unless a number of batches is "auto" or at least `least`."""
    if isinstance(value, str) and value != AUTO:
        raise InputError(f"{key}={value!r} must be 'auto' or a number.")
    if not isinstance(value, str):
        check_at_least(key, value, least)


def check_measured(measure_batches: int, batch_size: int, domains: int) -> None:
    """Raise an error unless an update can measure a sample of every domain."""
    samples = measure_batches * batch_size
    if samples < domains:
        raise InputError(
            f"measure_batches={measure_batches} hold {samples} samples, fewer than the "
            f"{domains} domains: raise it until every domain is measured."
        )


def choose_free_steps(steps: int | None, probe_steps: int) -> int:
    """Return E for a run of so many proxy steps, or of unknown length.

    The episode is as long as `ENOUGH_UPDATES` updates allow, because a longer one costs less.

    >>> choose_free_steps(15_000, 5), choose_free_steps(600, 5), choose_free_steps(None, 5)
    (120, 15, 45)
    """
    if steps is None:
        return USUAL_FREE
    return max(LEAST_FREE, steps // ENOUGH_UPDATES - probe_steps)


def choose_measure_batches(domains: int, batch_size: int, episode_steps: int) -> int:
    """Return V: 32 samples of each domain, but no more work than the episode's training.

    Of many domains in small batches it measures fewer samples: of those that an update does not
    reach, the next ones do.

    >>> choose_measure_batches(7, 16, 20), choose_measure_batches(22, 512, 125)
    (14, 2)
    >>> choose_measure_batches(1000, 16, 20)
    30
    """
    wanted = math.ceil(ENOUGH_SAMPLES * domains / batch_size)
    return max(1, min(wanted, math.ceil(1.5 * episode_steps)))  # a measured batch costs 2/3
