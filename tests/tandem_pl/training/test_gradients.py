"""Gradients of groups of samples against autograd on the whole and finite differences."""

import torch
from helpers import predict_last, quiet_trainer, small_network
from lightning.pytorch import Callback
from module_helpers import WIDTH, fit, make_data, sgd

from tandem_pl import MixtureModule
from tandem_pl.training.gradients import domain_gradients, dot, mean_gradient, norm


class Grab(Callback):
    """Takes gradients of the first batch, in training."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        size = len(batch.domains)
        self.batch = batch
        self.mean, self.losses = mean_gradient(pl_module, batch.samples, size, batch.step)
        self.parts = list(domain_gradients(pl_module, batch.domains, batch.samples, 3, batch.step))


def grab(tmp_path, **options):
    module, grab = MixtureModule(small_network(WIDTH), predict_last, sgd, **options), Grab()
    fit(tmp_path, module, make_data(epoch_batches=1), grab, max_steps=1)
    return module, grab


def test_the_mean_gradient_is_autograds(tmp_path) -> None:
    for options in ({}, {"micro_batch_size": 3}):
        module, got = grab(tmp_path, **options)
        losses = predict_last(module.network, got.batch.samples)
        expected = torch.autograd.grad(losses.mean(), list(module.network.parameters()))
        for mine, theirs in zip(got.mean, expected, strict=True):
            torch.testing.assert_close(mine, theirs)
        torch.testing.assert_close(got.losses, losses.detach())


def test_domains_gradients_add_up_and_an_absent_one_is_zero(tmp_path) -> None:
    _, got = grab(tmp_path)
    assert [m for m, *_ in got.parts] == [0, 1, 2]
    counts = [count for *_, count in got.parts]
    assert counts == [4, 4, 0]
    assert norm(got.parts[2][1]) == 0.0
    for place, whole in enumerate(got.mean):
        parts = sum(count * gradient[place] for _, gradient, _, count in got.parts) / 8
        torch.testing.assert_close(parts, whole)


def test_the_dot_product_is_a_finite_difference(tmp_path) -> None:
    """<g_m, v> = d/dt L_m(theta + t v) at 0."""
    module, got = grab(tmp_path)
    direction, parameters = got.mean, list(module.network.parameters())
    start = [p.detach().clone() for p in parameters]
    for domain, gradient, _, count in got.parts[:2]:
        ends = []
        for t in (1e-5, -1e-5):
            with torch.no_grad():
                for p, s, d in zip(parameters, start, direction, strict=True):
                    p.copy_(s + t * d)
                losses = predict_last(module.network, got.batch.samples)
                ends.append(losses[got.batch.domains == domain].mean().item())
        assert count == 4
        difference = (ends[0] - ends[1]) / 2e-5
        assert abs(dot(gradient, direction) - difference) < 1e-6 * max(1, abs(difference))


def test_no_optimizer_sees_them(tmp_path) -> None:
    module, _ = grab(tmp_path)
    plain = MixtureModule(small_network(WIDTH), predict_last, sgd)
    quiet_trainer(tmp_path, max_steps=1).fit(plain, make_data(epoch_batches=1))
    for mine, theirs in zip(module.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, theirs)
