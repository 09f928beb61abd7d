"""Pools: the part of each domain that a run draws from, to repeat it as often as a longer run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from tandem_pl.checks import check_count
from tandem_pl.episode import Plan
from tandem_pl.errors import InputError
from tandem_pl.training.trainer_flags import planned_steps

from .shuffling import Ints, Words, shuffled

MOST_NAMES = 8  # domains in a line


class Pools(NamedTuple):
    """The pools of a run: ceil(N_m * run / final) samples of domain m, or all N_m.

    Args:
        whole: domain -> number of its samples, N_m.
        run: samples that the run trains on; None if its length is not known.
        final: samples that the final run trains on; None to draw from all of every domain.

    >>> Pools({"web": 1000, "books": 30}, run=100, final=1600).sizes()
    {'web': 63, 'books': 2}
    """

    whole: Mapping[str, int]
    run: int | None = None
    final: int | None = None

    def sizes(self) -> dict[str, int]:
        """Return domain -> samples in its pool; all of them if `announce` would fail."""
        run, final = self.run, self.final
        if run is None or final is None:
            return dict(self.whole)
        # in integers, because a float cannot tell whether a large product is divisible
        return {name: min(-(-size * run // final), size) for name, size in self.whole.items()}

    @property
    def budget(self) -> int | None:
        """Samples in which to count passes over the whole domains; None if it is not known.

        A limit on the passes over a domain, such as unimax's, is on those of the final run.
        """
        return self.run if self.final is None else self.final

    def for_run(self, trainer: object, plan: Plan, batch_size: int) -> Pools:
        """Return the pools of a run: `max_steps` batches, or `max_epochs` times those of a plan."""
        steps = planned_steps(trainer, plan)
        return self._replace(run=None if steps is None else steps * batch_size)

    def announce(self) -> None:
        """Print the size of each pool, if the run draws from pools.

        Raises:
            InputError: the run's length is not known, or it is longer than the final run.
        """
        if self.final is None:
            return
        if self.run is None:
            raise InputError(
                f"final_samples={self.final} needs a run of known length, to size the part of each "
                "domain that it draws from: set max_steps or max_epochs of the trainer."
            )
        if self.run > self.final:
            raise InputError(
                f"final_samples={self.final} is smaller than this run, which trains on {self.run} "
                "samples (steps times batch_size): give the length of the final run, or leave it "
                "out."
            )
        rank_zero_info(self.describe())

    def identity(self) -> dict[str, Any]:
        """Return what must be the same to resume."""
        run = None if self.final is None else self.run
        return {"final_samples": self.final, "the run's samples": run}

    def record(self) -> dict[str, Any]:
        """Return what `mixture.yaml` says of them; nothing if all of every domain is drawn."""
        if self.final is None:
            return {}
        return {"final_samples": self.final, "pool": self.sizes()}

    def describe(self) -> str:
        """Return a line with the size of each pool; of more than 8, the smallest and largest."""
        names = sorted(self.whole, key=self.whole.__getitem__)
        shown = list(self.whole) if len(names) <= MOST_NAMES else [names[0], names[-1]]
        sizes = self.sizes()
        parts = [f"{name} {sizes[name]} of {self.whole[name]}" for name in shown]
        listed = ", ".join(parts) if len(names) <= MOST_NAMES else " to ".join(parts)
        return (
            f"this run of {self.run} samples repeats each domain as often as a run of {self.final} "
            f"(final_samples): it draws from a fixed part of each, in samples: {listed}"
        )


def check_final_lengths(final_samples: int | None, final_tokens: int | None) -> None:
    """Raise an error unless at most one is given, as a whole number of 1 or more."""
    if final_samples is not None and final_tokens is not None:
        raise InputError("final_samples and final_tokens are both given: keep one.")
    for key, value in (("final_samples", final_samples), ("final_tokens", final_tokens)):
        if value is not None:
            check_count(key, value)


def final_length(
    final_samples: int | None,
    final_tokens: int | None,
    tokens_per_sample: NDArray[np.float64] | None,
) -> int | None:
    """Return the length of the final run in samples; None if neither length is given.

    Args:
        final_samples: its length in samples.
        final_tokens: its length in tokens.
        tokens_per_sample: [M] of each domain, NaN if it is not known; None if no domain's is.

    Raises:
        InputError: samples have no known length, or domains differ in it.

    >>> final_length(None, 1_000_000, np.array([64.0, 64.0]))
    15625
    """
    if final_tokens is None:
        return final_samples
    lengths = np.unique(np.nan if tokens_per_sample is None else tokens_per_sample)
    if len(lengths) != 1 or not lengths[0] >= 1:
        raise InputError(
            f"final_tokens={final_tokens} needs samples of one length in tokens, as blocks have, "
            "and these have none or several: give final_samples, the length in samples."
        )
    return max(round(final_tokens / float(lengths[0])), 1)


def samples_of_pools(keys: Words, places: Ints, pools: Ints, sizes: Ints) -> Ints:
    """Return the indices [N] in the data sets of `places` in the pools, for N rows at once.

    A pool is the first part of one permutation of its domain, so a larger pool contains a smaller
    one. A pool of the whole domain keeps the domain's order.

    Args:
        keys: [N] of the rows' domains.
        places: [N] from 0 to pools - 1.
        pools: [N] sizes of the rows' pools.
        sizes: [N] of the rows' domains.
    """
    part = np.flatnonzero(pools < sizes)
    indices, first = places.copy(), np.zeros(len(part), np.int64)
    indices[part] = shuffled(keys[part], first, places[part], sizes[part])
    return indices
