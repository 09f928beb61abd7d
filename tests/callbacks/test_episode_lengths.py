"""What "auto" chooses for the episodes of TANDEM, and what it costs."""

from types import SimpleNamespace

import pytest
from toy import DOMAINS, toy_module

from tandem_pl.callbacks import TandemReweighting
from tandem_pl.callbacks.episode_lengths import choose_free_steps, choose_measure_batches
from tandem_pl.callbacks.methods.method import Length
from tandem_pl.callbacks.methods.tandem import tandem_work

AUTO = {"free_steps": "auto", "probe_steps": 5, "measure_batches": "auto"}


@pytest.mark.parametrize(("steps", "most"), [(15_000, 1.10), (40_000, 1.05)])
@pytest.mark.parametrize("domains", [2, 7, 64])
def test_a_long_run_of_large_batches_costs_little(steps, most, domains):
    assert 1 < tandem_work(AUTO, Length(domains, steps, 512)) / steps <= most
    free = choose_free_steps(steps, 5)
    assert steps // (free + 5) == 120
    assert choose_measure_batches(domains, 512, free + 5) * 512 >= 32 * domains


def test_many_domains_in_small_batches_are_not_measured_for_longer_than_trained():
    batches = choose_measure_batches(1000, 16, 20)
    assert 2 / 3 * batches == 20
    assert choose_measure_batches(2, 512, 20) == 1


@pytest.mark.parametrize(
    ("steps", "options", "free"),
    [
        (3000, {}, 20),
        (3000, {"freeze_after": 0.8}, 15),
        (12_000, {"freeze_after": 0.5}, 45),
        (100, {}, 15),
        (-1, {}, 45),
        (3000, {"free_steps": 7}, 7),
    ],
)
def test_a_run_takes_them(steps, options, free):
    """Batches of 12 samples of three domains: 8 have 32 of each."""
    method = TandemReweighting(**options)
    for length in (50_000, steps):  # of an earlier fit, and of this
        method.domains, method.data = DOMAINS, SimpleNamespace(batch_size=12)
        method.check(SimpleNamespace(max_steps=length), toy_module("TandemModule"))
    assert (method.free_steps, method.measure_batches) == (free, 8)
    assert method.settings()["free_steps"] == free
