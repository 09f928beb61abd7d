import math
import random
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_pl.errors import InputError
from tandem_pl.simplex import check_weights, exponentiated_step, project, projected_step

numbers = st.floats(-10, 10, allow_subnormal=False)


@st.composite
def problems(draw, size: int = 12) -> tuple[list[float], float, list[float]]:
    """A point, a floor and caps between which a mixture exists."""
    count = draw(st.integers(1, size))
    point = draw(st.lists(numbers, min_size=count, max_size=count))
    floor = draw(st.sampled_from([0.0, 0.25, 0.9])) / count
    raw = draw(st.lists(st.floats(0.0, 1.0), min_size=count, max_size=count))
    caps = [floor + (1.0 - floor) * value for value in raw]
    if math.fsum(caps) < 1.0:
        caps[draw(st.integers(0, count - 1))] = 1.0
    return point, floor, caps


def clipped(point: list[float], tau: float, floor: float, caps: list[float]) -> list[float]:
    return [min(max(value - tau, floor), cap) for value, cap in zip(point, caps, strict=True)]


def bisect(point: list[float], floor: float, caps: list[float]) -> list[float]:
    """The projection by halving an interval of tau until floats leave no room."""
    low, high = min(point) - 1.0, max(point)
    while low < (middle := 0.5 * (low + high)) < high:
        if math.fsum(clipped(point, middle, floor, caps)) > 1.0:
            low = middle
        else:
            high = middle
    return clipped(point, high, floor, caps)


@given(problems())
def test_projection_is_feasible(problem) -> None:
    point, floor, caps = problem
    result = project(point, floor, caps).tolist()
    assert abs(math.fsum(result) - 1.0) <= 1e-15 * len(point)
    assert all(floor <= x <= max(cap, floor) for x, cap in zip(result, caps, strict=True))


@given(problems())
def test_projection_equals_bisection(problem) -> None:
    point, floor, caps = problem
    assert project(point, floor, caps).tolist() == pytest.approx(
        bisect(point, floor, caps), rel=0, abs=1e-12
    )


@given(problems())
def test_projection_meets_the_optimality_conditions(problem) -> None:
    """One multiplier: free entries move by it, entries at a bound are pushed against the bound."""
    point, floor, caps = problem
    rows = list(zip(point, project(point, floor, caps).tolist(), caps, strict=True))
    least = [z - x for z, x, cap in rows if x < cap - 1e-12]  # tau >= z - x unless at the cap
    most = [z - x for z, x, _ in rows if x > floor + 1e-12]  # tau <= z - x unless at the floor
    if least and most:
        assert max(least) <= min(most) + 1e-11


@given(problems(), st.integers(0, 2**32))
def test_no_random_feasible_point_is_nearer(problem, seed) -> None:
    point, floor, caps = problem
    result = project(point, floor, caps).tolist()
    best = math.fsum((x - z) ** 2 for x, z in zip(result, point, strict=True))
    source = random.Random(seed)
    for _ in range(10):
        other = bisect([source.gauss(0, 1) for _ in point], floor, caps)  # any feasible point
        assert math.fsum((x - z) ** 2 for x, z in zip(other, point, strict=True)) >= best - 1e-11


@given(problems())
def test_projection_is_idempotent(problem) -> None:
    point, floor, caps = problem
    once = project(point, floor, caps)
    assert np.abs(project(once, floor, caps) - once).max() <= 1e-14  # roundings of the sum


@given(problems(), numbers)
def test_a_shift_of_the_point_changes_nothing(problem, shift) -> None:
    point, floor, caps = problem
    shifted = project([value + shift for value in point], floor, caps)
    assert np.abs(shifted - project(point, floor, caps)).max() <= 1e-13


def test_without_caps_the_cap_is_one() -> None:
    assert project([5.0, 0.0, 0.1]).tolist() == [1.0, 0.0, 0.0]
    assert project([5.0, 0.0, 0.1], floor=0.1).tolist() == pytest.approx([0.8, 0.1, 0.1])


@pytest.mark.parametrize("point", [[1e17, 1e17], [1e300, -1e300, 0.0], [-1e17, -1e17, -1e17]])
def test_huge_numbers_still_give_a_mixture(point) -> None:
    result = project(point)
    assert result.min() >= 0
    assert result.sum() == pytest.approx(1.0, abs=1e-12)
    assert result[0] == result.max()


def test_an_entry_next_to_the_floor_is_not_pushed_through_it() -> None:
    """Removing the rounding error of the sum must respect the bounds, also for tiny entries."""
    source = random.Random(0)
    for _ in range(2000):
        rest = [source.random() for _ in range(source.randint(2, 8))]
        total = math.fsum(rest)
        point = [10 ** source.uniform(-30, -15), *(value / total for value in rest)]
        assert project(point).min() >= 0.0


