import io
from types import SimpleNamespace

import pytest
import torch
from helpers import Rows, numbered
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_pl import InputError, Mixture
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.episode import EVALUATE, MEASURE, PROBE, TRAIN, Segment

WEIGHTS = [(0.5, 0.25, 0.25), (0.0, 0.5, 0.5), (0.625, 0.375, 0.0)]


def domains(**sizes: int) -> dict[str, Rows]:
    return {name: numbered(number, size) for number, (name, size) in enumerate(sizes.items())}


def make_data(world_size: int = 1, rank: int = 0, **options) -> MixtureDataModule:
    defaults = {
        "train": domains(a=7, b=3, c=11),
        "target": domains(t=5, v=2),
        "batch_size": 8,
    }
    data = MixtureDataModule(**{**defaults, **options})
    data.trainer = SimpleNamespace(
        distributed_sampler_kwargs={"rank": rank, "num_replicas": world_size},
        _accelerator_connector=SimpleNamespace(use_distributed_sampler=False),
    )
    data.setup("fit")
    return data


def plan(weights) -> list[Segment]:
    third = (1 / 3,) * 3
    return [
        Segment(TRAIN, 3, weights),
        Segment(PROBE, 2, weights, target=True),
        Segment(MEASURE, 1, third),
    ]


def plain(batch) -> list:
    return [field.tolist() if isinstance(field, torch.Tensor) else field for field in batch]


def stream(data: MixtureDataModule, timeline=WEIGHTS, stop: int | None = None) -> list:
    """Episodes as Lightning takes them: a loader kept over epochs, batches counted on arrival."""
    loader, batches = data.train_dataloader(), []
    for weights in timeline:
        data.begin_episode(plan(weights))
        for batch in loader:
            data.on_after_batch_transfer(batch, 0)
            batches.append(plain(batch))
            if len(batches) == stop:
                return batches
    return batches


# ---- the batches ----


@pytest.mark.parametrize("workers", [2, 4])
def test_the_stream_is_the_same_for_any_number_of_workers(workers) -> None:
    assert stream(make_data(num_workers=workers)) == stream(make_data())


def test_samples_are_those_that_were_planned() -> None:
    data = make_data()
    loader = data.train_dataloader()
    data.begin_episode(plan(WEIGHTS[0]))
    planned = list(data.sampler)
    for batch, expected in zip(loader, planned, strict=True):
        data.on_after_batch_transfer(batch, 0)
        assert batch.samples.tolist() == [
            [d, i]
            for d, i in zip(expected.domains.tolist(), expected.indices.tolist(), strict=True)
        ]
        assert batch.domains.tolist() == batch.samples[:, 0].tolist()
        if batch.target_samples is not None:
            assert batch.target_samples[:, 0].tolist() == batch.target_domains.tolist()
            assert batch.target_samples[:, 1].tolist() == expected.target_indices.tolist()


def test_data_sets_that_fetch_many_at_once_give_the_same_batches() -> None:
    class Many(Rows):
        def __getitems__(self, indices):
            return list(self.rows[indices])

        def __getitem__(self, index):
            raise AssertionError("rows are fetched together")

    many = {name: Many(data.rows) for name, data in domains(a=7, b=3, c=11).items()}
    assert stream(make_data(train=many)) == stream(make_data())


def test_the_collate_function_is_used_for_both_parts() -> None:
    data = make_data(collate_fn=lambda samples: {"rows": torch.stack(samples)})
    loader = data.train_dataloader()
    data.begin_episode([Segment(PROBE, 1, WEIGHTS[0], target=True)])
    batch = next(iter(loader))
    assert set(batch.samples) == set(batch.target_samples) == {"rows"}
    assert len(batch.samples["rows"]) == 8


def test_ranks_share_out_each_batch() -> None:
    whole = stream(make_data())
    parts = [stream(make_data(world_size=2, rank=rank)) for rank in (0, 1)]
    for batch, even, odd in zip(whole, *parts, strict=True):
        for field in (4, 5, 6, 7):
            if batch[field] is not None:
                assert even[field] == batch[field][0::2]
                assert odd[field] == batch[field][1::2]


def test_loading_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2).tolist()
    torch.manual_seed(3)
    stream(make_data())
    assert torch.rand(2).tolist() == expected


