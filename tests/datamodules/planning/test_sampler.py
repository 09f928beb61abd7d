import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_pl.datamodules.planning.sampler import MixtureBatchSampler
from tandem_pl.datamodules.planning.stream import Stream
from tandem_pl.episode import MEASURE, PROBE, TRAIN, Segment

SIZES = {"a": 7, "b": 3, "c": 11}
TARGET_SIZES = {"t": 5, "v": 2}


def make_sampler(
    sizes=SIZES, batch_size=8, target_sizes=TARGET_SIZES, seed=0, allocation="debt", ranks=(0, 1)
) -> MixtureBatchSampler:
    streams = {
        "train": Stream("train", sizes, seed, allocation),
        MEASURE: Stream(MEASURE, sizes, seed, "debt"),
        "target": Stream("target", target_sizes, seed, allocation),
    }
    sampler = MixtureBatchSampler(streams, np.array([0.75, 0.25]), batch_size)
    sampler.share(*ranks)
    return sampler


def segment(phase: str, batches: int, weights, target: bool = False) -> Segment:
    total = math.fsum(weights)
    return Segment(phase, batches, tuple(weight / total for weight in weights), target)


def episode(*weights: float) -> list[Segment]:
    """What TANDEM asks for, made short."""
    return [
        segment(TRAIN, 2, weights),
        segment(PROBE, 2, weights, target=True),
        segment(MEASURE, 1, [1.0] * len(weights)),
    ]


EPISODES = [episode(3, 1, 2), episode(0, 1, 1), episode(5, 0, 1)]


def run(sampler: MixtureBatchSampler, plans) -> list:
    """The batches of some episodes, consumed one by one as training does."""
    batches = []
    for plan in plans:
        sampler.begin(plan)
        batches += drain(sampler)
    return batches


def drain(sampler: MixtureBatchSampler) -> list:
    batches = []
    for batch in sampler:
        sampler.consume(batch.step)
        batches.append(batch)
    return batches


def plain(batch) -> list:
    """For comparison: every field, as Python."""
    return [field.tolist() if isinstance(field, np.ndarray) else field for field in batch]


def rows(batches, phases=(TRAIN, PROBE)) -> list[tuple[int, int]]:
    return [
        (int(domain), int(index))
        for batch in batches
        if batch.phase in phases
        for domain, index in zip(batch.domains, batch.indices, strict=True)
    ]


def by_domain(pairs, count: int) -> list[list[int]]:
    order: list[list[int]] = [[] for _ in range(count)]
    for domain, index in pairs:
        order[domain].append(index)
    return order


# ---- shares ----


@pytest.mark.parametrize("allocation", ["debt", "multinomial"])
def test_a_domain_of_weight_zero_is_never_drawn(allocation) -> None:
    sampler = make_sampler(allocation=allocation, batch_size=3)
    plans = [
        [segment(TRAIN, 3, weights)] for weights in ((1, 9, 1), (1, 0, 1), (0, 0, 1), (1, 0, 2))
    ]
    for plan in plans:
        weights = plan[0].weights
        drawn = {domain for domain, _ in rows(run(sampler, [plan]))}
        assert all(weights[domain] > 0 for domain in drawn)


def test_multinomial_frequencies_follow_the_weights_and_scatter_like_coin_tosses() -> None:
    weights, batches, size = np.array([0.5, 0.3, 0.2, 0.0]), 2000, 16
    stream = Stream("train", {"a": 50, "b": 50, "c": 50, "d": 50}, 1, "multinomial")
    cursors, counts = stream.start(), []
    for step in range(batches):
        domains, _, cursors = stream.take(cursors, weights, size, step)
        counts.append(np.bincount(domains, minlength=4))
    spread = np.sqrt(size * weights * (1 - weights))  # of one batch
    assert (np.abs(np.mean(counts, 0) - size * weights) <= 4 * spread / math.sqrt(batches)).all()
    assert np.std(counts, 0).tolist() == pytest.approx(spread.tolist(), rel=0.1)
    asked = batches * size * weights
    assert (asked - np.sum(counts, 0)).tolist() == pytest.approx(cursors[0].tolist(), abs=1e-6)


def test_multinomial_batches_differ_by_step_and_seed() -> None:
    def take(seed, step):
        stream = Stream("train", {"a": 1000, "b": 1000}, seed, "multinomial")
        weights = np.array([0.5, 0.5])
        return [
            int(stream.take(stream.start(), weights, 100, s)[0].sum()) for s in (step, step + 1)
        ]

    assert take(0, 5) == take(0, 5)
    assert len({*take(0, 5), *take(0, 7), *take(1, 5), *take(1, 7)}) > 3


