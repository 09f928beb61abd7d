"""The report's numbers against known answers, and its sentences against its numbers."""

import math
import re

import numpy as np
import pytest
from report_runs import jitter, line, make_run, noise, walk

from tandem_pl import InputError, Mixture
from tandem_pl.report.domains import final_epochs, summarize_domains
from tandem_pl.report.sentences import explain, headline, verdict
from tandem_pl.report.statistics import batch_means, stability
from tandem_pl.steadiness import Interval, centred, mean_gradients


def correlated(count, length, rho, seed=0):
    """[length, count] first-order autoregressive series of mean 0, from their stationary law."""
    noise = np.random.default_rng(seed).normal(size=(length, count))
    rows = [noise[0] / math.sqrt(1 - rho**2)]
    for row in noise[1:]:
        rows.append(rho * rows[-1] + row)
    return np.stack(rows)


@pytest.mark.parametrize(("rho", "length"), [(0.0, 16), (0.0, 200), (0.5, 200), (0.8, 900)])
def test_intervals_cover_the_truth_95_times_in_100(rho, length):
    intervals = batch_means(5.0 + correlated(2000, length, rho))
    covered = np.mean([abs(mean - 5.0) <= half for mean, half in intervals])
    assert 0.90 <= covered <= 0.97, covered
    if rho == 0.8:  # where independent numbers are assumed, the interval is far too narrow
        values = correlated(2000, length, rho)
        naive = 1.96 * values.std(axis=0, ddof=1) / math.sqrt(length)
        assert np.mean(np.abs(values.mean(axis=0)) <= naive) < 0.75


def test_few_numbers_have_no_interval():
    [interval] = batch_means(np.ones((7, 1)))
    assert interval.mean == 1.0
    assert math.isnan(interval.half)
    assert not interval.distinct
    assert Interval(-2.0, 1.0).distinct


@pytest.mark.parametrize("updates", [8, 9, 40, 81])
def test_means_are_of_the_hyper_gradients_less_that_of_the_average_domain(updates):
    delta = noise([-0.002, 0.0, 0.001, 0.001], updates, size=0.0) + 7.0
    run = make_run(walk(delta), delta)
    for row, mean in zip(summarize_domains(run), (-0.002, 0.0, 0.001, 0.001), strict=True):
        assert row.mean.mean == pytest.approx(mean, abs=1e-12)


def test_updates_count_the_same_while_the_learning_rate_falls():
    """A hundredth of the noise and of the hyper-gradient towards the end hides nothing."""
    fall = np.geomspace(1.0, 0.01, 120)[:, None]
    delta = noise([-0.002, 0.001, 0.001], 120, size=0.006)
    steady, falling = (
        mean_gradients(make_run(walk(values), values).signal) for values in (delta, fall * delta)
    )
    for one, other in zip(steady, falling, strict=True):
        assert other.mean / other.half == pytest.approx(one.mean / one.half, rel=0.1)
    assert steady[0].distinct
    rows = (summarize_domains(make_run(walk(v), v)) for v in (delta, fall * delta))
    for one, other in zip(*([row.late for row in found] for found in rows), strict=True):
        assert other.mean / other.half == pytest.approx(one.mean / one.half, rel=0.1)


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"learning_rate": 3.0, "measure_batches": 2}, ", and measure more or lower learning_rate"),
        ({"learning_rate": "auto", "measure_batches": 2}, ", and measure more"),
        ({"period": 10}, ""),
    ],
)
def test_noisy_runs_get_advice_that_their_method_has(settings, advice):
    run = make_run(jitter(0.1), settings=settings)
    assert verdict(stability(run), run).endswith(f"Use the average{advice}.")


def test_noise_alone_is_called_chance_95_times_in_100():
    found = []
    for seed in range(300):
        size = 0.003 * np.linspace(1, 0, 60)[:, None]  # noise that falls with the learning rate
        delta = size * np.random.default_rng(seed).normal(size=(60, 5))
        means = mean_gradients(make_run(walk(delta), delta).signal)
        found += [interval.distinct for interval in means]
    assert 0.02 < np.mean(found) < 0.07, np.mean(found)


@pytest.mark.parametrize(
    ("weights", "expected", "moved", "fluctuation"),
    [
        (np.full((81, 2), 0.5), "settled", 0.0, 0.0),
        (line(0.5, 0.9), "drifting", 0.1, None),  # half of the run moves .2, its quarters' means .1
        (line(0.5, 0.56), "settled", 0.015, None),  # below 2 %
        (jitter(0.02), "settled", 0.0, 0.02),
        (jitter(0.1), "noisy", 0.0, 0.1),
        (line(0.5, 0.62) + jitter(0.1) - 0.5, "noisy", 0.03, None),
        (np.full((5, 2), 0.5), "too short to judge", 0.0, 0.0),
        (np.full((29, 2), 0.5), "too short to judge", 0.0, 0.0),
        (np.full((33, 2), 0.5), "settled", 0.0, 0.0),
    ],
)
def test_stability_of_known_trajectories(weights, expected, moved, fluctuation):
    result = stability(make_run(weights))
    assert result.verdict == expected
    assert result.moved == pytest.approx(moved, abs=0.006)
    if fluctuation is not None:
        assert result.fluctuation == pytest.approx(fluctuation, abs=0.003)
    said = verdict(result, make_run(weights))
    assert said.lower().startswith(("still " if expected == "drifting" else "") + expected)


