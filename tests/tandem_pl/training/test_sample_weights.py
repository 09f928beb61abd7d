"""Weights of samples by loss: the equation in NumPy, limits, and two ranks as one."""

import numpy as np
import pytest
import torch
from helpers import Recorder, Rows, parameters_of, predict_last, small_network
from hypothesis import given
from hypothesis import strategies as st
from module_helpers import WIDTH, adamw, fit, make_data, make_reweighting, sgd
from torch import nn
from torch.utils.data import Dataset

from tandem_pl import MixtureModule, TandemModule
from tandem_pl.datamodules import MixtureDataModule
from tandem_pl.errors import InputError
from tandem_pl.objectives import CausalLanguageModeling
from tandem_pl.training.sample_weights import STRATEGIES, LossBasedWeights, sample_weights

SHAPES = {
    "linupper": lambda h: np.minimum(h + 1, 1),
    "quadratic": lambda h: 1 - h**2,
    "extremes": lambda h: abs(h),
}


def by_the_paper(losses, strategy, r) -> np.ndarray:
    """Section 3 with delta = 1: weights that sum to 1."""
    low, high = losses.min(), losses.max()
    spread = max(high - low, 1e-6)
    h = 2 * losses / spread - (high + low) / spread
    f = SHAPES[strategy](h)
    raw = np.exp((f - f.max()) / r)
    return raw / raw.sum()


losses_of = st.lists(st.floats(0, 20), min_size=1, max_size=16)


@given(losses_of, st.sampled_from(sorted(STRATEGIES)), st.floats(0.05, 10))
def test_the_weights_are_the_papers(losses, strategy, r) -> None:
    array = np.array(losses)
    mine = sample_weights(torch.tensor(losses, dtype=torch.float64), strategy, r).numpy()
    np.testing.assert_allclose(mine / len(losses), by_the_paper(array, strategy, r), rtol=1e-7)
    assert mine.mean() == pytest.approx(1)


def test_what_each_strategy_favours() -> None:
    losses = torch.tensor([0.0, 2.0, 2.5, 4.0])
    upper, middle, ends = (
        sample_weights(losses, name, 0.5) for name in ("linupper", "quadratic", "extremes")
    )
    assert upper[0] < upper[1] == upper[2] == upper[3]
    assert middle[1] > middle[2] > middle[0]
    assert middle[0] == middle[3] == middle.min()
    assert ends[0] == ends[3] == ends.max()


def test_limits() -> None:
    losses = torch.tensor([1.0, 2.0, 5.0])
    torch.testing.assert_close(sample_weights(losses, "linupper", 1e9), torch.ones(3).double())
    assert sample_weights(torch.full((4,), 3.0)).tolist() == [1.0] * 4
    assert sample_weights(torch.tensor([1.0, torch.nan])).tolist() == [1.0, 1.0]
    cold = sample_weights(losses, "quadratic", 1e-3)
    assert cold.tolist() == pytest.approx([0, 3, 0])


def test_no_gradient_goes_through_the_weights() -> None:
    losses = torch.tensor([1.0, 2.0, 5.0], requires_grad=True)
    weights = LossBasedWeights(burn_in=0)(losses, 0)
    assert not weights.requires_grad
    (weights * losses).sum().backward()
    torch.testing.assert_close(losses.grad, weights)


def test_burn_in_ends_at_its_step() -> None:
    rule, losses = LossBasedWeights(burn_in=5), torch.tensor([1.0, 2.0])
    assert rule(losses, 4).tolist() == [1.0, 1.0]
    assert rule(losses, 5)[0] < 1.0
    assert rule(losses, 5).dtype == losses.dtype