# ---- order within a domain ----


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
    st.integers(1, 12),
    st.integers(0, 2**40),
    st.data(),
)
@settings(max_examples=50, deadline=None)
def test_every_pass_over_a_domain_is_a_permutation(sizes, batch_size, seed, data) -> None:
    count = len(sizes)
    sampler = make_sampler({str(m): n for m, n in enumerate(sizes)}, batch_size, seed=seed)
    weights = st.lists(st.integers(0, 5), min_size=count, max_size=count).filter(any)
    plans = [episode(*data.draw(weights)) for _ in range(4)]
    batches = run(sampler, plans)
    for order, size in zip(by_domain(rows(batches), count), sizes, strict=True):
        for start in range(0, len(order), size):
            part = order[start : start + size]
            assert len(set(part)) == len(part)
            assert set(part) <= set(range(size))
    for order, size in zip(by_domain(rows(batches, (MEASURE,)), count), sizes, strict=True):
        for start in range(0, len(order), size):
            assert len(set(order[start : start + size])) == len(order[start : start + size])


def draws(stream: Stream, domain: int, start: int, count: int) -> np.ndarray:
    """Draws number start, start + 1, ... of a domain."""
    return stream.order(np.full(count, domain), np.arange(start, start + count))


def test_orders_differ_by_pass_domain_stream_and_seed() -> None:
    stream, other = (Stream("train", {"a": 40, "b": 40}, seed, "debt") for seed in (0, 1))
    measure = Stream(MEASURE, {"a": 40, "b": 40}, 0, "debt")
    orders = [
        draws(stream, 0, 0, 40),
        draws(stream, 0, 40, 40),
        draws(stream, 1, 0, 40),
        draws(measure, 0, 0, 40),
        draws(other, 0, 0, 40),
    ]
    assert len({tuple(order.tolist()) for order in orders}) == 5
    assert all(sorted(order.tolist()) == list(range(40)) for order in orders)


def test_the_order_of_a_domain_does_not_depend_on_its_neighbours() -> None:
    alone, beside = (
        Stream("train", {"b": 9}, 0, "debt"),
        Stream("train", SIZES | {"b": 9}, 0, "debt"),
    )
    assert draws(alone, 0, 0, 18).tolist() == draws(beside, 1, 0, 18).tolist()


# ---- the batches of an episode ----


def test_phases_and_flags_follow_the_plan() -> None:
    batches = run(make_sampler(), EPISODES[:2])
    assert [b.phase for b in batches] == 2 * [TRAIN, TRAIN, PROBE, PROBE, MEASURE]
    assert [b.step for b in batches] == list(range(10))
    assert [b.first for b in batches] == 2 * [True, False, True, False, True]
    assert [b.last for b in batches] == 2 * [False, False, False, False, True]
    assert [b.target_domains is not None for b in batches] == 2 * [False, False, True, True, False]
    assert all((np.diff(b.domains) >= 0).all() for b in batches)
    assert len(make_sampler()) == 0


def test_the_target_stream_has_its_own_shares_and_passes() -> None:
    batches = run(make_sampler(), [[segment(PROBE, 10, (1, 1, 1), target=True)]])
    pairs = [
        (int(domain), int(index))
        for b in batches
        for domain, index in zip(b.target_domains, b.target_indices, strict=True)
    ]
    first, second = by_domain(pairs, 2)
    assert (len(first), len(second)) == (60, 20)  # 3 : 1 of 80
    assert all(sorted(first[i : i + 5]) == list(range(5)) for i in range(0, 60, 5))
    assert all(sorted(second[i : i + 2]) == [0, 1] for i in range(0, 20, 2))


def test_measuring_does_not_disturb_the_training_stream() -> None:
    with_measure = rows(run(make_sampler(), EPISODES))
    without = rows(
        run(make_sampler(), [[s for s in plan if s.phase != MEASURE] for plan in EPISODES])
    )
    assert with_measure == without


def test_target_batches_do_not_disturb_the_training_stream() -> None:
    plans = [[Segment(s.phase, s.batches, s.weights) for s in plan] for plan in EPISODES]
    assert rows(run(make_sampler(), EPISODES)) == rows(run(make_sampler(), plans))


def test_the_stream_of_samples_is_pinned() -> None:
    """The order is a promise: a change of it makes old checkpoints resume on other data."""
    batches = run(make_sampler(batch_size=4, seed=7), EPISODES[:2])
    assert rows(batches) == GOLDEN_TRAIN
    assert rows(batches, (MEASURE,)) == GOLDEN_MEASURE
    targets = [b for b in batches if b.target_domains is not None]
    assert [
        list(zip(b.target_domains.tolist(), b.target_indices.tolist(), strict=True))
        for b in targets
    ] == GOLDEN_TARGET


