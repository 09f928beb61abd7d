"""Rounds over clusters: the two rules against transcriptions, rewards against gradients."""

import copy
import math

import numpy as np
import pytest
import torch
from helpers import Recorder, quiet_trainer
from lightning.pytorch import Callback
from toy import flat_gradient, samples, toy_data, toy_module

from tandem_pl import InputError
from tandem_pl.callbacks import ClusterBanditReweighting
from tandem_pl.callbacks.methods.cluster_bandit import choose, reassess, upper_bounds
from tandem_pl.datamodules import MixtureDataModule


@pytest.mark.parametrize("seed", range(4))
def test_scores_and_shares_are_the_papers(seed):
    generator = np.random.default_rng(seed)
    totals, visits = generator.normal(size=5), generator.integers(0, 4, 5).astype(float)
    scores = upper_bounds(totals, visits, 0.7)
    for i in range(5):
        if visits[i]:
            bonus = math.sqrt(2 * math.log(sum(visits)) / visits[i])
            assert scores[i] == pytest.approx(totals[i] / visits[i] + 0.7 * bonus)
        else:
            assert scores[i] == math.inf
    shares, rewards = generator.dirichlet(np.ones(5)), generator.uniform(size=3)
    found = reassess(shares, np.array([0, 2, 3]), rewards, usual=0.5)
    factors = [rewards[0] / 0.5, 1.0, rewards[1] / 0.5, rewards[2] / 0.5, 1.0]
    products = [share * factor for share, factor in zip(shares, factors, strict=True)]
    np.testing.assert_allclose(found, [product / sum(products) for product in products])
    assert reassess(shares, np.array([1]), np.zeros(1), 0.0) is shares


def test_equal_scores_are_chosen_in_order():
    order = np.array([3, 0, 2, 1])
    assert choose(np.array([1.0, np.inf, np.inf, np.inf]), order, 2).tolist() == [2, 3]
    assert choose(np.zeros(4), order, 9).tolist() == [0, 1, 2, 3]


class Rewards(Callback):
    """The cosines of each measure batch by single backwards, and the method's."""

    def __init__(self, method):
        self.method, self.pairs = method, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch.phase != "measure" or batch.last:
            return
        network = copy.deepcopy(pl_module.network)

        def gradient(pair):
            return flat_gradient(pl_module.objective(network, pair).mean(), network)

        target, cosines = gradient(batch.target_samples), []
        assert set(batch.domains.tolist()) == set(self.method._chosen.tolist())
        for domain in self.method._chosen:
            rows = batch.domains == int(domain)
            mine = gradient(tuple(x[rows] for x in batch.samples))
            cosines.append(torch.nn.functional.cosine_similarity(mine, target, dim=0).item())
        self.pairs.append((cosines, self.method._measured[-1][0]))


@pytest.mark.parametrize("rule", ["quad", "diversify"])
def test_rewards_are_cosines_of_gradients(rule, tmp_path):
    method = ClusterBanditReweighting(rule, clusters=2, period=2, measure_batches=2)
    rewards = Rewards(method)
    trainer = quiet_trainer(tmp_path, callbacks=[method, rewards], max_epochs=3)
    trainer.fit(toy_module(), datamodule=toy_data())
    assert len(rewards.pairs) == 3
    for expected, found in rewards.pairs:
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def many_clusters(size, **options):
    """A tenth of the clusters is like the target, the others are noise."""
    kinds = ["twin" if number % 10 == 0 else "noise" for number in range(size)]
    train = {f"c{number:04d}": samples(kind, 8, number) for number, kind in enumerate(kinds)}
    target = {"t": samples("t", 80, 7)}
    return MixtureDataModule(train, target=target, batch_size=12, **options)


@pytest.mark.parametrize(("rule", "least"), [("quad", 0.4), ("diversify", 0.15)])
def test_finds_the_few_good_clusters_among_many(rule, least, tmp_path):
    method = ClusterBanditReweighting(rule, clusters=4, period=1, measure_batches=3)
    trainer = quiet_trainer(tmp_path, callbacks=[method], max_epochs=45)
    trainer.fit(toy_module(), datamodule=many_clusters(20))
    average = np.array(list(method.mixture.average.values()))
    assert average[::10].sum() > least  # of data that has a tenth of them
    assert (method._visits > 0).all()