def test_two_ranks_weigh_as_one(monkeypatch) -> None:
    whole = torch.tensor([0.5, 3.0, 1.0, 2.0])
    expected = LossBasedWeights(burn_in=0)(whole, 0)
    for rank, mine in enumerate(whole.split(2)):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        got = LossBasedWeights(burn_in=0)(mine, 0, lambda losses: torch.stack(whole.split(2)))
        torch.testing.assert_close(got, expected[2 * rank : 2 * rank + 2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": "lower"}, "strategy='lower' must be one of"),
        ({"temperature": 0.0}, "temperature=0.0 must be a positive number"),
        ({"temperature": float("nan")}, "temperature=nan must be"),
        ({"per": "word"}, "per='word' must be one of 'sample', 'token'"),
        ({"burn_in": -1}, "burn_in=-1 must be 0 or more"),
        ({"burn_in": float("nan")}, "burn_in=nan must be"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message) -> None:
    with pytest.raises(InputError, match=message):
        LossBasedWeights(**settings)


# ---- in training ----


def trained(folder, rule, ours=MixtureModule, **options):
    module = ours(small_network(WIDTH), predict_last, adamw, sample_weights=rule, **options)
    callbacks = [make_reweighting()] if ours is TandemModule else []
    fit(folder, module, make_data(epoch_batches=4), *callbacks, max_steps=6)
    return module


@pytest.mark.parametrize("ours", [MixtureModule, TandemModule])
def test_burn_in_is_plain_training(tmp_path, ours):
    plain = trained(tmp_path, None, ours)
    waiting = trained(tmp_path, LossBasedWeights(burn_in=99), ours)
    weighted = trained(tmp_path, LossBasedWeights(burn_in=0), ours)
    assert torch.equal(parameters_of(plain), parameters_of(waiting))
    assert not torch.equal(parameters_of(plain), parameters_of(weighted))


@pytest.mark.parametrize("ours", [MixtureModule, TandemModule])
def test_micro_batches_weigh_as_whole_batches(tmp_path, ours):
    rule = LossBasedWeights("extremes", 0.5, burn_in=2)
    whole = trained(tmp_path, rule, ours)
    parts = trained(tmp_path, rule, ours, micro_batch_size=3)
    torch.testing.assert_close(parameters_of(parts), parameters_of(whole), rtol=0, atol=1e-12)


def test_a_step_is_on_the_weighted_mean(tmp_path):
    rule = LossBasedWeights("quadratic", 0.4, burn_in=0)
    module = MixtureModule(small_network(WIDTH), predict_last, sgd, sample_weights=rule)
    recorder, by_hand = Recorder(), small_network(WIDTH)
    fit(tmp_path, module, make_data(epoch_batches=1), recorder, max_steps=1)
    losses = predict_last(by_hand, recorder.batches[0].samples)
    weights = sample_weights(losses, "quadratic", 0.4)
    optimizer = sgd(by_hand.parameters())
    (losses * weights).mean().backward()
    optimizer.step()
    torch.testing.assert_close(parameters_of(module.network), parameters_of(by_hand))


def test_both_twins_weigh_by_the_proxys_losses(tmp_path):
    """So a reference whose target pulls nowhere stays the proxy's equal."""

    def no_pull(network, samples):
        mine = predict_last(network, samples)
        return torch.where(samples[:, 0] == 7.0, 0.0 * mine, mine)

    target = {"t": Rows(torch.full((30, WIDTH), 7.0, dtype=torch.float64))}
    rule = LossBasedWeights("extremes", 0.3, burn_in=0)
    module = TandemModule(small_network(WIDTH), no_pull, sgd, sample_weights=rule)
    fit(tmp_path, module, make_data(target=target), make_reweighting(0, 4), max_steps=4)
    assert torch.equal(parameters_of(module.network), parameters_of(module.reference))


# ---- shares of tokens, as the authors weigh ----

LENGTH, VOCABULARY = 6, 5


class Bigrams(nn.Module):
    """The next token by the last one, from a table."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.table = nn.Embedding(VOCABULARY, VOCABULARY, dtype=torch.float64)

    def forward(self, input_ids, attention_mask=None):
        return self.table(input_ids)


class Texts(Dataset):
    """Samples of 1 to 5 labelled tokens: some tokens are prompts, others padding."""

    def __init__(self, seed: int, size: int = 12) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.tokens = torch.randint(VOCABULARY, (size, LENGTH), generator=generator)
        prompts = torch.randint(1, 4, (size, 1), generator=generator)
        lengths = torch.randint(4, LENGTH + 1, (size, 1), generator=generator)
        places = torch.arange(LENGTH)[None]
        self.labels = self.tokens.masked_fill(places < prompts, -100)
        self.mask = (places < lengths).long()

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index):
        part = self.tokens[index], self.labels[index], self.mask[index]
        return dict(zip(("input_ids", "labels", "attention_mask"), part, strict=True))


def in_words(samples):
    """Each sample's labelled next tokens: [(last, next), ...]."""
    found = []
    for row, labels, mask in zip(*(v.tolist() for v in samples.values()), strict=True):
        pairs = zip(row[:-1], labels[1:], mask[1:], strict=True)
        found.append([(last, label) for last, label, seen in pairs if seen and label != -100])
    return found


def token_trained(folder, rule, **options):
    network = Bigrams()
    module = MixtureModule(network, CausalLanguageModeling(), sgd, sample_weights=rule, **options)
    data = MixtureDataModule({"a": Texts(0), "b": Texts(1)}, batch_size=8, epoch_batches=1)
    recorder = Recorder()
    fit(folder, module, data, recorder, max_steps=1)
    return module.network.table.weight, recorder.batches[0].samples


def by_the_authors(table, samples, rule, burning):
    """N sum_i w_i l_i n_i / sum n, with w that sum to 1; they are equal in the burn-in."""
    words = in_words(samples)
    logs = table.log_softmax(dim=1)
    losses = torch.stack([-sum(logs[pair] for pair in pairs) / len(pairs) for pairs in words])
    counts = torch.tensor([len(pairs) for pairs in words])
    weights = torch.full((len(words),), 1 / len(words), dtype=torch.float64)
    if not burning:
        found = by_the_paper(losses.detach().numpy(), rule.strategy, rule.temperature)
        weights = torch.from_numpy(found)
    return (weights * counts / counts.sum() * losses).sum() * len(words), counts


@pytest.mark.parametrize("burn_in", [0, 9])
@pytest.mark.parametrize("micro", [None, 3])
def test_a_step_weighs_by_the_share_of_tokens(burn_in, micro, tmp_path) -> None:
    rule = LossBasedWeights("extremes", 0.5, burn_in, per="token")
    after, samples = token_trained(tmp_path, rule, micro_batch_size=micro)
    by_hand = Bigrams()
    loss, counts = by_the_authors(by_hand.table.weight, samples, rule, burn_in > 0)
    assert len(set(counts.tolist())) > 2
    assert torch.equal(CausalLanguageModeling().token_counts(samples), counts)
    optimizer = sgd(by_hand.parameters())
    loss.backward()
    optimizer.step()
    torch.testing.assert_close(after, by_hand.table.weight, rtol=0, atol=1e-12)
    plain, _ = token_trained(tmp_path, LossBasedWeights("extremes", 0.5, burn_in))
    assert not torch.allclose(after, plain)


def test_in_the_burn_in_the_loss_is_the_mean_over_tokens() -> None:
    tokens, losses = torch.tensor([1, 3]), torch.tensor([4.0, 2.0])
    weights = LossBasedWeights(burn_in=9, per="token")(losses, 0, tokens=tokens)
    assert (weights * losses).mean() == pytest.approx((4.0 + 3 * 2.0) / 4)
    empty = LossBasedWeights(burn_in=9, per="token")(losses, 0, tokens=torch.zeros(2).long())
    assert empty.tolist() == [0.0, 0.0]


def test_samples_of_one_length_weigh_the_same_by_token() -> None:
    losses, tokens = torch.tensor([0.5, 3.0, 1.0]), torch.tensor([7, 7, 7])
    mine = LossBasedWeights(burn_in=0)(losses, 0)
    by_token = LossBasedWeights(burn_in=0, per="token")(losses, 0, tokens=tokens)
    torch.testing.assert_close(by_token, mine)


def test_two_ranks_weigh_tokens_as_one(monkeypatch) -> None:
    losses, tokens = torch.tensor([0.5, 3.0, 1.0, 2.0]), torch.tensor([1, 2, 3, 9])
    rule = LossBasedWeights(burn_in=0, per="token")
    expected = rule(losses, 0, tokens=tokens)
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)

        def gather(part, rank=rank):
            whole = losses if part.is_floating_point() else tokens
            assert torch.equal(part, whole[2 * rank : 2 * rank + 2])
            return torch.stack(whole.split(2))

        mine = slice(2 * rank, 2 * rank + 2)
        got = rule(losses[mine], 0, gather, tokens[mine])
        torch.testing.assert_close(got, expected[mine])


def test_an_objective_that_counts_no_tokens_is_refused() -> None:
    rule = LossBasedWeights(per="token")
    with pytest.raises(InputError, match=r"per='token' of sample_weights needs .*token_counts"):
        MixtureModule(small_network(WIDTH), predict_last, adamw, sample_weights=rule)