# (domain, index) of training, of measuring, and of the target batches.
# fmt: off
GOLDEN_TRAIN = [
    (0, 6), (0, 4), (1, 2), (2, 7), (0, 5), (0, 3), (2, 2), (2, 8),
    (0, 1), (0, 0), (1, 1), (2, 9), (0, 2), (0, 2), (1, 0), (2, 1),
    (1, 0), (1, 1), (2, 5), (2, 6), (1, 2), (1, 0), (2, 0), (2, 3),
    (1, 2), (1, 1), (2, 10), (2, 4), (1, 1), (1, 2), (2, 6), (2, 1),
]
GOLDEN_MEASURE = [
    (0, 5), (0, 6), (1, 0), (2, 8), (0, 3), (1, 2), (1, 1), (2, 9),
]
GOLDEN_TARGET = [
    [(0, 3), (0, 0), (0, 4), (1, 0)], [(0, 2), (0, 1), (0, 1), (1, 1)],
    [(0, 3), (0, 2), (0, 4), (1, 1)], [(0, 0), (0, 3), (0, 1), (1, 0)],
]
# fmt: on


# ---- ranks ----


@pytest.mark.parametrize("allocation", ["debt", "multinomial"])
@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_out_the_batch_of_one_rank(world_size, allocation) -> None:
    whole = run(make_sampler(allocation=allocation), EPISODES)
    parts = [
        run(make_sampler(allocation=allocation, ranks=(r, world_size)), EPISODES)
        for r in range(world_size)
    ]
    for batch, *mine in zip(whole, *parts, strict=True):
        names = ["domains", "indices"]
        if batch.target_domains is not None:
            names += ["target_domains", "target_indices"]
        for name in names:
            pieces = [getattr(part, name) for part in mine]
            assert {len(piece) for piece in pieces} == {8 // world_size}
            together = np.stack(pieces, axis=1).ravel()  # rank r takes rows r, r + world, ...
            assert together.tolist() == getattr(batch, name).tolist()
        for part in mine:
            assert plain(part)[:4] == plain(batch)[:4]


# ---- resume ----


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def resumed(sampler: MixtureBatchSampler, state, done: int, ranks) -> list:
    """The rest of EPISODES by a fresh sampler, after `done` batches."""
    sampler.load_state_dict(state)
    sampler.share(*ranks)
    batches = drain(sampler)
    return batches + run(sampler, EPISODES[math.ceil(done / 5) :])


@pytest.mark.parametrize("allocation", ["debt", "multinomial"])
@pytest.mark.parametrize("ranks", [(0, 1), (1, 2)])
def test_resuming_at_any_step_goes_on_with_the_same_stream(ranks, allocation) -> None:
    """Also by another number of ranks than the one that saved."""
    expected = [plain(b) for b in run(make_sampler(allocation=allocation, ranks=ranks), EPISODES)]
    for done in range(1, 15):
        sampler, count = make_sampler(allocation=allocation), 0
        for plan in EPISODES[: math.ceil(done / 5)]:
            sampler.begin(plan)
            for batch in sampler:
                sampler.consume(batch.step)
                count += 1
                if count == done:
                    break
        state = through_a_file(sampler.state_dict())
        rest = resumed(make_sampler(allocation=allocation), state, done, ranks)
        assert [plain(batch) for batch in rest] == expected[done:]


def test_batches_fetched_ahead_but_not_trained_on_are_served_again() -> None:
    expected = [plain(b) for b in run(make_sampler(), EPISODES)]
    sampler = make_sampler()
    sampler.begin(EPISODES[0])
    ahead = iter(sampler)
    fetched = [next(ahead) for _ in range(4)]
    sampler.consume(fetched[1].step)
    state = through_a_file(sampler.state_dict())
    assert [plain(b) for b in resumed(make_sampler(), state, 2, (0, 1))] == expected[2:]
    assert [plain(b) for b in sampler] == expected[2:5]  # and by a new pass of the same sampler


def test_a_second_interruption_changes_nothing() -> None:
    expected = [plain(b) for b in run(make_sampler(), EPISODES)]
    sampler = make_sampler()
    sampler.begin(EPISODES[0])
    for stop in (1, 3):
        for batch in sampler:
            sampler.consume(batch.step)
            if sampler.step == stop:
                break
        state = through_a_file(sampler.state_dict())
        sampler = make_sampler()
        sampler.load_state_dict(state)
    assert [plain(b) for b in drain(sampler)] == expected[3:5]