def test_ten_thousand_domains_are_projected_in_milliseconds() -> None:
    source = np.random.default_rng(0)
    point, caps = source.normal(size=10_000), source.uniform(2e-4, 1e-2, size=10_000)
    start = time.process_time()
    result = project(point, 5e-5, caps)
    assert time.process_time() - start < 0.25
    assert abs(math.fsum(result) - 1) < 1e-12
    assert np.abs(result - bisect(point.tolist(), 5e-5, caps.tolist())).max() < 1e-12


@pytest.mark.parametrize(
    ("floor", "caps", "message"),
    [
        (0.34, None, r"floor=0.34 leaves no mixture of 3 domains: choose 0 <= floor <= 0.333333"),
        (-0.1, None, r"floor=-0.1 leaves no mixture"),
        (math.nan, None, r"floor=nan leaves no mixture"),
        (0.0, [0.3, 0.3, 0.3], r"caps sum to 0.9: raise them until they sum to at least 1"),
        (0.2, [0.1, 1.0, 1.0], r"caps=\[0.1, 1.0, 1.0\] must be finite and at least floor=0.2"),
        (0.0, [math.nan, 1.0, 1.0], r"caps=\[nan, 1.0, 1.0\] must be finite"),
    ],
)
def test_bounds_without_a_mixture_are_refused(floor, caps, message) -> None:
    with pytest.raises(InputError, match=message):
        project([0.1, 0.2, 0.7], floor, caps)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_point_that_is_not_finite_is_refused(bad) -> None:
    with pytest.raises(InputError, match=r"cannot project .* every entry must be finite"):
        project([0.5, bad])


def test_bounds_that_leave_one_mixture_give_it() -> None:
    assert project([3.0, -1.0], floor=0.5).tolist() == [0.5, 0.5]
    assert project([3.0, -1.0], caps=[0.25, 0.75]).tolist() == [0.25, 0.75]


def test_projected_step_goes_against_the_gradient() -> None:
    """A domain of negative Delta, which the reference does better on, gains weight."""
    result = projected_step([0.5, 0.3, 0.2], [-0.1, 0.1, 0.0], 0.5)
    assert result.tolist() == pytest.approx([0.55, 0.25, 0.2], abs=1e-15)


@given(problems(), st.floats(0.01, 5))
def test_projected_step_is_the_projection_of_a_gradient_step(problem, rate) -> None:
    point, floor, caps = problem
    start = [1 / len(point)] * len(point)
    moved = [a - rate * g for a, g in zip(start, point, strict=True)]
    result = projected_step(start, point, rate, floor, caps).tolist()
    assert result == pytest.approx(bisect(moved, floor, caps), rel=0, abs=1e-12)


@st.composite
def steps(draw) -> tuple[list[float], list[float], float]:
    count = draw(st.integers(1, 12))
    raw = draw(st.lists(st.floats(1e-6, 1), min_size=count, max_size=count))
    gradient = draw(st.lists(numbers, min_size=count, max_size=count))
    return [value / math.fsum(raw) for value in raw], gradient, draw(st.floats(0.01, 20))


@given(steps())
def test_exponentiated_step_equals_its_formula(step) -> None:
    alpha, gradient, rate = step
    least = min(gradient)
    grown = [a * math.exp(-rate * (g - least)) for a, g in zip(alpha, gradient, strict=True)]
    expected = [value / math.fsum(grown) for value in grown]
    result = exponentiated_step(alpha, gradient, rate)
    assert result.tolist() == pytest.approx(expected, rel=0, abs=1e-14)
    assert result.min() >= 0.0


@given(steps(), st.sampled_from([0.1, 0.5, 1.0]))
def test_exponentiated_step_keeps_the_bounds(step, share) -> None:
    alpha, gradient, rate = step
    floor = share / len(alpha)
    result = exponentiated_step(alpha, gradient, rate, floor, [1.0] * len(alpha))
    assert result.min() >= floor
    assert math.fsum(result) == pytest.approx(1.0, abs=1e-14)


def test_exponentiated_step_leaves_a_zero_weight_at_zero() -> None:
    assert exponentiated_step([0.0, 0.5, 0.5], [-1.0, 0.0, 0.0], 1.0).tolist() == [0.0, 0.5, 0.5]


def test_a_steep_gradient_of_a_zero_weight_does_no_harm() -> None:
    result = exponentiated_step([0.0, 0.5, 0.5], [-1000.0, 0.0, 0.0], 1.0)
    assert result.tolist() == [0.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ([0.5, 0.25, 0.25], r"shape is \[3\] and must be \[2\]"),
        ([math.nan, 1.0], "must be finite, and 0 or more"),
        ([1.5, -0.5], "must be finite, and 0 or more"),
        ([1.5, 0.96], "sum is 2.46 and must be 1"),
    ],
)
def test_weights_that_are_no_mixture_are_refused(weights, reason) -> None:
    check_weights(np.array([0.25, 0.75]), 2, "update")
    with pytest.raises(
        InputError, match=f"^update returned weights that are no mixture: .*{reason}"
    ):
        check_weights(np.array(weights), 2, "update")