def test_without_a_plan_an_epoch_holds_the_training_data_once() -> None:
    data = make_data(target=None, weights="proportional", batch_size=7)
    loader = data.train_dataloader()
    assert len(loader) == 3
    for _ in range(2):  # and the next epoch again
        rows = []
        for batch in loader:
            data.on_after_batch_transfer(batch, 0)
            assert batch.phase == TRAIN
            rows += [tuple(row) for row in batch.samples.tolist()]
        assert len(rows) == 21
        assert set(rows) == {(d, i) for d, size in enumerate((7, 3, 11)) for i in range(size)}
    assert [row["epochs"] for row in data.seen().values()] == [2.0, 2.0, 2.0]


def test_an_epoch_can_have_a_length() -> None:
    assert len(make_data(epoch_batches=5).train_dataloader()) == 5


def test_seen_counts_what_was_trained_on() -> None:
    data = make_data(batch_size=4)
    stream(data, [(0.5, 0.25, 0.25)], stop=4)  # 16 samples; the measure batch is not training
    seen = data.seen()
    assert {name: row["samples"] for name, row in seen.items()} == {"a": 8, "b": 4, "c": 4}
    assert [row["epochs"] for row in seen.values()] == [8 / 7, 4 / 3, 4 / 11]
    assert [row["share"] for row in seen.values()] == [0.5, 0.25, 0.25]
    assert [row["requested"] for row in seen.values()] == pytest.approx([0.5, 0.25, 0.25])
    assert "tokens" not in seen["a"]


def test_seen_counts_tokens_where_data_sets_tell() -> None:
    train = domains(a=7, b=3)
    train["a"].tokens_per_sample, train["b"].tokens_per_sample = 10, 30
    data = make_data(train=train, batch_size=4)
    loader = data.train_dataloader()
    data.begin_episode([Segment(TRAIN, 2, (0.5, 0.5))])
    for batch in loader:
        data.on_after_batch_transfer(batch, 0)
    seen = data.seen()
    assert (seen["a"]["tokens"], seen["b"]["tokens"]) == (40, 120)
    assert (seen["a"]["token_share"], seen["b"]["token_share"]) == (0.25, 0.75)


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(1, 9), st.sampled_from([1, 2])
)
@settings(max_examples=25, deadline=None)
def test_evaluation_sees_each_sample_once(sizes, batch_size, world_size) -> None:
    sets = domains(**{f"d{number}": size for number, size in enumerate(sizes)})
    rows, batches_of = [], set()
    if sum(sizes) < world_size:
        with pytest.raises(InputError, match=r"samples to evaluate on .* devices: use fewer"):
            make_data(world_size, 0, target=sets, test=sets).test_dataloader()
        return
    for rank in range(world_size):
        data = make_data(world_size, rank, target=sets, test=sets, eval_batch_size=batch_size)
        for loader in (data.val_dataloader(), data.test_dataloader()):
            batches = list(loader)
            assert all(batch.phase == EVALUATE for batch in batches)
            assert all(batch.domains.tolist() == batch.samples[:, 0].tolist() for batch in batches)
            most = max(batch_size // world_size, 1) + (world_size > 1)
            assert all(1 <= len(batch.domains) <= most for batch in batches)
        batches_of.add(len(batches))
        rows += [tuple(row) for batch in batches for row in batch.samples.tolist()]
    assert sorted(rows) == [(d, i) for d, size in enumerate(sizes) for i in range(size)]
    assert len(batches_of) == 1  # sharded networks make every forward together


def test_domains_are_named_by_stage() -> None:
    data = make_data(test=domains(x=1))
    assert data.domain_names() == ("a", "b", "c")
    assert data.domain_names("validate") == ("t", "v")
    assert data.domain_names("test") == ("x",)


def test_the_target_weights_set_the_target_shares() -> None:
    data = make_data(target_weights={"v": 3, "t": 1})
    loader = data.train_dataloader()
    data.begin_episode([Segment(PROBE, 1, WEIGHTS[0], target=True)])
    assert next(iter(loader)).target_domains.tolist() == [0, 0, 1, 1, 1, 1, 1, 1]


def test_target_domains_that_the_weights_leave_out_have_none() -> None:
    data = make_data(target_weights={"v": 2})
    assert data.target_shares.tolist() == [0.0, 1.0]
    loader = data.train_dataloader()
    data.begin_episode([Segment(PROBE, 3, WEIGHTS[0], target=True)])
    assert [batch.target_domains.tolist() for batch in loader] == [[1] * 8] * 3
    unset = MixtureDataModule(target=domains(t=5, v=2), target_weights={"v": 2})
    assert unset.target_shares.tolist() == [0.0, 1.0], "also without a fit"
    assert MixtureDataModule().target_shares is None


# ---- resume ----


def saved(data: MixtureDataModule):
    file = io.BytesIO()
    torch.save(data.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(("workers", "world_size"), [(0, 1), (2, 1), (0, 2)])
def test_a_resumed_stream_is_the_uninterrupted_one(workers, world_size) -> None:
    """Workers fetch ahead, but only batches that arrived count; ranks may change."""
    ranks = {"world_size": world_size, "rank": world_size - 1}
    expected = stream(make_data(**ranks))
    for stop in (2, 6, 9):
        data = make_data(num_workers=workers)
        stream(data, stop=stop)
        state = saved(data)
        again = make_data(num_workers=workers, **ranks)
        again.load_state_dict(state)
        rest, loader = [], again.train_dataloader()
        at_an_end = stop % 6 == 0
        if not at_an_end:
            for batch in loader:
                again.on_after_batch_transfer(batch, 0)
                rest.append(plain(batch))
        for weights in WEIGHTS[-(-stop // 6) :]:
            again.begin_episode(plan(weights))
            for batch in loader:
                again.on_after_batch_transfer(batch, 0)
                rest.append(plain(batch))
        assert rest == expected[stop:]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"train": domains(a=7, b=3, d=11)},
            r"made with domains=.*'c': 11.*this run has domains=.*'d'",
        ),
        ({"train": domains(a=7, b=3, c=12)}, "made with domains="),
        ({"target": domains(t=5)}, "made with target domains="),
        ({"batch_size": 4}, "made with batch_size=8 and this run has batch_size=4: use the same"),
        ({"seed": 1}, "made with seed=0 and this run has seed=1"),
        ({"allocation": "multinomial"}, "made with allocation='debt'"),
    ],
)
def test_a_checkpoint_of_other_data_is_refused(other, message) -> None:
    state = saved(make_data())
    with pytest.raises(InputError, match=message):
        make_data(**other).load_state_dict(state)