def test_a_common_shift_of_delta_changes_nothing():
    delta = np.random.default_rng(0).normal(size=(40, 3))
    run = make_run(np.full((41, 3), 1 / 3), delta)
    shifted = make_run(np.full((41, 3), 1 / 3), delta + np.linspace(-5, 5, 40)[:, None])
    np.testing.assert_allclose(centred(run.signal), centred(shifted.signal), atol=1e-12)
    for one, other in zip(summarize_domains(run), summarize_domains(shifted), strict=True):
        assert one.late == pytest.approx(other.late)


def test_rows_by_hand():
    weights = np.array([[0.5, 0.5]] * 4 + [[0.6, 0.4], [0.8, 0.2], [0.7, 0.3], [0.9, 0.1]])
    run = make_run(weights, epochs={"d0": 0.5, "d1": 6.0})
    first, second = summarize_domains(run)
    assert (first.start, first.last, first.epochs) == (0.5, 0.9, 0.5)
    assert first.average == pytest.approx(0.75)
    assert first.spread == pytest.approx(np.std([0.6, 0.8, 0.7, 0.9]))
    assert first.drift == pytest.approx(0.8 - 0.7)
    assert second.drift == pytest.approx(-0.1)
    assert first.late is None
    assert first.final_epochs is None


ABOUT = {
    "samples": {"a": 200, "b": 100, "c": 0},
    "tokens": {"a": 2000, "b": 500, "c": 0},
    "epochs": {"a": 2.0, "b": 0.5, "c": 0.0},
}


def test_final_epochs_by_hand():
    mixture = Mixture({"a": 0.6, "b": 0.3, "c": 0.1}, about=ABOUT)
    # a has 100 samples of 10 tokens, b 200 samples of 5, c is not known.
    assert final_epochs(mixture) == {}
    assert final_epochs(mixture, samples=1000) == pytest.approx({"a": 6.0, "b": 1.5})
    # One sample of the mixture has 0.6 * 10 + 0.3 * 5 + 0.1 * 7.5 = 8.25 tokens.
    expected = {"a": 1000 * 6 / 1000, "b": 1000 * 1.5 / 1000}
    assert final_epochs(mixture, tokens=8250) == pytest.approx(expected)
    given = {"a": 1e6, "b": 1e6, "c": 1e3}
    expected = {"a": 6e-3, "b": 1.5e-3, "c": 0.75}
    assert final_epochs(mixture, tokens=8250, tokens_per_domain=given) == pytest.approx(expected)


@pytest.mark.parametrize("length", [-1.0, 0.0, math.nan, math.inf])
def test_a_length_is_positive(length):
    with pytest.raises(InputError, match="must be a positive number"):
        final_epochs(Mixture({"a": 1}, about=ABOUT), tokens=length)


def test_tokens_need_a_run_that_counted_them():
    about = {key: ABOUT[key] for key in ("samples", "epochs")}
    with pytest.raises(InputError, match="give --samples"):
        final_epochs(Mixture({"a": 1, "b": 1, "c": 1}, about=about), tokens=1e9)


def sentences(weights, delta=None, **about):
    run = make_run(weights, delta, **about)
    return [explain(row, run) for row in summarize_domains(run)]


def test_sentences_say_what_the_numbers_say():
    up, down = sentences(line(0.5, 0.9), noise([-0.05, 0.05]))
    assert up.startswith("up from 50.0 % to 80.0 % (×1.6); relative to the average domain, ")
    assert re.search(r"target data lowered its loss by 0\.0\d+ ± 0\.01\d+ nats an episode\.$", up)
    assert down.startswith("down from 50.0 % to 20.0 % (×0.4); ")
    assert "raised its loss by 0.0" in down


def test_sentences_admit_that_nothing_was_seen():
    up, _ = sentences(line(0.5, 0.9), noise([0.0, 0.0], size=0.05))
    assert re.search(r"its Δ, -?0\.0\d+ ± 0\.0\d+ nats next to the average's, does not rule", up)
    level, _ = sentences(jitter(0.02), noise([0.0, 0.0]))
    assert level.startswith("about level at 50.0 %")
    assert level.endswith("nats next to the average's.")


def test_a_run_too_short_to_judge_rules_out_no_chance():
    up, _ = sentences(line(0.5, 0.9, 21), noise([-0.05, 0.05], 20))
    assert up.endswith("nats next to the average's, does not rule out chance.")


def test_sentences_name_floors_caps_and_repeats():
    weights = np.vstack([line(0.5, 0.9), [[0.9, 0.1]] * 3])
    settings = {"floor": 0.1, "caps": {"d0": 0.9}}
    up, down = sentences(weights, settings=settings, epochs={"d0": 1.0, "d1": 12.34})
    assert "held at its cap of 90.0 %" in up
    assert "seen" not in up
    assert "held at the floor of 10.0 %" in down
    assert "its data was seen 12.3 times in this run" in down
    assert "nats" not in up + down  # no hyper-gradients were kept
    _, gone = sentences(np.vstack([line(0.5, 1.0), [[1.0, 0.0]]]))
    assert "it ended at 0" in gone


def test_given_weights_are_said_to_be_given():
    run = make_run(np.full((41, 2), 0.5), method="fixed")
    assert explain(summarize_domains(run)[0], run) == "given at 50.0 %, not learned."
    assert verdict(stability(run), run).startswith("The weights were given")


def test_the_headline_names_the_largest_and_sums_the_rest():
    run = make_run(np.tile(np.arange(1, 10)[None] / 45, (9, 1)))
    said = headline(summarize_domains(run))
    assert said.startswith("Train with d8 20.0 %, d7 17.8 %, ")
    assert said.endswith("4 others 22.2 %.")
    few = make_run(np.tile(np.arange(1, 8)[None] / 28, (9, 1)))
    assert "others" not in headline(summarize_domains(few))
