"""`final_samples`: a short run passes over each domain as often as the final run."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from helpers import numbered, quiet_trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from toy import toy_data, toy_module

from tandem_pl import InputError, Mixture
from tandem_pl.callbacks import FixedMixture, TandemReweighting
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.episode import MEASURE, PROBE, TRAIN, Segment
from tandem_pl.report.domains import final_epochs

SIZES = {"a": 40, "b": 1000, "c": 333}
WEIGHTS = (0.5, 0.3, 0.2)


def make_data(sizes=SIZES, steps=-1, ranks=(0, 1), max_epochs=None, **options):
    rank, world_size = ranks
    train = {name: numbered(m, size) for m, (name, size) in enumerate(sizes.items())}
    defaults = {"train": train, "target": {"t": numbered(0, 50)}, "batch_size": 8}
    data = MixtureDataModule(**{**defaults, **options})
    data.trainer = SimpleNamespace(
        max_steps=steps,
        max_epochs=max_epochs,
        distributed_sampler_kwargs={"rank": rank, "num_replicas": world_size},
        _accelerator_connector=SimpleNamespace(use_distributed_sampler=False),
    )
    data.setup("fit")
    return data


def plan(train=7, probe=3, measure=5):
    even = (1 / len(WEIGHTS),) * len(WEIGHTS)
    return [
        Segment(TRAIN, train, WEIGHTS),
        Segment(PROBE, probe, WEIGHTS, target=True),
        Segment(MEASURE, measure, even),
    ]


def plain(batch):
    return [field.tolist() if isinstance(field, np.ndarray) else field for field in batch]


def planned(data, episodes, stop=None):
    """Return the batches of these episodes as training takes them, or the first `stop`."""
    data.sampler.share(*data.ranks())
    batches = []
    for episode in episodes:
        data.begin_episode(episode)
        for batch in data.sampler:
            data.sampler.consume(batch.step)
            batches.append(batch)
            if len(batches) == stop:
                return batches
    return batches


def counts(batches, phases=(TRAIN, PROBE)):
    """Return for each domain how often each of its samples was drawn, without those never drawn."""
    rows = [np.stack([b.domains, b.indices]) for b in batches if b.phase in phases]
    domains, indices = np.concatenate(rows, axis=1)
    return [np.unique(indices[domains == m], return_counts=True)[1] for m in range(len(SIZES))]


# ---- passes ----


@pytest.mark.parametrize(("steps", "final_steps"), [(50, 400), (50, 70), (130, 1000)])
def test_each_domain_is_passed_over_as_often_as_in_the_final_run(steps, final_steps) -> None:
    episodes = [plan()] * (steps // 10), [plan()] * (final_steps // 10)
    short = counts(planned(make_data(steps=steps, final_samples=8 * final_steps), episodes[0]))
    final = counts(planned(make_data(steps=final_steps), episodes[1]))
    for mine, theirs, size in zip(short, final, SIZES.values(), strict=True):
        passes = theirs.sum() / size
        pool = -(-size * steps // final_steps)
        assert len(mine) == min(pool, mine.sum())
        assert np.ptp(mine) <= 1 or len(mine) < pool  # passes are whole but for the last
        # the pool that would make the passes equal is within a sample of the one that there is
        assert abs(mine.sum() / passes - pool) < 1 + 1 / passes  # and allocation is by debt


def test_passes_are_equal_where_sizes_divide() -> None:
    sizes = {"a": 40, "b": 1000, "c": 200}
    short = make_data(sizes, steps=50, final_samples=8 * 500)
    planned(short, [plan()] * 5)
    final = make_data(sizes, steps=500)
    planned(final, [plan()] * 50)
    assert short.seen_arrays()["epochs"].tolist() == final.seen_arrays()["epochs"].tolist()
    assert short.seen()["a"] == {"samples": 200, "epochs": 50, "share": 0.5, "requested": 0.5}


def test_measured_samples_are_of_the_pool_and_target_and_evaluation_are_whole() -> None:
    data = make_data(steps=500, final_samples=8 * 5000)
    batches = planned(data, [plan()] * 50)
    trained, measured = (
        {
            tuple(row)
            for batch in batches
            if batch.phase in phases
            for row in np.c_[batch.domains, batch.indices].tolist()
        }
        for phases in ((TRAIN, PROBE), (MEASURE,))
    )
    assert len(trained) == 4 + 100 + 34
    assert measured <= trained
    targets = {int(i) for b in batches if b.phase == PROBE for i in b.target_indices}
    assert len(targets) == 50
    assert data.domain_sizes() == SIZES
    loader = data.evaluation_loader(data.train_sets)
    assert sum(len(batch.domains) for batch in loader) == sum(SIZES.values())


def test_a_run_as_long_as_the_final_one_is_unchanged() -> None:
    expected = planned(make_data(steps=50), [plan()] * 5)
    same = planned(make_data(steps=50, final_samples=400), [plan()] * 5)
    assert list(map(plain, same)) == list(map(plain, expected))


# ---- the length of the run ----


def test_the_length_follows_from_episodes_as_a_callback_plans_them() -> None:
    data = make_data(max_epochs=3, final_samples=2400)
    data.begin_episode(plan())
    assert data.pools.sizes() == {"a": 4, "b": 100, "c": 34}  # 3 x 10 steps of 8, of 2400
    planned(data, [plan(), plan(train=100)])
    assert data.pools.run == 240, "later plans change nothing"
    both = make_data(steps=20, max_epochs=3, final_samples=2400)
    both.begin_episode(plan())
    assert both.pools.run == 160


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 10, "final_samples": 79}, "final_samples=79 is smaller .* on 80 samples"),
        ({"final_samples": 100}, "final_samples=100 needs a run of known length"),
        ({"final_samples": 1.5}, "final_samples=1.5 must be a whole number"),
        ({"final_samples": 0}, "final_samples=0 must be"),
        ({"steps": 10, "final_tokens": 640}, "final_tokens=640 needs samples of one length"),
        ({"final_samples": 100, "final_tokens": 100}, "are both given"),
    ],
)
def test_lengths_that_cannot_be_used_are_refused(options, message) -> None:
    with pytest.raises(InputError, match=message):
        make_data(**options).train_dataloader()


def test_a_length_in_tokens() -> None:
    train = {name: numbered(0, size) for name, size in SIZES.items()}
    for rows in train.values():
        rows.tokens_per_sample = 16
    data = make_data(steps=10, train=train, final_tokens=16 * 800)
    assert data.pools.sizes() == make_data(steps=10, final_samples=800).pools.sizes()
    assert data.record["final_samples"] == 800


# ---- resume and ranks ----


def saved(data):
    file = io.BytesIO()
    torch.save(data.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("world_size", [1, 2])
def test_ranks_and_resumed_runs_draw_from_the_same_pools(world_size) -> None:
    settings = {"steps": 20, "final_samples": 1600}
    expected = list(map(plain, planned(make_data(**settings), [plan()] * 2)))
    for stop in (4, 15, 23):
        parts = []
        for rank in range(world_size):
            data = make_data(**settings)
            planned(data, [plan()] * 2, stop)
            again = make_data(**settings, ranks=(rank, world_size))
            again.begin_episode(plan())
            again.load_state_dict(saved(data))
            again.sampler.share(*again.ranks())
            rest = list(again.sampler)
            for batch in rest:
                again.sampler.consume(batch.step)
            parts.append(rest + (planned(again, [plan()]) if stop <= 15 else []))
        for batch, *mine in zip(expected[stop:], *parts, strict=True):
            for place, name in ((4, "domains"), (5, "indices")):
                rows = np.stack([getattr(part, name) for part in mine], axis=1).ravel()
                assert rows.tolist() == batch[place]


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ({}, {"final_samples": 800}, "made with final_samples=None .* has final_samples=800: use"),
        ({"final_samples": 800}, {}, "made with final_samples=800 .* has final_samples=None"),
        ({"final_samples": 800}, {"final_samples": 900}, "final_samples=800 .* final_samples=900"),
        (
            {"final_samples": 800},
            {"final_samples": 800, "steps": 40},
            "made with the run's samples=160 and this run has the run's samples=320: use",
        ),
    ],
)
def test_a_checkpoint_of_other_pools_is_refused(before, now, message) -> None:
    state = saved(make_data(**{"steps": 20, **before}))
    with pytest.raises(InputError, match=message):
        make_data(**{"steps": 20, **now}).load_state_dict(state)


def test_without_pools_a_run_may_get_longer_and_older_checkpoints_load() -> None:
    state = saved(make_data(steps=20))
    make_data(steps=40).load_state_dict(state)
    del state["identity"]["final_samples"], state["identity"]["the run's samples"]
    make_data(steps=40).load_state_dict(state)
    with pytest.raises(InputError, match="made with final_samples=None"):
        make_data(steps=20, final_samples=800).load_state_dict(state)


# ---- weights ----


@pytest.mark.parametrize("weights", ["unimax:2", "epoch_capped:2", "proportional", "temperature:2"])
def test_static_weights_are_those_of_the_final_run(weights) -> None:
    final = make_data(steps=150, weights=weights).mixture
    assert make_data(steps=10, weights=weights, final_samples=1200).mixture == final


# ---- whole runs ----


def fit(folder, method, callbacks=(), ckpt_path=None, **options):
    trainer = quiet_trainer(folder, callbacks=[method, *callbacks], **options.pop("trainer"))
    data = toy_data(**options)
    trainer.fit(toy_module("TandemModule"), datamodule=data, ckpt_path=ckpt_path)
    return data


def test_a_learning_run_shows_its_pools(tmp_path, capsys, caplog) -> None:
    """Ten episodes of 5 steps of 12 samples, a fifth of the final run's."""
    method = TandemReweighting(3, 2, 3)
    with caplog.at_level("INFO"):
        data = fit(tmp_path, method, trainer={"max_epochs": 10}, final_samples=3000)
    pool = {"twin": 24, "other": 24, "noise": 24}
    assert data.pools.sizes() == pool
    text = caplog.text + capsys.readouterr().err
    assert "this run of 600 samples repeats each domain as often as a run of 3000" in text
    assert "twin 24 of 120, other 24 of 120, noise 24 of 120" in text
    about = Mixture.load(tmp_path).about
    assert about["data"]["pool"] == pool
    assert about["data"]["final_samples"] == 3000
    assert about["data"]["samples"] == dict.fromkeys(pool, 120)
    for name, drawn in about["samples"].items():
        assert about["epochs"][name] == drawn / 24
    assert "24 of 120" in text.split("domain")[-1]
    mixture = Mixture.load(tmp_path)
    expected = {name: 3000 * share / 120 for name, share in mixture.average.items()}
    assert final_epochs(mixture, samples=3000) == pytest.approx(expected)
    # the mixture is no other data's for a final run
    assert "fingerprint" not in yaml.safe_load((tmp_path / "mixture.yaml").read_text())["data"]


def test_a_fixed_mixture_caps_passes_of_the_final_run(tmp_path) -> None:
    method = FixedMixture("unimax:2", episode_steps=5)
    with pytest.raises(InputError, match="cannot fill a run of 1080"):  # this run has 120
        fit(tmp_path, method, trainer={"max_steps": 10}, final_samples=1080)


def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path) -> None:
    def run(folder, steps=30, **options):
        method = TandemReweighting(3, 2, 3)
        save = ModelCheckpoint(folder, every_n_train_steps=13, save_top_k=-1)
        settings = {"enable_checkpointing": True, "max_steps": steps}
        fit(folder, method, [save], trainer=settings, final_samples=1200, **options)
        return method.mixture

    whole = run(tmp_path / "whole")
    (middle,) = (tmp_path / "whole").glob("*step=13.ckpt")
    again = run(tmp_path / "again", ckpt_path=str(middle))
    assert (again.weights, again.average) == (whole.weights, whole.average)
    with pytest.raises(InputError, match=r"the run's samples=360 .* the run's samples=480"):
        run(tmp_path / "longer", steps=40, ckpt_path=str(middle))
