"""UniMax and epoch caps: against the paper's loop, what must hold for any sizes, and the specs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_pl import Mixture
from tandem_pl.errors import InputError
from tandem_pl.mixture import resolve_weights
from tandem_pl.static_mixtures import epoch_capped, unimax

SIZES = {"web": 900, "code": 100, "books": 400}

sizes_of = st.lists(st.integers(1, 10**7), min_size=1, max_size=12)
shares_of = st.floats(0.01, 1.0)


def papers_unimax(sizes, budget, epochs) -> list[float]:
    """The loop of the paper: ascending sizes, an even part of what is left, at most the cap."""
    left, part = budget, [0.0] * len(sizes)
    order = sorted(range(len(sizes)), key=lambda m: sizes[m])
    for place, m in enumerate(order):
        part[m] = min(left / (len(sizes) - place), epochs * sizes[m])
        left -= part[m]
    return [x / sum(part) for x in part]


@given(sizes_of, st.floats(0.2, 20), shares_of)
def test_unimax_is_the_papers_loop(sizes, epochs, fill) -> None:
    budget = fill * epochs * sum(sizes)
    expected = papers_unimax(sizes, budget, epochs)
    np.testing.assert_allclose(unimax(sizes, budget, epochs), expected, rtol=1e-9, atol=1e-15)


@given(sizes_of, st.floats(0.2, 20), shares_of, st.randoms(use_true_random=False))
def test_weights_sum_to_one_and_no_domain_passes_its_cap(sizes, epochs, fill, source) -> None:
    size = np.array(sizes, float)
    weights = np.array([source.random() + 1e-6 for _ in sizes])
    weights /= weights.sum()
    budget = fill * epochs * size.sum()
    result = epoch_capped(weights, size, budget, epochs)
    assert abs(result.sum() - 1) < 1e-12
    assert (result >= 0).all()
    caps = epochs * size / budget
    assert (result <= caps * (1 + 1e-9) + 1e-12).all()
    free = result < caps * (1 - 1e-6)
    ratio = (result / weights)[free]  # the others share in proportion to their weights
    np.testing.assert_allclose(ratio, ratio[:1].repeat(len(ratio)), rtol=1e-6)
    if free.any():
        assert (result >= weights * (1 - 1e-9))[free].all()


@given(sizes_of, st.floats(0.2, 20), shares_of)
def test_nothing_changes_where_nothing_is_cut(sizes, epochs, fill) -> None:
    """Proportional weights have the same epochs everywhere: they are cut nowhere or everywhere."""
    proportional = np.array(sizes) / sum(sizes)
    result = epoch_capped(proportional, sizes, 0.999 * fill * epochs * sum(sizes), epochs)
    np.testing.assert_allclose(result, proportional, rtol=1e-12)
    assert unimax([5] * len(sizes), 1, 1).tolist() == pytest.approx([1 / len(sizes)] * len(sizes))


def test_a_domain_without_weight_stays_out_and_fills_nothing() -> None:
    assert epoch_capped([0.5, 0.5, 0.0], [10, 100, 1000], 100, 2).tolist() == [0.2, 0.8, 0.0]
    with pytest.raises(InputError, match="110 samples, each seen at most 2 times, cannot fill"):
        epoch_capped([0.5, 0.5, 0.0], [10, 100, 1000], 300, 2)


def test_several_rounds_of_cutting() -> None:
    """Cutting the first domain lifts the second above its cap, which lifts the third."""
    result = epoch_capped([0.5, 0.3, 0.15, 0.05], [10, 35, 25, 500], 100, 1)
    assert result.tolist() == pytest.approx([0.1, 0.35, 0.25, 0.3])


def test_too_long_a_run_says_how_many_epochs_it_needs() -> None:
    message = "1400 samples, each seen at most 4 times, cannot fill a run of 7000: "
    hint = "allow at least 5 epochs, or train on at most 5600 samples"
    with pytest.raises(InputError, match=message + hint):
        Mixture.unimax(SIZES, 7000, 4)
    assert Mixture.unimax(SIZES, 7000, 5).array == pytest.approx(np.array([9, 1, 4]) / 14)


# ---- specs ----


def shares(spec, budget=None) -> list[float]:
    mixture = resolve_weights(spec, SIZES, budget=budget)
    assert mixture.domains == tuple(SIZES)
    return mixture.array.tolist()


def test_specs_say_epochs_and_samples() -> None:
    expected = unimax(list(SIZES.values()), 3000, 4).tolist()
    assert expected == pytest.approx([13 / 30, 4 / 30, 13 / 30])
    assert shares("unimax:4:3000") == expected
    assert shares("unimax:4", 3000) == expected
    assert shares("unimax:4:3000", 10) == expected  # what is written wins
    assert shares("epoch_capped:4:3000:uniform") == expected
    assert shares("epoch_capped:4::uniform", 3000) == expected


def test_epoch_capped_starts_from_temperature_or_any_spec(tmp_path) -> None:
    root = np.sqrt(list(SIZES.values()))
    assert shares("epoch_capped:4:1") == pytest.approx(root / root.sum())
    assert shares("epoch_capped:4:3000:temperature:1") == pytest.approx(np.array([9, 1, 4]) / 14)
    Mixture({"web": 0, "code": 1, "books": 3}).save(tmp_path / "m.yaml")
    learned = shares(f"epoch_capped:2:900:{tmp_path / 'm.yaml'}")
    assert learned == pytest.approx([0.0, 2 / 9, 7 / 9])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("unimax", "weights='unimax' needs the most epochs of a domain and the samples of the run"),
        ("unimax:4", "such as 'unimax:4:64000'"),
        (
            "unimax:4:3000:proportional",
            "unimax is uniform .* write epoch_capped:4:proportional for",
        ),
        ("unimax:4:target", "write epoch_capped:4:target for another"),
        ("unimax:many:3000", "such as 'unimax:4:64000'"),
        ("epoch_capped:4", "such as 'epoch_capped:4:64000'"),
        ("unimax:0:3000", "weights='unimax:0:3000': epochs=0 must be a positive number"),
        ("unimax:nan:3000", "epochs=nan must be a positive"),
        ("unimax:4:-1", "the run's samples=-1 must be a positive number"),
        ("unimax:4:inf", "the run's samples=inf must be a positive number"),
        ("unimax:1:3000", "weights='unimax:1:3000': 1400 samples, each seen at"),
        ("epoch_capped:4:3000:nowhere.yaml", "start='nowhere.yaml' is neither a file nor"),
    ],
)
def test_specs_that_do_not_fit_are_refused(spec, message) -> None:
    with pytest.raises(InputError, match=message):
        resolve_weights(spec, SIZES)
