"""DoReMi against its equations in NumPy and plain PyTorch."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import parameters_of, quiet_trainer
from torch import nn
from torch.nn import functional as F
from toy import (
    Steps,
    flat_gradient,
    samples,
    toy_data,
    toy_module,
    toy_network,
    train_reference,
    with_parameters,
)

from tandem_pl import InputError, MixtureModule
from tandem_pl.callbacks import DoReMiReweighting
from tandem_pl.callbacks.loss_weighting import sample_weights, step_towards_scores
from tandem_pl.callbacks.methods.doremi import TokenLosses, excess_sums, load_reference
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.objectives import CausalLanguageModeling, Classification
from tandem_pl.simplex import projected_step

RATE = 0.1


def sgd(parameters):
    return torch.optim.SGD(parameters, RATE)


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    return train_reference(tmp_path_factory.mktemp("reference") / "reference.ckpt")


def reference_network(path: Path) -> nn.Module:
    network = toy_network()
    state = torch.load(path, weights_only=True)["state_dict"]
    network.load_state_dict({key.removeprefix("network."): value for key, value in state.items()})
    return network


def run(
    tmp_path, method, objective=None, batch_size=12, steps=9, network=None, weights=None, **options
):
    module = MixtureModule(network or toy_network(), objective or Classification(), sgd, **options)
    record = Steps(method)
    trainer = quiet_trainer(tmp_path, callbacks=[method, record], max_steps=steps)
    trainer.fit(module, datamodule=toy_data(batch_size=batch_size, weights=weights))
    return module, record


# ---- the update ----


def by_hand(alpha, scores, eta, c):
    grown = [a * math.exp(eta * s) for a, s in zip(alpha, scores, strict=True)]
    return [(1 - c) * g / sum(grown) + c / len(alpha) for g in grown]


def test_the_update_is_the_papers() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        alpha, scores = generator.dirichlet(np.ones(5)), generator.exponential(size=5)
        eta, c = generator.uniform(0.1, 3), generator.uniform(0, 0.5)
        np.testing.assert_allclose(
            step_towards_scores(alpha, scores, eta, c), by_hand(alpha, scores, eta, c), rtol=1e-12
        )


def test_limits_of_the_update() -> None:
    alpha = np.array([0.5, 0.3, 0.2])
    np.testing.assert_allclose(
        step_towards_scores(alpha, np.zeros(3), 1.0), alpha, rtol=0, atol=1e-16
    )
    np.testing.assert_allclose(
        step_towards_scores(alpha, np.arange(3.0), 1.0, 1.0), 1 / 3, rtol=1e-15
    )
    far = step_towards_scores(alpha, np.array([0.0, 1e4, 0.0]), 1.0, 0.03)  # exp would overflow
    np.testing.assert_allclose(far, [0.01, 0.98, 0.01], rtol=1e-12)
    assert step_towards_scores(np.array([0.0, 1.0]), np.array([9.0, 0.0]), 1.0)[0] == 0.0
    assert step_towards_scores(np.array([0.0, 1.0]), np.array([9.0, 0.0]), 1.0, 0.1)[
        0
    ] == pytest.approx(0.05)


def test_excess_is_clipped_token_by_token() -> None:
    generator = torch.Generator().manual_seed(0)
    mine, theirs = (torch.rand(7, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    labelled = torch.rand(7, 5, generator=generator) < 0.7
    domains = torch.tensor([0, 0, 3, 1, 1, 1, 3])
    sums = excess_sums(TokenLosses(mine, labelled), TokenLosses(theirs, labelled), domains, 4)
    expected = np.zeros((3, 4))
    for b, domain in enumerate(domains.tolist()):
        expected[2, domain] += 1
        for t in range(5):
            if labelled[b, t]:
                expected[0, domain] += max(mine[b, t].item() - theirs[b, t].item(), 0.0)
                expected[1, domain] += 1
    np.testing.assert_allclose(sums, expected, rtol=1e-12)
    assert sums[:, 2].tolist() == [0, 0, 0]
    mine[0, 0], labelled[0, 0] = math.nan, True
    bad = excess_sums(TokenLosses(mine, labelled), TokenLosses(theirs, labelled), domains, 4)
    assert np.isnan(bad[0, 0])  # not hidden by the clip
    assert np.isfinite(bad[0, 1:]).all()
    mine[0, 0], theirs[0, 0] = 1.0, math.inf
    bad = excess_sums(TokenLosses(mine, labelled), TokenLosses(theirs, labelled), domains, 4)
    assert np.isnan(bad[0, 0])  # nor is the reference's


def test_sample_weights_make_both_means() -> None:
    domains, alpha = torch.tensor([0, 0, 0, 2]), np.array([0.5, 0.2, 0.3])
    losses, counts = np.array([1.0, 2.0, 6.0, 5.0]), np.array([3.0, 0.0, 1.0])
    by_domain = sample_weights(domains, alpha, counts).numpy() @ losses
    assert by_domain == pytest.approx(0.5 * 3 + 0.3 * 5)
    by_sample = sample_weights(domains, alpha, counts, "sample").numpy() @ losses
    assert by_sample == pytest.approx((0.5 * 9 + 0.3 * 5) / (0.5 * 3 + 0.3))


# ---- the run, step by step ----


def check_steps(record, method, path, eta, c, per="domain", batch=12, drawn=(1, 1, 1)) -> None:
    """Every step's scores, weights and parameters, from its batch and parameters before it."""
    drawn = np.array(drawn) / np.sum(drawn)
    theirs, alpha, scores = reference_network(path), drawn, np.zeros(3)
    total, absent = alpha.copy(), 0
    for number, got in enumerate(record.batches):
        network = with_parameters(record.before[number][0])
        inputs, labels = got.samples
        losses = F.cross_entropy(network(inputs), labels, reduction="none")
        excess = (losses - F.cross_entropy(theirs(inputs), labels, reduction="none")).clamp(min=0)
        for m in range(3):
            rows = got.domains == m
            if rows.any():
                scores[m] = excess[rows].mean().item()
            absent += not rows.any()
        alpha = np.array(by_hand(alpha, scores, eta, c))
        total += alpha
        np.testing.assert_allclose(record.scores[number], scores, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(record.alphas[number], alpha, rtol=1e-9)
        np.testing.assert_allclose(record.losses[number], losses.detach(), rtol=1e-9)
        weights = torch.from_numpy(alpha)
        means = [losses[got.domains == m].mean() for m in range(3)]
        if per == "domain":
            loss = sum(weights[m] * means[m] for m in range(3) if (got.domains == m).any())
        else:
            each = (weights / torch.from_numpy(drawn))[got.domains]
            loss = (each * losses).sum() / each.sum()
        after = record.before[number][0] - RATE * flat_gradient(loss, network)
        torch.testing.assert_close(record.after[number][0], after, rtol=0, atol=1e-12)
    assert (absent > 0) == (batch < 3)
    average = np.array(list(method.mixture.average.values()))
    np.testing.assert_allclose(average, total / (len(record.batches) + 1), rtol=1e-9)


@pytest.mark.parametrize("loss_mean", ["domain", "sample"])
@pytest.mark.parametrize(("batch", "micro"), [(12, None), (12, 5), (2, None)])
def test_every_step_is_algorithm_1(loss_mean, batch, micro, reference, tmp_path) -> None:
    """Also with micro-batches, and with batches that lack domains, whose last scores are kept."""
    method = DoReMiReweighting(str(reference), 2.0, 0.01, loss_mean=loss_mean, episode_steps=4)
    _, record = run(tmp_path, method, batch_size=batch, micro_batch_size=micro)
    check_steps(record, method, reference, 2.0, 0.01, loss_mean, batch)
    assert method.steps == [0, 4, 8]
    assert np.array_equal(method.trajectory[2], record.alphas[7])
    signal = np.mean([record.scores[n] for n in range(4, 8)], axis=0)
    np.testing.assert_allclose(method.signals[1][0], signal, rtol=1e-12)


RARE = {"twin": 0.6, "other": 0.3, "noise": 0.1}


@pytest.mark.parametrize("loss_mean", ["domain", "sample"])
@pytest.mark.parametrize("micro", [None, 5])
def test_sampling_by_the_weights_is_the_authors(loss_mean, micro, reference, tmp_path) -> None:
    """Samples are drawn with s, which is alpha's start, and weigh alpha/s."""
    method = DoReMiReweighting(
        str(reference), 2.0, 0.01, loss_mean, episode_steps=5, sampling="weights"
    )
    _, record = run(tmp_path, method, steps=10, weights=RARE, micro_batch_size=micro)
    check_steps(record, method, reference, 2.0, 0.01, loss_mean, drawn=list(RARE.values()))
    assert np.abs(record.alphas[-1] - list(RARE.values())).max() > 0.05
    counts = sum(torch.bincount(batch.domains, minlength=3) for batch in record.batches)
    np.testing.assert_allclose(counts, [72, 36, 12], atol=1)


def test_even_weights_are_even_sampling(reference, tmp_path) -> None:
    """Even sampling is the default."""
    ends = []
    for more in ({}, {"sampling": "even"}, {"sampling": "weights"}):
        method = DoReMiReweighting(str(reference), loss_mean="sample", episode_steps=4, **more)
        module, record = run(tmp_path, method)
        ends.append((parameters_of(module.network), np.array(record.alphas)))
    assert torch.equal(ends[0][0], ends[1][0])
    assert np.array_equal(ends[0][1], ends[1][1])
    torch.testing.assert_close(ends[2][0], ends[0][0], rtol=0, atol=1e-12)


def test_sampling_by_a_weight_of_0_is_refused(reference, tmp_path) -> None:
    method = DoReMiReweighting(str(reference), sampling="weights")
    message = "sampling='weights' never draws 'noise', whose weight is 0: give it a weight"
    with pytest.raises(InputError, match=message):
        run(tmp_path, method, weights=RARE | {"noise": 0})


def test_domains_are_drawn_alike_whatever_the_weights(reference, tmp_path) -> None:
    method = DoReMiReweighting(str(reference), 50.0, episode_steps=3)
    _, record = run(tmp_path, method)
    assert np.abs(record.alphas[-1] - 1 / 3).max() > 0.2
    for batch in record.batches:
        assert torch.bincount(batch.domains, minlength=3).tolist() == [4, 4, 4]


class TwoTokens(Classification):
    """Each class score is a token: two losses a sample, of which some are not labelled."""

    def token_losses(self, network, pair):
        inputs, labels = pair
        logits = network(inputs)
        both = F.softplus(logits * (1 - 2 * F.one_hot(labels, 2)))
        return both, torch.stack([labels >= 0, inputs[:, 0] > 0], dim=1)

    def __call__(self, network, pair):
        losses, labelled = self.token_losses(network, pair)
        return (losses * labelled).sum(1) / labelled.sum(1)


def test_an_objective_with_token_losses_is_clipped_by_token(reference, tmp_path) -> None:
    method = DoReMiReweighting(str(reference), smoothing=0.0, episode_steps=4)
    _, record = run(tmp_path, method, objective=TwoTokens())
    theirs, apart = reference_network(reference), 0.0
    for number, batch in enumerate(record.batches):
        network = with_parameters(record.before[number][0])
        mine, labelled = TwoTokens().token_losses(network, batch.samples)
        gap = (mine - TwoTokens().token_losses(theirs, batch.samples)[0]).detach()
        for m in range(3):
            kept = labelled & (batch.domains == m)[:, None]
            token = gap[kept].clamp(min=0).mean().item()
            assert record.scores[number][m] == pytest.approx(token, rel=1e-9)
            apart = max(apart, abs(token - gap[kept].mean().clamp(min=0).item()))
        np.testing.assert_allclose(
            record.losses[number], TwoTokens()(network, batch.samples).detach(), rtol=1e-9
        )
    assert apart > 1e-3  # clipping later would be another number


class Bigrams(nn.Module):
    """Logits of the next token from the present one alone."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 11)

    def forward(self, input_ids, attention_mask=None, position_ids=None):
        return self.table(input_ids)


@pytest.mark.parametrize("layout", ["padded", "packed", "bucketed"])
def test_token_losses_of_language_modeling(layout) -> None:
    """-log p of each labelled token; their means are the samples' losses, in every layout."""
    generator, lengths = torch.Generator().manual_seed(0), [7, 3, 12, 5]
    tokens = torch.randint(11, (4, 12), generator=generator)
    mask = (torch.arange(12) < torch.tensor(lengths)[:, None]).long()
    labels = tokens.masked_fill(torch.rand(4, 12, generator=generator) < 0.3, -100)
    batch = {"input_ids": tokens, "attention_mask": mask, "labels": labels}
    torch.manual_seed(0)
    network, objective = Bigrams().double(), CausalLanguageModeling(layout=layout)
    losses, labelled = objective.token_losses(network, batch)
    assert losses.shape == labelled.shape
    for row, length in enumerate(lengths):
        expected = {}
        for t in range(length - 1):
            if labels[row, t + 1] != -100:
                log = network.table.weight[tokens[row, t]].log_softmax(0)
                expected[t] = -log[tokens[row, t + 1]].item()
        assert labelled[row].nonzero().flatten().tolist() == list(expected)
        found = losses[row][labelled[row]].tolist()
        assert found == pytest.approx(list(expected.values()), rel=1e-9)
    means = TokenLosses(losses, labelled).means()
    torch.testing.assert_close(means, objective(network, batch), rtol=0, atol=1e-12)


def test_one_projected_update_with_doremis_direction(reference, tmp_path) -> None:
    """Delta = -max(excess, 0), in TANDEM's update."""
    method = DoReMiReweighting(
        str(reference), 0.3, smoothing=0.0, update="projected", episode_steps=4
    )
    _, record = run(tmp_path, method)
    alpha = np.full(3, 1 / 3)
    for got, scores in zip(record.alphas, record.scores, strict=True):
        alpha = projected_step(alpha, -scores, 0.3)
        assert np.array_equal(got, alpha)
    assert np.abs(alpha - 1 / 3).max() > 0.05


def test_an_excess_of_zero_leaves_the_weights(tmp_path) -> None:
    module = toy_module()
    trainer = quiet_trainer(tmp_path, max_steps=1)
    trainer.fit(module, datamodule=toy_data())
    trainer.save_checkpoint(tmp_path / "same.ckpt")
    method = DoReMiReweighting(str(tmp_path / "same.ckpt"), smoothing=0.0, episode_steps=1)
    start = with_parameters(parameters_of(module.network))
    _, record = run(tmp_path, method, network=start, steps=1)
    np.testing.assert_allclose(record.scores[0], 0.0, atol=1e-15)
    np.testing.assert_allclose(record.alphas[0], 1 / 3, rtol=1e-12)


# ---- the reference ----


def with_dropout() -> nn.Module:
    torch.manual_seed(3)
    middle = [nn.BatchNorm1d(8), nn.Dropout(0.5)]
    return nn.Sequential(nn.Linear(4, 8), *middle, nn.Linear(8, 2)).double()


def test_the_reference_rests_in_eval_mode(tmp_path) -> None:
    path = train_reference(tmp_path / "reference.ckpt", steps=5, network=with_dropout())
    method = DoReMiReweighting(str(path), smoothing=0.0, episode_steps=2)
    module, record = run(tmp_path, method, network=with_dropout(), steps=4)
    saved = torch.load(path, weights_only=True)["state_dict"]
    for key, value in method.reference_network.state_dict().items():
        assert torch.equal(value, saved[f"network.{key}"]), key
    assert not any(part.training for part in method.reference_network.modules())
    assert not any(p.requires_grad for p in method.reference_network.parameters())
    assert all(part.training for part in module.network.modules())
    again = DoReMiReweighting(str(path), smoothing=0.0, episode_steps=2)
    _, repeated = run(tmp_path, again, network=with_dropout(), steps=4)
    assert all(map(np.array_equal, record.scores, repeated.scores))


def test_micro_batches_pass_batch_norm_once(tmp_path) -> None:
    """They take two forwards; the one that only looks ahead leaves no trace."""
    path = train_reference(tmp_path / "reference.ckpt", steps=5, network=with_dropout())
    method = DoReMiReweighting(str(path), episode_steps=2)
    module, _ = run(tmp_path, method, network=with_dropout(), steps=2, micro_batch_size=6)
    assert module.network[1].num_batches_tracked == 4  # two steps of two parts


def test_the_reference_may_be_a_runs_folder(reference, tmp_path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(reference.read_bytes())
    found = load_reference(str(tmp_path), toy_network(9))
    assert torch.equal(parameters_of(found), parameters_of(reference_network(reference)))
    with pytest.raises(InputError, match=r"reference=.*checkpoints/last\.ckpt' does not exist"):
        load_reference(str(tmp_path / "checkpoints"), toy_network())


def test_a_checkpoint_without_frozen_parameters(tmp_path) -> None:
    network = toy_network(4)
    network[0].requires_grad_(False)
    module = toy_module(network=network, checkpoint_frozen=False)
    trainer = quiet_trainer(tmp_path, max_steps=3)
    trainer.fit(module, datamodule=toy_data())
    trainer.save_checkpoint(tmp_path / "some.ckpt")
    found = load_reference(str(tmp_path / "some.ckpt"), network)
    assert torch.equal(parameters_of(found), parameters_of(module.network))
    with pytest.raises(InputError, match=r"first differs in '0\.weight'"):
        load_reference(str(tmp_path / "some.ckpt"), toy_network(4))


def test_a_loss_that_is_not_finite_leaves_the_weights(reference, tmp_path, caplog) -> None:
    caplog.set_level("INFO")
    bad = samples("twin", 24, 0)
    bad.tensors[0][:4] = math.nan
    train = {"twin": bad, "other": samples("other", 24, 1), "noise": samples("noise", 24, 2)}
    method = DoReMiReweighting(str(reference), episode_steps=6)
    module, record = MixtureModule(toy_network(), Classification(), sgd), Steps(method)
    trainer = quiet_trainer(tmp_path, callbacks=[method, record], max_steps=6)
    with pytest.warns(UserWarning, match=r"excess_loss is not finite, .*change \(domains: twin; 1"):
        trainer.fit(module, datamodule=MixtureDataModule(train, batch_size=6))
    before = [np.full(3, 1 / 3), *record.alphas[:-1]]
    marked = [bool(batch.samples[0].isnan().any()) for batch in record.batches]
    assert 0 < sum(marked) < 6
    for stays, old, new in zip(marked, before, record.alphas, strict=True):
        assert np.array_equal(old, new) == stays
    assert method.skipped_updates == module.skipped_updates == sum(marked)
    assert method.metrics["mixture/skipped_updates"] == sum(marked)
    assert f"\n{sum(marked)} of 6 updates were skipped\n" in caplog.text
    assert torch.isfinite(parameters_of(module.network)).all()