def test_a_round_goes_through_the_chosen_alone(tmp_path, monkeypatch):
    """1000 clusters measure and go through as many as 10."""
    from tandem_pl.callbacks.measures import alignment

    asked, inner = [], alignment.domain_gradients

    def counted(module, domains, batch_samples, size, step, *salt):
        asked.append((len(domains), size))
        return inner(module, domains, batch_samples, size, step, *salt)

    monkeypatch.setattr(alignment, "domain_gradients", counted)
    found = []
    for size in (10, 1000):
        asked.clear()
        method, recorder = ClusterBanditReweighting(clusters=5, period=1), Recorder()
        trainer = quiet_trainer(tmp_path, callbacks=[method, recorder], max_epochs=2)
        trainer.fit(toy_module(), datamodule=many_clusters(size))
        found.append((list(asked), [batch.phase for batch in recorder.batches]))
    assert found[0] == found[1]
    assert found[0][0] == [(12, 5)] * 4


def test_a_gradient_that_is_not_finite_moves_on_to_other_clusters(tmp_path):
    method, data = ClusterBanditReweighting(clusters=1, period=1, measure_batches=1), toy_data()
    data.train_sets["noise"].tensors[0][:] = torch.nan
    trainer = quiet_trainer(tmp_path, callbacks=[method], max_epochs=8)
    trainer.fit(toy_module(max_skipped_updates=100), datamodule=data)
    assert method.skipped_updates >= 1
    assert (method._visits[:2] > 0).all()
    assert np.isfinite(method._totals).all()


def test_refuses_fewer_samples_than_clusters(tmp_path):
    method = ClusterBanditReweighting("diversify", clusters=3, measure_batches=1)
    trainer = quiet_trainer(tmp_path, callbacks=[method], max_epochs=1)
    with pytest.raises(InputError, match="fewer samples than clusters=3"):
        trainer.fit(toy_module(), datamodule=toy_data(batch_size=2))


@pytest.mark.parametrize("clusters", [1, 4])
def test_diversify_moves_weight_between_the_groups_of_a_round(clusters, tmp_path):
    """8 clusters in rounds of 1 or 4, which are the same ones all the time."""
    train = {f"c{n}": samples("twin" if n < 4 else "noise", 40, n) for n in range(8)}
    data = MixtureDataModule(train, target={"t": samples("t", 80, 7)}, batch_size=12)
    method = ClusterBanditReweighting("diversify", clusters, period=1, measure_batches=2)
    trainer = quiet_trainer(tmp_path, callbacks=[method], max_epochs=48)
    trainer.fit(toy_module(), datamodule=data)
    assert method._shares[:4].sum() > 0.7


def test_a_score_that_is_the_usual_one_changes_no_share():
    shares = np.array([0.1, 0.2, 0.3, 0.4])
    found = reassess(shares, np.array([1, 3]), np.array([1.5, 1.5]), usual=1.5)
    np.testing.assert_allclose(found, shares, rtol=1e-15)


@pytest.mark.parametrize(("rule", "number"), [("quad", 1), ("diversify", 3)])
def test_quad_leaves_some_domains_out(rule, number, tmp_path):
    """The default of 8 is more than the toy has."""
    method = ClusterBanditReweighting(rule, period=2)
    trainer = quiet_trainer(tmp_path, callbacks=[method], max_epochs=2)
    trainer.fit(toy_module(), datamodule=toy_data())
    assert len(method._chosen) == number
    assert (np.count_nonzero(method.trajectory, axis=1) == number).all()


def test_a_gradient_that_is_not_finite_counts_as_the_lowest_reward(tmp_path):
    """The rewards of the clusters beside it count as they are."""
    method = ClusterBanditReweighting("diversify", clusters=3, period=1, measure_batches=1)
    data = toy_data()
    data.train_sets["noise"].tensors[0][:] = torch.nan
    trainer = quiet_trainer(tmp_path, callbacks=[method], max_epochs=2)
    trainer.fit(toy_module(max_skipped_updates=100), datamodule=data)
    assert method.skipped_updates == 2
    assert method._visits.tolist() == [2, 2, 2]
    assert method._totals[2] == -2
    assert method._totals[0] > 0.2
