"""Pools: fixed parts of the domains, as large as the run is long beside the final one."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_pl.datamodules.planning.pool import Pools, check_final_lengths, final_length
from tandem_pl.datamodules.planning.stream import Stream, make_streams
from tandem_pl.errors import InputError

SIZES = {"a": 40, "b": 40, "c": 9}


def pool_of(stream: Stream, domain: int, size: int) -> list[int]:
    """Return what one pass draws of a domain, in order, after checking that a second one does."""
    stream.pools = np.full(len(stream.names), size)
    passes = stream.order(np.full(2 * size, domain), np.arange(2 * size)).tolist()
    assert set(passes[:size]) == set(passes[size:])
    return passes[:size]


@given(
    st.lists(st.integers(1, 2**40), min_size=1, max_size=5),
    st.integers(1, 2**50),
    st.integers(1, 2**50),
)
def test_a_pool_is_the_share_of_the_run_rounded_up(sizes, run, longer) -> None:
    """Exactly, also for products beyond 64 bits."""
    whole = {str(m): size for m, size in enumerate(sizes)}
    final = run + longer
    for name, size in Pools(whole, run, final).sizes().items():
        exact = Fraction(whole[name] * run, final)
        assert exact <= size < exact + 1
    assert Pools(whole, run, run).sizes() == whole


def test_without_a_length_all_is_drawn() -> None:
    assert Pools(SIZES, 10, None).sizes() == SIZES
    assert Pools(SIZES, None, 10).sizes() == SIZES
    assert Pools(SIZES, 20, 10).sizes() == SIZES
    assert Pools(SIZES, 10, None).record() == {}


def test_the_samples_of_a_pool_are_pinned() -> None:
    """As the order of samples is: a change of them makes old checkpoints resume on other data."""
    stream = Stream("train", SIZES, 0, "debt")
    assert sorted(pool_of(stream, 0, 5)) == GOLDEN_A
    assert sorted(pool_of(stream, 2, 4)) == GOLDEN_C


GOLDEN_A = [5, 9, 22, 24, 29]
GOLDEN_C = [0, 2, 4, 6]


def test_a_pool_depends_on_seed_domain_and_sizes_alone() -> None:
    train, measure = (make_streams(SIZES, {}, 0, "debt")[name] for name in ("train", "measure"))
    alone = Stream("train", {"b": 40}, 0, "multinomial")
    pool = pool_of(train, 1, 10)
    assert len(set(pool)) == 10
    assert set(pool) == set(pool_of(measure, 1, 10)) == set(pool_of(alone, 0, 10))
    assert pool != pool_of(measure, 1, 10), "orders differ all the same"
    assert set(pool) < set(pool_of(train, 1, 15)), "a longer run adds to it"
    assert set(pool) != set(pool_of(train, 0, 10))
    assert set(pool) != set(pool_of(Stream("train", SIZES, 1, "debt"), 1, 10))


def test_pools_are_drawn_evenly_from_their_domains() -> None:
    """Over seeds, each sample is as often in a pool as any other."""
    counts = np.zeros(20)
    for seed in range(600):
        counts[pool_of(Stream("train", {"a": 20}, seed, "debt"), 0, 5)] += 1
    assert (np.abs(counts - 150) < 4 * np.sqrt(600 * 0.25 * 0.75)).all()


def test_many_domains_are_described_by_two() -> None:
    pools = Pools({f"d{m}": 10 * (m + 1) for m in range(30)}, 50, 100)
    assert pools.describe().endswith("in samples: d0 5 of 10 to d29 150 of 300")
    assert Pools(SIZES, 50, 100).describe() == (
        "this run of 50 samples repeats each domain as often as a run of 100 (final_samples): it "
        "draws from a fixed part of each, in samples: a 20 of 40, b 20 of 40, c 5 of 9"
    )


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (None, "final_samples=10 needs a run of known length, .*: set max_steps or max_epochs"),
        (11, "final_samples=10 is smaller than this run, which trains on 11 samples"),
    ],
)
def test_runs_that_have_no_pools_are_refused(run, message) -> None:
    with pytest.raises(InputError, match=message):
        Pools(SIZES, run, 10).announce()
    Pools(SIZES, run, None).announce()


@pytest.mark.parametrize("value", [0, -3, 1.5, True, "many"])
def test_lengths_that_are_no_counts_are_refused(value) -> None:
    for key in ("final_samples", "final_tokens"):
        with pytest.raises(InputError, match=f"{key}={value!r} must be a whole number, 1 or more"):
            check_final_lengths(**({"final_samples": None, "final_tokens": None} | {key: value}))
    with pytest.raises(InputError, match="both given"):
        check_final_lengths(2, 2)


def test_a_length_in_tokens_needs_samples_of_one_length() -> None:
    assert final_length(7, None, None) == 7
    assert final_length(None, 6400, np.array([64.0, 64.0])) == 100
    for lengths in (None, np.array([64.0, np.nan]), np.array([64.0, 32.0])):
        with pytest.raises(InputError, match="final_tokens=6400 needs samples of one length"):
            final_length(None, 6400, lengths)