def test_domains_in_another_order_are_other_data() -> None:
    """Numbers of domains in the state would point to the wrong ones."""
    state = saved(make_data(train=domains(a=7, b=7, c=7)))
    with pytest.raises(InputError, match="made with domains="):
        make_data(train=domains(b=7, a=7, c=7)).load_state_dict(state)


# ---- bad input ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": None}, r"train has no domain: give the datamodule train="),
        (
            {"train": {"a": numbered(0, 3), "b": Rows(torch.zeros(0, 2))}},
            r"train\['b'\] has no sample",
        ),
        ({"target": {"t": Rows(torch.zeros(0, 2))}}, r"target\['t'\] has no sample"),
        ({"weights": "proportionnal"}, "weights='proportionnal' is neither a file nor one of"),
        ({"weights": {"a": 1, "b": 1, "cc": 1}}, "unknown domain 'cc': did you mean 'c'"),
        ({"weights": Mixture({"a": 1, "b": 1})}, "weights says nothing of 'c'"),
        ({"target_weights": {"tt": 1}}, "target_weights names the .* 'tt': did you mean 't'"),
        ({"target_weights": {"t": 0}}, "target_weights are all 0"),
        ({"target_weights": {}}, "target_weights is empty"),
        ({"target_weights": Mixture({"t": 1})}, "target_weights says nothing of 'v'"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"epoch_batches": 0}, "epoch_batches=0 must be at least 1"),
        ({"eval_batch_size": -1}, "eval_batch_size=-1 must be at least 1"),
        ({"seed": -1}, "seed=-1 must be"),
        ({"allocation": "dept"}, "allocation='dept' must be one of 'debt', 'multinomial'"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options, message) -> None:
    with pytest.raises(InputError, match=message):
        stream(make_data(**options), stop=1)


def test_a_plan_that_wants_target_data_needs_some() -> None:
    data = make_data(target=None)
    with pytest.raises(InputError, match="'probe' batches need target data"):
        data.begin_episode(plan(WEIGHTS[0]))


def test_the_batch_must_divide_among_the_ranks() -> None:
    with pytest.raises(InputError, match=r"batch_size=8 is the batch over all ranks .* number, 3"):
        make_data(world_size=3).train_dataloader()


def test_lightnings_own_sampler_is_refused_with_several_ranks() -> None:
    data = make_data(world_size=2)
    data.trainer._accelerator_connector.use_distributed_sampler = True
    with pytest.raises(InputError, match=r"set Trainer\(use_distributed_sampler=False\)"):
        data.val_dataloader()  # Lightning would shard each rank's share again
    with pytest.raises(InputError, match=r"set Trainer\(use_distributed_sampler=False\)"):
        data.train_dataloader()


def test_testing_needs_test_data() -> None:
    with pytest.raises(InputError, match="test has no domain"):
        make_data().test_dataloader()
